"""Detectors that a classifier of crops teaches: what they gain, and which errors they lose."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdlib import figure_tables
from kdlib.comparisons import smallest_effect
from kdlib.figures.drawing import (
    curve,
    dot,
    entry,
    methods_of,
    named_rows,
    new_figure,
    no_difference,
    rows_height,
    seeds_text,
    shown,
)
from kdlib.style import COLUMN, NEUTRAL, PAGE, figure_style, look, name_of

METRICS = {"map": "mAP", "map50": "AP at IoU 0.5", "map75": "AP at IoU 0.75"}
ERRORS = {
    "cls": "wrong class", "loc": "badly placed", "both": "both of these", "dupe": "found twice",
    "bkg": "nothing there", "miss": "not found",
}  # fmt: skip
SWITCHES = {
    "temperature": "temperature", "layers": "layers (-1: pixels)", "crop_size": "pixels of a crop",
    "sigmoid": "form for sigmoids", "weight": "weight", "teacher": "classifier",
    "teacher_epochs": "epochs of the classifier", "cls": "weight of KD_cls",
    "loc": "weight of KD_loc", "pixels": "largest value of pixels", "features": "factor of stages",
}  # fmt: skip
GROUP = ["student", "method", "switch"]
INDENT = "    "
WIDTH = 4.6  # inches: the names of choices need room


@figure_style()
def detection_gain(table: pd.DataFrame) -> Figure:
    """Gain of each method over the detector alone with 95 % interval, a panel a metric."""
    data = shown(figure_tables.detection_gain(table))
    labels = methods_of(data)[::-1]
    height = 0.75 + 1.2 * rows_height(len(labels))
    figure, panels = new_figure(PAGE, height, len(METRICS), sharex=True, sharey=True)
    for axes, (metric, title) in zip(panels, METRICS.items(), strict=True):
        no_difference(axes, 100 * smallest_effect(metric))
        own = data[data["metric"] == metric].set_index("label")
        for row, label in enumerate(labels):
            values = own.loc[label, ["difference", "low", "high"]].astype(float)
            dot(axes, label, 100 * values, row)
        axes.set_title(title)
        named_rows(axes, [name_of(label) for label in labels])
    figure.supxlabel(f"gain over the detector alone (points), {_seeds_of(data)}", fontsize=8)
    return figure


@figure_style()
def detection_iou(table: pd.DataFrame) -> Figure:
    """Gain of each method over the detector alone, by the IoU from which a detection is right."""
    data = shown(figure_tables.detection_iou(table)).rename(columns={"difference": "mean"})
    figure, (axes,) = new_figure(COLUMN, 2.7)
    axes.axhline(0, color=NEUTRAL, lw=0.8)
    for label in methods_of(data):
        curve(axes, label, data[data["label"] == label], "iou")
    axes.set(xlabel="IoU from which a detection is right", ylabel="gain in AP (points)")
    figure.legend(
        handles=[entry(label) for label in methods_of(data)], loc="outside upper center", ncols=2
    )
    return figure


@figure_style()
def error_types(table: pd.DataFrame) -> Figure:
    """What each type of error costs in AP50, by method: mean with 95 % interval, seeds as points.

    Each panel has a scale of its own, from 0.
    """
    data = shown(figure_tables.error_types(table))
    labels = methods_of(data)[::-1]
    height = 0.8 + 2 * (0.25 + rows_height(len(labels)))
    figure, panels = new_figure(PAGE, height, columns=3, rows=2, sharey=True)
    for axes, (error, title) in zip(panels, ERRORS.items(), strict=True):
        own = data[data["error"] == error]
        for row, label in enumerate(labels):
            runs = own[own["label"] == label]
            _seeds(axes, label, 100 * runs["dap"], row)
            dot(axes, label, 100 * runs.iloc[0][["mean", "low", "high"]].astype(float), row)
        axes.set_title(title)
        axes.set_xlim(left=0)
        named_rows(axes, [name_of(label) for label in labels])
    text = f"AP50 that a type of error costs (points; scales differ), {_seeds_of(data)}"
    figure.supxlabel(text, fontsize=8)
    return figure


@figure_style()
def detection_ablations(table: pd.DataFrame) -> Figure:
    """One choice of a method changed at a time: mAP less that of the method as compared.

    Filled: as compared; hollow: changed, with its 95 % interval where there are several seeds.
    """
    data = shown(figure_tables.detection_ablations(table))
    names, many = list[str](), data["student"].nunique() > 1
    figure, (axes,) = new_figure(WIDTH, 0.8 + rows_height(_lines(data)))
    no_difference(axes, 100 * smallest_effect("map"))
    top = _lines(data) - 1
    for (student, method, switch), rows in data.groupby(GROUP, sort=False):
        own = f"{name_of(method)}, {student.removeprefix('scenes_')}"
        whose = own if many else name_of(method)
        names.append(f"{whose}: {SWITCHES.get(switch, switch)}")
        for one in rows.to_dict("records"):
            _choice(axes, one, top - len(names))  # the rows go down, from the topmost
            names.append(f"{one['value']}{INDENT}")
    named_rows(axes, names[::-1])
    axes.set_xlabel(f"difference in mAP (points), {_seeds_of(data[~data['used']])}")
    return figure


@figure_style()
def detection_weights(table: pd.DataFrame) -> Figure:
    """MAP on the dev split by the weight of each method; dashed: the detector alone."""
    data = shown(figure_tables.detection_weights(table)).rename(columns={"method": "label"})
    figure, (axes,) = new_figure(COLUMN, 2.7)
    for value in data.loc[data["label"] == "student", "map"]:
        axes.axhline(100 * value, color=NEUTRAL, ls="--", lw=0.9)
    for label in _taught(data):
        own, style = data[data["label"] == label].sort_values("factor"), look(label)
        axes.plot(own["factor"], 100 * own["map"], "-", c=style.colour, marker=style.marker)
    axes.set(xscale="log", xlabel="weight / default weight", ylabel="mAP on the dev split (%)")
    alone = [Line2D([], [], c=NEUTRAL, ls="--", label="detector alone")]
    shows = alone if "student" in set(data["label"]) else []
    figure.legend(
        handles=[entry(label) for label in _taught(data)] + shows,
        loc="outside upper center", ncols=2,
    )  # fmt: skip
    return figure


def _taught(data: pd.DataFrame) -> list[str]:
    return [label for label in methods_of(data) if label != "student"]


def _seeds(axes: Axes, label: str, values: pd.Series, row: float) -> None:
    """The runs of a method, below its mean."""
    place = [row - 0.27] * len(values)
    axes.plot(values, place, "o", c=look(label).colour, ms=2, alpha=0.6, mew=0)


def _choice(axes: Axes, one: dict, row: float) -> None:
    """A choice's difference; the one that is used lies at 0, and has no interval."""
    style, mean = look(one["method"]), 100 * one["difference"]
    if not one["used"] and one["n"] > 1:
        axes.plot([100 * one["low"], 100 * one["high"]], [row, row], c=style.colour, lw=1.2)
    face = style.colour if one["used"] else "white"
    axes.plot(mean, row, style.marker, c=style.colour, mfc=face, ms=4.5)


def _lines(data: pd.DataFrame) -> int:
    """Rows of the figure: one a choice, and one above each group."""
    return len(data) + len(data[GROUP].drop_duplicates())


def _seeds_of(data: pd.DataFrame) -> str:
    """Of how many seeds means and their intervals are; of one there is no interval."""
    alone = (data["n"] == 1).all()
    return "one seed" if alone else f"95 % intervals of {seeds_text(data)}"
