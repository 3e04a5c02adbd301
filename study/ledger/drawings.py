"""The ledger's two figures: gains as parts of the gap, and the sweep of the weight."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from study.figures.style import COLUMN, PAGE, figure_style
from study.ledger.page import METRICS
from study.ledger.rows import SCENE_DATASETS, published_numbers
from study.names import NEUTRAL, look, name_of

TITLES = {"top1": "top-1", "top5": "top-5", "mca": "mean class accuracy"}
ROW = 0.26  # inches of height that a method takes
BELOW = 0.24  # of a row, from the published line to ours; a second reading as much further


@figure_style()
def gap_shares(cells: pd.DataFrame, gap: float) -> Figure:
    """What part of the way from student to teacher each method goes, published and here.

    Args:
        cells: from :func:`study.ledger.page.cells_table`.
        gap: teacher less student on the stand-in, 0 to 1.
    """
    shown = cells[cells["share"].notna()].sort_values("share", kind="stable")
    methods = list(dict.fromkeys(shown["method"]))
    size = (COLUMN + 0.6, 1.0 + ROW * len(methods))
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    plt.close(figure)
    axes.axvline(0, color=NEUTRAL, lw=0.8)
    for place, method in enumerate(methods):
        _published_share(axes, method, place)
        readings = shown[(shown["method"] == method) & (shown["ours_n"] > 0)]
        for order, row in enumerate(readings.to_dict("records"), 1):
            _our_share(axes, pd.Series(row), place - BELOW * order, gap)
    axes.set_yticks(range(len(methods)), methods)
    axes.set(xlabel="part of the gap from student to teacher (%)", ylim=(-0.8, len(methods) - 0.4))
    axes.grid(axis="y", visible=False)
    figure.legend(handles=_entries(shown), loc="outside upper center", ncols=3)
    return figure


def _published_share(axes: Axes, method: str, place: float) -> None:
    """Each scene cell as a point, and their mean as a bar."""
    numbers = published_numbers()
    chosen = numbers["dataset"].isin(SCENE_DATASETS) & (numbers["method"] == method)
    shares = 100 * numbers.loc[chosen, "share"]
    axes.plot(shares, [place] * len(shares), "o", c=NEUTRAL, ms=2.5, alpha=0.5, mew=0)
    axes.plot([shares.mean()] * 2, [place - 0.14, place + 0.14], c="black", lw=1.6)


def _our_share(axes: Axes, row: pd.Series, place: float, gap: float) -> None:
    style = look(row["ours_method"])
    ends = [row["ours_low"] / gap, row["ours_high"] / gap]
    axes.plot(ends, [place] * 2, style.line, c=style.colour, lw=1.1)
    point = 100 * row["ours_share"], place
    axes.plot(*point, style.marker, c=style.colour, mfc=style.face, ms=4)


def _entries(shown: pd.DataFrame) -> list[Line2D]:
    """What the marks mean; our methods by name where a published one has several."""
    run = shown[shown["ours_n"] > 0]
    several = run[run.duplicated("method", keep=False)]
    return [
        Line2D([], [], ls="", marker="o", ms=2.5, mew=0, c=NEUTRAL, label="published, a cell"),
        Line2D([], [], ls="", marker="|", ms=6, mew=1.6, c="black", label="mean of the cells"),
        Line2D([], [], ls="-", marker="s", ms=4, c=NEUTRAL, label="ours, 95 % interval"),
        *(_entry(method) for method in several["ours_method"]),
    ]


def _entry(method: str) -> Line2D:
    style = look(method)
    return Line2D(
        [], [], ls=style.line, marker=style.marker, ms=4, c=style.colour, mfc=style.face,
        label=f"ours, {name_of(method)}",
    )  # fmt: skip


@figure_style()
def sweep_curves(table: pd.DataFrame) -> Figure:
    """Each curve of the sweep as points below its own best, for its level is another data set's.

    Args:
        table: from :func:`study.ledger.page.sweep_table`.
    """
    figure, panels = plt.subplots(1, len(METRICS), figsize=(PAGE, 2.4), layout="constrained")
    plt.close(figure)
    names = list(dict.fromkeys(table.columns.get_level_values(0)))
    for axes, metric in zip(panels, METRICS, strict=True):
        for name in names:
            curve = table[name][metric].dropna()
            style = look("teacher" if name == "published" else name)
            axes.semilogx(
                curve.index, curve - curve.max(), style.line, marker=style.marker, ms=4,
                c=style.colour, mfc=style.face, label=name_of(name),
            )  # fmt: skip
        axes.set_title(TITLES[metric])
    panels[0].set_ylabel("points below its own best")
    figure.supxlabel("multiple of the default weight", fontsize=8)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure
