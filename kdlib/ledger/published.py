"""The published numbers, figures and traps, and what a number says of its method."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from kdlib.ledger.names import alpha_of

PUBLISHED = Path(__file__).parents[2] / "published"
CELL = ["paper", "dataset", "teacher", "student"]
DETECTORS = "classifier-to-detector"
REFERENCES = {"student": "of_student", "KD": "of_kd", "teacher": "of_teacher"}


def published_numbers() -> pd.DataFrame:
    """Every row of ``published.csv``, in its order, with what it says of its method.

    Added are ``printed``, the value with the digits that it was published with; in points,
    ``gain`` (over the student) and ``gain_kd`` (over KD) of the same cell and metric; ``share``,
    how much of the way from student to teacher the method goes (1 is all of it); and ``alpha``,
    of the points of the sweep. What the cell or the method lacks is missing.
    """
    table = pd.read_csv(PUBLISHED / "published.csv", dtype={"value": str})
    table = table.fillna({"teacher": "", "note": ""})
    table = table.assign(printed=table["value"], value=table["value"].astype(float))
    # What a detector alone reaches does not depend on who teaches it in another row.
    alone = table["teacher"].where(table["paper"] != DETECTORS, "")
    cells = table.assign(teacher=alone)
    table = table.join(
        cells[[*CELL, "metric"]].join(_references(cells), on=[*CELL, "metric"])[
            list(REFERENCES.values())
        ]
    )
    table["gain"] = table["value"] - table["of_student"]
    table["gain_kd"] = table["value"] - table["of_kd"]
    table["share"] = table["gain"] / (table["of_teacher"] - table["of_student"])
    table["alpha"] = [alpha_of(method) for method in table["method"]]
    own = table["method"].isin(["student", "teacher"])
    table.loc[own, ["gain", "gain_kd", "share"]] = float("nan")
    table.loc[table["method"] == "KD", "gain_kd"] = float("nan")
    return table


def _references(table: pd.DataFrame) -> pd.DataFrame:
    """Student, KD and teacher of each cell and metric, one column each."""
    rows = table[table["method"].isin(REFERENCES)]
    keys = [*CELL, "metric", "method"]
    wide = rows.drop_duplicates(keys).set_index(keys)["value"].unstack("method")
    return wide.rename(columns=REFERENCES)


def published_figures() -> pd.DataFrame:
    """Every figure of the paper: ``id``, ``shows``, ``panels``, ``source``, and ours."""
    return pd.read_csv(PUBLISHED / "figures.csv").fillna("")


def traps() -> pd.DataFrame:
    """Known differences from the published protocols; whom they concern, in the last columns."""
    return pd.read_csv(PUBLISHED / "traps.csv").fillna("")


def traps_of(row: Mapping[str, Any], known: pd.DataFrame) -> list[str]:
    """Ids of those of the ``known`` traps that concern a published number."""
    method = "DCT alpha" if alpha_of(row["method"]) is not None else row["method"]
    own = {
        "papers": row["paper"], "datasets": row["dataset"], "methods": method,
        "metrics": row["metric"],
    }  # fmt: skip
    return [
        trap["id"]
        for trap in known.to_dict("records")
        if all(not trap[name] or value in trap[name].split(";") for name, value in own.items())
    ]
