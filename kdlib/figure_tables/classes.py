"""Which classes gain by a method, and which lose."""

from pathlib import Path

import pandas as pd

from kdlib.comparisons import t_interval
from kdlib.data.outfits import OUTFITS
from kdlib.data.scene_classes import SCENE_CLASSES
from kdlib.figure_tables.common import students_of
from kdlib.runs import read_record

CHANGES = (("dct", "student"), ("dct", "at"))
# Of data sets that are composed here; of others the records hold numbers alone.
NAMES = {"scenes": tuple(SCENE_CLASSES), "fashion_scenes": tuple(OUTFITS)}
SEEDS = ["data_seed", "init_seed"]


def class_changes(table: pd.DataFrame) -> pd.DataFrame:
    """Difference in accuracy of each class, paired over seeds: DCT less student, DCT less AT.

    Columns: ``class``, ``method``, ``baseline``, ``difference``, ``low``, ``high`` (95 %
    interval), ``n``; classes in ascending order of DCT less student. Classes without test images
    are left out. Empty with fewer than two seeds.
    """
    students = students_of(table)
    rows = []
    for method, baseline in CHANGES:
        pair = [_per_class(students[students["label"] == one]) for one in (method, baseline)]
        if all(map(len, pair)):
            differences = (pair[0] - pair[1]).dropna(how="all")
            rows += _changes(differences, method, baseline)
    changes = pd.DataFrame(rows)
    if changes.empty or changes["n"].max() < 2:
        return pd.DataFrame()
    first = changes[changes["baseline"] == changes["baseline"].iloc[0]]
    order = list(first.sort_values("difference", kind="stable")["class"])
    return changes.sort_values(
        "class", key=lambda names: names.map(order.index), kind="stable"
    ).reset_index(drop=True)


def class_names(dataset: str, count: int) -> tuple[str, ...]:
    """Names of a data set's classes; ``class 1`` and so on where the records have no names."""
    numbered = tuple(f"class {number}" for number in range(1, count + 1))
    known = NAMES.get(dataset, numbered)
    return known if len(known) == count else numbered


def _per_class(runs: pd.DataFrame) -> pd.DataFrame:
    """Accuracies: a row a seed, a column a class."""
    found = {}
    for row in runs.to_dict("records"):
        record = read_record(Path(row["directory"]) / "record.json")
        shares = record["results"]["per_class"]
        named = zip(class_names(row["dataset"], len(shares)), shares, strict=True)
        found[tuple(row[name] for name in SEEDS)] = dict(named)
    return pd.DataFrame.from_dict(found, orient="index", dtype=float)


def _changes(differences: pd.DataFrame, method: str, baseline: str) -> list[dict[str, object]]:
    rows = []
    for name, column in differences.items():
        values = column.dropna().to_numpy(float)
        if len(values):
            low, high = t_interval(values)
            identity = {"class": name, "method": method, "baseline": baseline}
            found = {"difference": values.mean(), "low": low, "high": high, "n": len(values)}
            rows.append({**identity, **found})
    return rows
