"""What a method gains, and what it costs."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from kdlib import figure_tables
from kdlib.figures.drawing import legend, methods_of, new_figure, shown
from kdlib.style import NEUTRAL, PAGE, figure_style, look, name_of

# Some methods double a step's cost, most add a few percent: beyond LINEAR percent the axis is
# logarithmic where costs reach WIDE.
LINEAR, WIDE = 10, 50
AXES = {"time": "time of a step over its floor (%)", "memory": "peak memory over its floor (%)"}


@figure_style()
def accuracy_cost(table: pd.DataFrame) -> Figure:
    """Gain over the student alone against the cost of a step, a point a method.

    The line joins the methods that none as cheap surpasses. The floor is a teacher's forward and
    a plain student's step.
    """
    data = shown(figure_tables.accuracy_cost(table))
    figure = _drawn(data, "top-1 over the student")
    for axes, cost in zip(figure.axes, AXES, strict=True):
        if 100 * (data[cost].max() - 1) > WIDE:
            axes.set_xscale("symlog", linthresh=LINEAR)
            axes.xaxis.set_major_formatter(ScalarFormatter())
    _named_front(figure.axes[0], data)
    return figure


@figure_style()
def detection_cost(table: pd.DataFrame) -> Figure:
    """As :func:`accuracy_cost`, of detectors and their mAP."""
    figure = _drawn(shown(figure_tables.detection_cost(table)), "mAP over the detector alone")
    for axes in figure.axes:
        axes.set_xlim(left=min(0, axes.get_xlim()[0]))
    return figure


def _drawn(data: pd.DataFrame, gained: str) -> Figure:
    figure, panels = new_figure(PAGE, 3.1, columns=2, sharey=True)
    for axes, (cost, title) in zip(panels, AXES.items(), strict=True):
        axes.axhline(0, color=NEUTRAL, lw=0.8)
        for row in data.to_dict("records"):
            _point(axes, row, cost)
        axes.set_xlabel(title)
    front = data[data["front"]]
    percent = 100 * (front["time"] - 1)
    panels[0].plot(percent, 100 * front["gain"], ls=":", c=NEUTRAL, lw=1, zorder=0)
    panels[0].set_ylabel(f"gain in {gained} (points)")
    legend(figure, methods_of(data))
    return figure


def _named_front(axes: Axes, data: pd.DataFrame) -> None:
    """Name the methods that none as cheap surpasses."""
    front = data[data["front"]]
    percent = 100 * (front["time"] - 1)
    for place, label, gain in zip(percent, front["label"], 100 * front["gain"], strict=True):
        axes.annotate(
            name_of(label), (place, gain), xytext=(-4, 3), textcoords="offset points",
            ha="right", fontsize=7,
        )  # fmt: skip
    axes.margins(x=0.1)  # labels lie to the left


def _point(axes: Axes, row: dict, cost: str) -> None:
    style, place = look(row["label"]), 100 * (row[cost] - 1)
    axes.plot([place, place], [100 * row["low"], 100 * row["high"]], c=style.colour, lw=0.9)
    axes.plot(place, 100 * row["gain"], style.marker, c=style.colour, mfc=style.face, ms=5)
