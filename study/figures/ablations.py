"""What happens when one thing is changed: a method's weight, a switch of the DCT loss."""

import json
from dataclasses import fields
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdlib.losses.dct import DCT, PRESETS, SpectralOptions, options_from
from kdlib.methods import METHODS, parse_method, tuned_field
from kdlib.runs import RunConfig
from study.figures.comparison import students_of
from study.figures.style import (
    COLUMN,
    NEUTRAL,
    PAGE,
    dot,
    entry,
    figure_style,
    look,
    name_of,
    named_rows,
    new_figure,
    no_difference,
    rows_height,
    seeds_text,
    shown,
)
from study.names import method_order
from study.statistics import paired_comparison, smallest_effect

# What happens when one thing is changed: a method's weight, a switch of the DCT loss.
ACCURACIES = ["top1", "top5", "mca"]
SEVERAL = "several"
OPTIONS = [option.name for option in fields(SpectralOptions)]


def weight_ablation_table(table: pd.DataFrame) -> pd.DataFrame:
    """DCT by its weight, on the dev split: top-1, top-5 and mean class accuracy.

    Columns as of :func:`weight_sensitivity`, of the methods ``dct`` and ``student``.
    """
    grid = weight_sensitivity_table(table)
    if grid.empty or "dct" not in set(grid["method"]):
        return pd.DataFrame()
    return grid[grid["method"].isin(("student", "dct"))].reset_index(drop=True)


def weight_sensitivity_table(table: pd.DataFrame) -> pd.DataFrame:
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


def transform_ablation_table(table: pd.DataFrame) -> pd.DataFrame:
    """Each switch of the DCT loss turned: difference in top-1 to ``dct``, paired over seeds.

    What a method changes is read from its preset, or from the options of a run of
    ``dct_options``, and never from its name.

    Columns: ``switch`` (the option, ``level_weights``, ``gate``, or ``several``), ``value``,
    ``label``, and those of :class:`study.statistics.Comparison`; ``dct`` itself is the baseline.
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


METRICS = {"top1": "top-1 (%)", "top5": "top-5 (%)", "mca": "class mean (%)"}
ACROSS = 5  # panels in a row of the sensitivities
SWITCHES = {
    "transform": "transform", "normalise": "normaliser", "normalise_when": "normalised",
    "drop_dc": "DC dropped", "distance": "distance", "band": "band", "level_weights": "levels",
    "gate": "gate",
}  # fmt: skip


@figure_style()
def weight_ablation(table: pd.DataFrame) -> Figure:
    """DCT by its weight on the dev split, a panel a metric; dashed: the student alone."""
    data = shown(weight_ablation_table(table))
    figure, panels = new_figure(PAGE, 2.1, columns=len(METRICS))
    for axes, (metric, title) in zip(panels, METRICS.items(), strict=True):
        _weight_curve(axes, data, "dct", metric)
        _plain(axes, data, metric)
        axes.set(xscale="log", title=title, xlabel="weight / default")
    panels[0].set_ylabel("accuracy on the dev split")
    return figure


@figure_style()
def weight_sensitivity(table: pd.DataFrame) -> Figure:
    """Every method by its weight on the dev split, alone (filled) and with KD added (open)."""
    data = shown(weight_sensitivity_table(table))
    bases = list(dict.fromkeys(parse_method(one).base for one in _taught(data)))
    bases = sorted(bases, key=method_order)
    across = min(ACROSS, len(bases))
    rows = -(-len(bases) // across)
    figure, panels = new_figure(PAGE, 0.95 + 1.15 * rows, across, rows, sharex=True, sharey=True)
    for axes, base in zip(panels, bases, strict=False):
        for method in (base, f"{base}+kd"):
            _weight_curve(axes, data, method, "top1")
        _plain(axes, data, "top1")
        axes.set_title(name_of(base), pad=3)
        axes.set_xscale("log")
    for axes in panels[len(bases) :]:
        axes.set_axis_off()
    for axes in panels[max(0, len(bases) - across) : len(bases)]:
        axes.tick_params(labelbottom=True)  # the lowest of each column, which sharing may hide
    figure.legend(handles=_legend_of_grid(data), loc="outside upper center", ncols=3)
    figure.supxlabel("weight / default weight of the method", fontsize=8)
    figure.supylabel("top-1 on the dev split (%)", fontsize=8)
    return figure


@figure_style()
def transform_ablation(table: pd.DataFrame) -> Figure:
    """Each switch of the DCT loss turned: difference to ``dct`` with 95 % interval."""
    data = shown(transform_ablation_table(table))[::-1]
    figure, (axes,) = new_figure(COLUMN, 0.75 + rows_height(len(data)))
    no_difference(axes, 100 * smallest_effect("top1"))
    for row, one in enumerate(data.to_dict("records")):
        values = pd.Series(one)[["difference", "low", "high"]].astype(float)
        dot(axes, one["label"], 100 * values, row)
    named_rows(axes, _switch_names(data))
    axes.set_xlabel(f"top-1 less DCT (points)\n95 % intervals, {seeds_text(data)}")
    return figure


def _legend_of_grid(data: pd.DataFrame) -> list[Line2D]:
    """What filled, open and dashed mean, as far as the grid has them."""
    taught = _taught(data)
    markers: dict[str, tuple[bool, dict[str, Any]]] = {
        "alone": (any("+kd" not in one for one in taught), {"marker": "o"}),
        "with KD": (any("+kd" in one for one in taught), {"marker": "o", "mfc": "white"}),
        "student alone": ("student" in set(data["method"]), {"ls": "--"}),
    }
    return [
        Line2D([], [], c=NEUTRAL, label=name, **style)
        for name, (there, style) in markers.items()
        if there
    ]


def _switch_names(data: pd.DataFrame) -> list[str]:
    """Such as ``distance: l1``; a method's name where it turns several switches."""
    names = [
        f"{SWITCHES[switch]}: {value}" if switch in SWITCHES else name_of(label)
        for switch, value, label in data[["switch", "value", "label"]].to_numpy()
    ]
    labels = list(data["label"])
    return [
        f"{name} ({name_of(label)})" if names.count(name) > 1 else name
        for name, label in zip(names, labels, strict=True)
    ]


def _taught(data: pd.DataFrame) -> list[str]:
    return [method for method in dict.fromkeys(data["method"]) if method != "student"]


def _weight_curve(axes: Axes, data: pd.DataFrame, method: str, metric: str) -> None:
    own, style = data[data["method"] == method], look(method)
    axes.plot(
        own["factor"], 100 * own[metric], style.line, c=style.colour, marker=style.marker,
        mfc=style.face, label=entry(method).get_label(),
    )  # fmt: skip


def _plain(axes: Axes, data: pd.DataFrame, metric: str) -> None:
    """The student alone, which has no weight."""
    for value in data.loc[data["method"] == "student", metric]:
        axes.axhline(100 * value, color=NEUTRAL, ls="--", lw=0.9)
