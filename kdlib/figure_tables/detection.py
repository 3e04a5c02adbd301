"""Detectors that a classifier of crops teaches: what they gain, and which errors they lose."""

import json
from collections.abc import Iterator
from typing import Any

import pandas as pd

from kdlib.comparisons import Comparison, paired_comparison
from kdlib.detection.claims import METHODS, STUDENT, main_runs
from kdlib.distillers import METHODS as REGISTRY
from kdlib.figure_tables.common import students_of, with_interval
from kdlib.run_table import ERRORS, IOUS, student_settings

METRICS = ("map", "map50", "map75")
TYPES = tuple(name for name in ERRORS if not name.startswith("false_"))
"""TIDE's types, each error in one of them; ``false_pos`` and ``false_neg`` overlap with them."""
OF_RUN = ("weight", "crop_size", "teacher", "teacher_epochs")
"""Fields of a run that are choices of its method, beside the method's own options."""


def detection_gain(table: pd.DataFrame) -> pd.DataFrame:
    """Gains of each method over the detector alone, paired over seeds.

    Columns: ``label``, and those of :class:`kdlib.comparisons.Comparison`, ``metric`` being one
    of ``METRICS``. Empty without the detector alone, or without a method.
    """
    rows = [
        {"label": label, **vars(found)}
        for label, metric, found in _over_student(table, METRICS)
        if found.n
    ]
    return pd.DataFrame(rows)


def detection_iou(table: pd.DataFrame) -> pd.DataFrame:
    """As :func:`detection_gain`, in the AP at each IoU from which a detection is right.

    Columns besides: ``iou``, a fraction.
    """
    columns = {f"ap{percent}": percent / 100 for percent in IOUS}
    rows = [
        {"label": label, "iou": columns[metric], **vars(found)}
        for label, metric, found in _over_student(table, tuple(columns))
        if found.n
    ]
    return pd.DataFrame(rows)


def error_types(table: pd.DataFrame) -> pd.DataFrame:
    """What errors of each of TIDE's types cost, in AP50, with each method; less is better.

    Columns: ``error``, one of ``TYPES``; ``label``, ``init_seed``, ``dap`` of a run; ``mean``,
    ``low``, ``high``, ``n`` of its method. Empty where a single method was run.
    """
    runs = main_runs(_detectors(table))
    if runs.empty or runs["label"].nunique() < 2:
        return pd.DataFrame()
    columns = {f"dap_{name}": name for name in TYPES}
    kept = runs[["label", "init_seed", *columns]].rename(columns=columns)
    long = kept.melt(["label", "init_seed"], list(TYPES), "error", "dap")
    return long.merge(with_interval(long, ["error", "label"], "dap"), on=["error", "label"])


def detection_ablations(table: pd.DataFrame) -> pd.DataFrame:
    """One choice of a method changed at a time: difference in mAP to the method as compared.

    Runs may be of several students. Columns: ``student``, ``switch`` (an option of the method, or
    one of ``OF_RUN``), ``value``, ``used`` (of the method as compared, whose difference is 0), and
    those of :class:`kdlib.comparisons.Comparison`. Runs that differ in several choices are left
    out, and seeds that the method as compared does not have.
    """
    rows: list[dict[str, Any]] = []
    compared = student_settings(table) if _has_detectors(table) else []
    sizes = table["setting"].value_counts()
    for setting in sorted(compared, key=lambda one: -sizes[one]):  # the main student first
        runs = table[(table["setting"] == setting) & (table["split"] == "train")]
        mains = main_runs(runs)
        for method in sorted(set(runs["method"]) & set(METHODS), key=METHODS.index):
            own = runs[runs["method"] == method]
            rows += _switched(own, own["run_id"].isin(mains["run_id"]))
    return pd.DataFrame(rows)


def detection_weights(table: pd.DataFrame) -> pd.DataFrame:
    """MAP by the weight of each method's terms, on the dev split: means over the grid's seeds.

    Columns: ``method``, ``weight``, ``factor`` of the method's default weight, ``map``, ``n``; the
    detector alone has no weight. Empty where no method has two.
    """
    runs = _detectors(table)
    if runs.empty:
        return pd.DataFrame()
    runs = runs[runs["split"] == "dev"]
    defaults = {method: REGISTRY[method].weight for method in METHODS}
    weights = runs["weight"].astype(float).fillna(runs["method"].map(defaults))
    groups = runs.assign(weight=weights).groupby(
        ["method", "method_options", "weight"], dropna=False
    )
    found = groups["map"].agg(["mean", "size"]).reset_index()
    found = found.rename(columns={"mean": "map", "size": "n"})
    several = found.groupby(["method", "method_options"])["weight"].transform("nunique") > 1
    if not several.any():
        return pd.DataFrame()
    found = found[several | (found["method"] == STUDENT)].drop(columns="method_options")
    return found.assign(factor=found["weight"] / found["method"].map(defaults))


def _over_student(table: pd.DataFrame, metrics: tuple[str, ...]) -> Iterator[tuple[str, str, Any]]:
    """Of each method and metric the comparison with the detector alone."""
    runs = _detectors(table)
    runs = main_runs(runs) if len(runs) else runs
    known = set(runs["label"]) if len(runs) else set()
    for label in METHODS if STUDENT in known else ():
        for metric in metrics if label in known else ():
            yield label, metric, paired_comparison(runs, label, STUDENT, metric)


def _detectors(table: pd.DataFrame) -> pd.DataFrame:
    """The students of the table's one setting; none of another task."""
    return students_of(table) if _has_detectors(table) else table.iloc[:0]


def _has_detectors(table: pd.DataFrame) -> bool:
    return len(table) > 0 and set(table["task"]) == {"detection"}


def _switched(own: pd.DataFrame, used: pd.Series) -> list[dict[str, Any]]:
    """Of a method's runs those that differ in one choice from the ones ``used`` (a mask)."""
    choices = pd.Series([_choices(row) for row in own.to_dict("records")], index=own.index)
    base, rows = json.loads(choices[used].iloc[0]), []
    for text in dict.fromkeys(choices[~used]):
        changed = {name: v for name, v in json.loads(text).items() if v != base.get(name)}
        if len(changed) == 1:
            found = _difference(own[choices == text], own[used])
            rows += [(*next(iter(changed.items())), False, found)] if found.n else []
    for switch in dict.fromkeys(row[0] for row in rows):
        rows.append((switch, base[switch], True, _difference(own[used], own[used])))
    first = own.iloc[0]
    identity = {"student": first["student"], "method": first["method"]}
    return [
        {**vars(found), **identity, "switch": switch, "value": _as_text(value), "used": main}
        for switch, value, main, found in sorted(rows, key=lambda row: (row[0], row[1]))
    ]


def _choices(row: dict[str, Any]) -> str:
    """All that a method can be given, its defaults filled in, as text."""
    method = REGISTRY[row["method"]]
    given = {name: row[name] for name in OF_RUN}
    weight = method.weight if pd.isna(row["weight"]) else row["weight"]
    options = {**method.options, **json.loads(row["method_options"])}
    return json.dumps({**given, "weight": weight, **options}, sort_keys=True)


def _difference(runs: pd.DataFrame, used: pd.DataFrame) -> Comparison:
    both = pd.concat([runs.assign(label="changed"), used.assign(label="used")])
    return paired_comparison(both, "changed", "used", "map")


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value) if isinstance(value, str) else f"{value:g}"
