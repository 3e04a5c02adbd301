"""What the figures have in common: panels, dots with intervals, rows of methods, legends."""

from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdlib.errors import KdlibError
from kdlib.run_table import method_order
from kdlib.style import NEUTRAL, PAGE, look, name_of

ROW = 0.21  # inches of height that a method's row takes
TALLEST = 8.3  # inches that all rows together may take, on a page
SEEN_AS_NOTHING = "#e8e8e8"  # the band in which a difference does not matter


def shown(data: pd.DataFrame) -> pd.DataFrame:
    """The table itself.

    Raises:
        KdlibError: it is empty.
    """
    if data.empty:
        raise KdlibError("These runs have nothing to show here; see kdlib.figure_tables.")
    return data


def rows_height(count: int) -> float:
    """Inches for so many rows; they move together before they outgrow a page."""
    return min(ROW * count, TALLEST)


def new_figure(
    width: float, height: float, columns: int = 1, rows: int = 1, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure in inches. It is closed at once: a notebook shows what a cell returns, not twice."""
    figure, axes = plt.subplots(
        rows, columns, figsize=(width, height), layout="constrained", squeeze=False, **options
    )
    plt.close(figure)
    return figure, list(axes.flat)


def dot(axes: Axes, label: str, values: pd.Series, row: float, vertical: bool = False) -> None:
    """Mean, low and high as a marker with its interval; without interval where it is missing."""
    mean, low, high = values
    style = look(label)
    if not np.isnan(low):
        line = ([low, high], [row, row])
        axes.plot(*(line[::-1] if vertical else line), style.line, c=style.colour, lw=1.2)
    place = (row, mean) if vertical else (mean, row)
    axes.plot(*place, style.marker, c=style.colour, mfc=style.face, ms=4.5)


def curve(axes: Axes, label: str, data: pd.DataFrame, x: str, scale: float = 100) -> None:
    """A method's ``mean`` over ``x`` with the band from ``low`` to ``high``, in percent."""
    style = look(label)
    axes.plot(
        data[x], scale * data["mean"], style.line, c=style.colour, marker=style.marker,
        mfc=style.face, markevery=max(1, len(data) // 5),
    )  # fmt: skip
    band = scale * data["low"].astype(float), scale * data["high"].astype(float)
    axes.fill_between(data[x], *band, color=style.colour, alpha=0.12, lw=0)


def reference(axes: Axes, data: pd.DataFrame, label: str, colour: str) -> None:
    """A vertical line at a method's mean, named on top."""
    values = 100 * data.loc[data["label"] == label, "mean"]
    if len(values):
        place = (values.iloc[0], 1.0)
        axes.axvline(place[0], color=colour, ls="--", lw=0.9)
        axes.annotate(
            label, place, xycoords=("data", "axes fraction"), xytext=(0, 2),
            textcoords="offset points", ha="center", fontsize=7, color=colour,
        )  # fmt: skip


def no_difference(axes: Axes, half: float = 0) -> None:
    """A vertical line at 0; and a band of ``half`` to either side, in which nothing matters."""
    if half:
        axes.axvspan(-half, half, color=SEEN_AS_NOTHING, lw=0)
    axes.axvline(0, color=NEUTRAL, lw=0.8)


def named_rows(axes: Axes, names: list[str]) -> None:
    """Rows 0, 1, ... from the bottom, with their names."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(axis="y", visible=False)


def methods_of(data: pd.DataFrame) -> list[str]:
    """The labels of a table, as the registry orders them."""
    return sorted(set(data["label"]), key=method_order)


def legend(figure: Figure, labels: list[str], extra: list[Any] | None = None) -> None:
    """The methods' markers above the panels, where they cover nothing."""
    entries = [entry(label) for label in labels] + (extra or [])
    columns = 3 if figure.get_figwidth() < PAGE else 6
    figure.legend(handles=entries, loc="outside upper center", ncols=columns)


def entry(label: str) -> Line2D:
    """A method's line in a legend."""
    style = look(label)
    return Line2D(
        [], [], ls=style.line, marker=style.marker, c=style.colour, mfc=style.face, ms=5,
        label=name_of(label),
    )  # fmt: skip


def seeds_text(runs: pd.DataFrame) -> str:
    """Such as ``3 to 6 seeds``."""
    counts = sorted(set(runs["n"]))
    return f"{counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else f"{counts[0]} seeds"
