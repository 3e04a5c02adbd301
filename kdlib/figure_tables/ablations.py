"""What happens when one thing is changed: a method's weight, a switch of the DCT loss."""

import json
from dataclasses import fields
from typing import Any

import pandas as pd

from kdlib.comparisons import paired_comparison
from kdlib.distillers import METHODS, parse_method, tuned_field
from kdlib.distillers.spectral import DCT, PRESETS
from kdlib.figure_tables.common import students_of
from kdlib.losses.dct import SpectralOptions, options_from
from kdlib.run_table import method_order
from kdlib.runs import RunConfig

ACCURACIES = ["top1", "top5", "mca"]
SEVERAL = "several"
OPTIONS = [option.name for option in fields(SpectralOptions)]


def weight_ablation(table: pd.DataFrame) -> pd.DataFrame:
    """DCT by its weight, on the dev split: top-1, top-5 and mean class accuracy.

    Columns as of :func:`weight_sensitivity`, of the methods ``dct`` and ``student``.
    """
    grid = weight_sensitivity(table)
    if grid.empty or "dct" not in set(grid["method"]):
        return pd.DataFrame()
    return grid[grid["method"].isin(("student", "dct"))].reset_index(drop=True)


def weight_sensitivity(table: pd.DataFrame) -> pd.DataFrame:
    """Every method by its weight, on the dev split: means over the seeds of the grid.

    Columns: ``method``, ``weight`` (of KD itself: that of its term), ``factor`` of the method's
    default weight, ``top1``, ``top5``, ``mca``, ``n``. The student alone has no weight;
    other methods without one, such as SRM alone, are left out. Empty where no method has two.
    """
    runs = students_of(table)
    runs = runs[runs["split"] == "dev"].assign(tuned=_tuned)
    runs = runs[runs["tuned"].notna() | (runs["method"] == "student")]
    rows = [
        {"method": method, "weight": weight, "factor": weight / _default(str(method)),
         **own[ACCURACIES].mean(), "n": len(own)}
        for (method, weight), own in runs.groupby(["method", "tuned"], dropna=False)
    ]  # fmt: skip
    grid = pd.DataFrame(rows)
    if grid.empty or grid.groupby("method").size().max() < 2:
        return pd.DataFrame()
    order = {method: method_order(str(method)) for method in set(grid["method"])}
    ranked = sorted(order, key=lambda method: order[method])
    place = grid["method"].map(ranked.index)
    return grid.assign(place=place).sort_values(["place", "factor"]).drop(columns="place")


def transform_ablation(table: pd.DataFrame) -> pd.DataFrame:
    """Each switch of the DCT loss turned: difference in top-1 to ``dct``, paired over seeds.

    What a method changes is read from its preset, or from the options of a run of
    ``dct_options``, and never from its name.

    Columns: ``switch`` (the option, ``level_weights``, ``gate``, or ``several``), ``value``,
    ``label``, and those of :class:`kdlib.comparisons.Comparison`; ``dct`` itself is the baseline.
    """
    runs = students_of(table)
    runs = runs[runs["split"] == "train"]
    if "dct" not in set(runs["label"]):
        return pd.DataFrame()
    rows = []
    for label, own in runs.groupby("label"):
        changed = _changed(own.iloc[0].to_dict())
        if changed:
            switch = next(iter(changed)) if len(changed) == 1 else SEVERAL
            value = ", ".join(changed.values()) if switch != SEVERAL else ""
            found = vars(paired_comparison(runs, str(label), "dct"))
            rows.append({"switch": switch, "value": value, "label": label, **found})
    found = pd.DataFrame(rows)
    if found.empty or not (found["n"] > 0).any():
        return pd.DataFrame()
    found = found[found["n"] > 0]
    place = found["switch"].map([*OPTIONS, "level_weights", "gate", SEVERAL].index)
    return found.assign(place=place).sort_values(["place", "difference"]).drop(columns="place")


def _tuned(runs: pd.DataFrame) -> pd.Series:
    """The weight that a tuning grid varies: that of KD's term for ``kd``."""
    fields = runs["method"].map(tuned_field)
    weights = runs["weight"].astype(float)
    weights = weights.where(fields != "kd_weight", runs["kd_weight"].astype(float))
    return weights.where(fields.notna(), float("nan"))


def _default(method: str) -> float:
    if tuned_field(method) == "kd_weight":
        return RunConfig().kd_weight
    return METHODS[parse_method(method).base].weight or float("nan")


def _changed(row: dict[str, Any]) -> dict[str, str]:
    """How a run's loss differs from ``dct``, by switch; empty if it is not one of the family."""
    parts = parse_method(row["method"])
    given = json.loads(row["method_options"])
    if parts.kd or parts.base not in (*PRESETS, "dct_options"):
        return {}
    levels = given.pop("level_weights", "equal_weight")
    options = options_from(PRESETS.get(parts.base, DCT), **given)
    changed = {
        name: _as_text(name, getattr(options, name))
        for name in OPTIONS
        if getattr(options, name) != getattr(DCT, name)
    }
    if levels != "equal_weight":
        changed["level_weights"] = _as_text("level_weights", levels)
    return {**changed, "gate": "on"} if parts.gate else changed


def _as_text(name: str, value: Any) -> str:
    if isinstance(value, list | tuple):
        return " ".join(str(one) for one in value)
    return {True: "yes", False: "no"}.get(value, str(value)) if name == "drop_dc" else str(value)
