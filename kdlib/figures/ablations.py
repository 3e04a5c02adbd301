"""What happens when one thing is changed: a method's weight, a switch of the DCT loss."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdlib import figure_tables
from kdlib.comparisons import smallest_effect
from kdlib.distillers import parse_method
from kdlib.figures.drawing import (
    dot,
    entry,
    named_rows,
    new_figure,
    no_difference,
    rows_height,
    seeds_text,
    shown,
)
from kdlib.run_table import method_order
from kdlib.style import COLUMN, NEUTRAL, PAGE, figure_style, look, name_of

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
    data = shown(figure_tables.weight_ablation(table))
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
    data = shown(figure_tables.weight_sensitivity(table))
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
    data = shown(figure_tables.transform_ablation(table))[::-1]
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
