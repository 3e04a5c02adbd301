"""How far a network can be trusted: its confidence, and its answers to harmed images."""

from collections.abc import Sequence

import pandas as pd

from kdlib.analyses.batch import KEY_METHODS
from kdlib.analyses.files import FILE, analyses_of
from kdlib.figure_tables.common import with_interval, with_teacher_label


def calibration(table: pd.DataFrame, methods: Sequence[str] = KEY_METHODS) -> pd.DataFrame:
    """A row a method and bin of confidence, the test images of all its seeds together.

    Columns: ``label``, ``bin`` (1 to 15), ``count``, ``confidence`` and ``accuracy`` (means; bins
    without images are left out); ``ece``, the mean over seeds of the expected calibration error,
    with its 95 % interval ``low``, ``high`` and ``n``.
    """
    rows = [
        {"label": row["label"], "seed": row["init_seed"], "ece": found["ece"], "bin": number,
         "count": count, "sure": count * (confidence or 0), "right": count * (accuracy or 0)}
        for row, analysis in analyses_of(with_teacher_label(table, methods, FILE))
        for found in [analysis["calibration"]]
        for number, (count, confidence, accuracy) in enumerate(
            zip(found["count"], found["confidence"], found["accuracy"], strict=True), 1
        )
    ]  # fmt: skip
    if not rows:
        return pd.DataFrame()
    bins = pd.DataFrame(rows)
    errors = with_interval(bins[bins["bin"] == 1], ["label"], "ece").rename(columns={"mean": "ece"})
    pooled = bins.groupby(["label", "bin"], as_index=False)[["count", "sure", "right"]].sum()
    pooled = pooled[pooled["count"] > 0]
    means = {"confidence": "sure", "accuracy": "right"}
    pooled = pooled.assign(**{name: pooled[sums] / pooled["count"] for name, sums in means.items()})
    return pooled.drop(columns=["sure", "right"]).merge(errors, on="label")


def robustness(table: pd.DataFrame, methods: Sequence[str] = KEY_METHODS) -> pd.DataFrame:
    """Top-1 at each level of each corruption, 0 being whole images.

    Columns: ``corruption``, ``label``, ``level``, ``mean``, ``low``, ``high`` (95 % interval over
    seeds), ``n``.
    """
    rows = [
        {"corruption": name, "label": row["label"], "level": level, "top1": top1}
        for row, analysis in analyses_of(with_teacher_label(table, methods, FILE))
        for name, found in analysis["robustness"].items()
        for level, top1 in zip(found["level"], found["top1"], strict=True)
    ]
    keys = ["corruption", "label", "level"]
    return with_interval(pd.DataFrame(rows), keys, "top1") if rows else pd.DataFrame()
