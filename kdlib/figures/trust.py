"""How far a network can be trusted: its confidence, and its answers to harmed images."""

import pandas as pd
from matplotlib.figure import Figure

from kdlib import figure_tables
from kdlib.figures.drawing import (
    curve,
    dot,
    legend,
    methods_of,
    named_rows,
    new_figure,
    seeds_text,
    shown,
)
from kdlib.style import NEUTRAL, PAGE, figure_style, look, name_of

FEWEST = 100  # images of a bin that is drawn: fewer scatter by more than the methods differ
UNITS = {
    "noise": "standard deviation of the noise (white is 1)",
    "occlusion": "hidden share of the image (%)",
}
PERCENT = ("occlusion",)


@figure_style()
def calibration(table: pd.DataFrame) -> Figure:
    """Left: accuracy less confidence, by confidence (bins of 100 images at least).

    Above 0 a network is better than it believes. Right: the expected calibration error, mean
    and 95 % interval.
    """
    data = shown(figure_tables.calibration(table))
    errors = data.drop_duplicates("label").sort_values("ece", ascending=False)
    figure, (left, right) = new_figure(PAGE, 2.7, columns=2)
    left.axhline(0, color=NEUTRAL, lw=0.8)
    for label in methods_of(data):
        bins, style = data[(data["label"] == label) & (data["count"] >= FEWEST)], look(label)
        gap = 100 * (bins["accuracy"] - bins["confidence"])
        left.plot(
            100 * bins["confidence"], gap, style.line, c=style.colour, marker=style.marker,
            mfc=style.face, ms=3.5,
        )  # fmt: skip
    left.set(xlabel="confidence (%)", ylabel="accuracy less confidence (points)")
    for row, one in enumerate(errors.to_dict("records")):
        values = pd.Series(one)[["ece", "low", "high"]].astype(float)
        dot(right, one["label"], 100 * values, row)
    named_rows(right, [name_of(label) for label in errors["label"]])
    right.set_xlim(left=0)
    students = errors[errors["label"] != "teacher"]
    right.set_xlabel(f"expected calibration error (points), {seeds_text(students)}")
    legend(figure, methods_of(data))
    return figure


@figure_style()
def robustness(table: pd.DataFrame) -> Figure:
    """Top-1 as images are harmed more and more, a panel a corruption; 95 % bands over seeds."""
    data = shown(figure_tables.robustness(table))
    kinds = list(dict.fromkeys(data["corruption"]))
    figure, panels = new_figure(PAGE, 2.7, columns=len(kinds), sharey=True)
    for axes, kind in zip(panels, kinds, strict=True):
        of_kind = data[data["corruption"] == kind]
        if kind in PERCENT:
            of_kind = of_kind.assign(level=100 * of_kind["level"])
        for label in methods_of(of_kind):
            curve(axes, label, of_kind[of_kind["label"] == label], "level")
        axes.set_xlabel(UNITS.get(kind, kind))
    panels[0].set_ylim(max(0, 100 * data["mean"].min() - 10), 100)
    panels[0].set_ylabel("top-1 accuracy (%)")
    legend(figure, methods_of(data))
    return figure
