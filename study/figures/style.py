"""The one style of all figures: how they are made, drawn, and written to disk."""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdlib.errors import KdlibError
from kdlib.files import write_atomic, write_json
from study.names import NEUTRAL, look, method_order, name_of

Table = Callable[[pd.DataFrame], pd.DataFrame]
COLUMN, PAGE = 3.5, 7.16  # widths in inches of a column and of a page of the journal
ROW, TALLEST = 0.21, 8.3  # height in inches of a method's row, and of all rows together
NO_EFFECT = "#e8e8e8"  # the band in which a difference does not matter
PNG_BYTES = 300 * 1024
RESOLUTIONS = (160, 110, 80)  # dots per inch, the first that fits
STYLE = {
    "font.size": 8.0, "axes.labelsize": 8, "axes.titlesize": 8, "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5, "legend.fontsize": 7, "lines.linewidth": 1.2, "axes.linewidth": 0.7,
    "grid.linewidth": 0.5, "lines.markersize": 4.5, "legend.frameon": False,
    "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 120,
    "pdf.fonttype": 42, "svg.hashsalt": "kdlib",
}  # fmt: skip


@contextmanager
def figure_style() -> Iterator[None]:
    """The paper style of seaborn, with type that stays legible at column width."""
    style = {**sns.axes_style("whitegrid"), **sns.plotting_context("paper"), **STYLE}
    with mpl.rc_context({name: value for name, value in style.items() if name in mpl.rcParams}):
        yield


@dataclass(frozen=True)
class Drawing:
    """A figure of runs (of :func:`study.records.load_records`), and the table that it shows."""

    table: Table
    draw: Callable[[pd.DataFrame], Figure]

    def __call__(self, runs: pd.DataFrame) -> Figure:
        """The figure; a KdlibError where these runs have nothing to show."""
        return self.of(self.table(runs))

    def of(self, data: pd.DataFrame) -> Figure:
        """The figure of a table that was made before."""
        if data.empty:
            raise KdlibError("These runs have nothing to show here; see study.figures.")
        with figure_style():
            return self.draw(data)


def drawn_from(table: Table) -> Callable[[Callable[[pd.DataFrame], Figure]], Drawing]:
    """Pairs the function below, which draws a table, with the one that makes it from runs."""
    return partial(Drawing, table)


def figure_provenance(runs: pd.DataFrame, drawn: pd.DataFrame) -> dict[str, Any]:
    """What a figure comes from: the records of ``runs`` and the table that was ``drawn``.

    Run ids with their commits; ids of runs of a changed working tree; the table's text, its
    numbers rounded to nine digits, and the SHA-256 of that.
    """
    text = drawn.to_csv(index=False, float_format="%.9g", lineterminator="\n")
    return {
        "records": dict(sorted(zip(runs["run_id"], runs["commit"], strict=True))),
        "uncommitted": sorted(runs.loc[runs["dirty"].astype(bool), "run_id"]),
        "hash": hashlib.sha256(text.encode()).hexdigest(),
        "table": text.splitlines(),
    }


@figure_style()
def save_figure(figure: Figure, path: Path, provenance: Mapping[str, Any]) -> list[Path]:
    """Write ``path`` with ``.pdf``, ``.png`` (at most 300 KB) and ``.json``, all undated."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # laid out once, and not for each file and resolution
    # Appended, not replaced: a name may hold a dot.
    pdf, png, beside = (Path(f"{path}{suffix}") for suffix in (".pdf", ".png", ".json"))
    undated = {"CreationDate": None}
    write_atomic(pdf, lambda file: figure.savefig(file, format="pdf", metadata=undated))
    write_atomic(png, lambda file: _save_small_png(figure, file))
    write_json(beside, provenance)
    return [pdf, png, beside]


def _save_small_png(figure: Figure, file: Path) -> None:
    for resolution in RESOLUTIONS:
        figure.savefig(file, format="png", dpi=resolution, metadata={"Software": None})
        if file.stat().st_size <= PNG_BYTES:
            return
    raise KdlibError(f"{file.name} is larger than {PNG_BYTES} bytes; draw less in one figure.")


def new_figure(
    width: float, height: float, columns: int = 1, rows: int = 1, bare: bool = False, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure in inches and its panels, without axes if ``bare``; closed, to be shown once."""
    options = {"layout": "constrained", "squeeze": False, **options}
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), **options)
    plt.close(figure)
    for one in axes.flat if bare else ():
        one.set_axis_off()
    return figure, list(axes.flat)


def rows_height(count: int) -> float:
    """Inches for so many rows; they move together before they outgrow a page."""
    return min(ROW * count, TALLEST)


def percent(row: Mapping[Any, Any], mean: str = "difference") -> tuple[float, float, float]:
    """A table's ``mean`` and the ends of its interval."""
    return 100 * row[mean], 100 * row["low"], 100 * row["high"]


def marks(label: str) -> dict[str, Any]:
    """How ``plot`` draws a method: colour, marker, its face, line."""
    return dict(zip(("c", "marker", "mfc", "ls"), look(label), strict=True))


def dot(
    axes: Axes, label: str, values: Iterable[float], at: float, upright: bool = False, **own: Any
) -> None:
    """Mean, low and high as a marker with its interval; without interval where it is missing."""
    (mean, low, high), how = values, look(label)
    if not np.isnan(low):
        line = ([low, high], [at, at])
        axes.plot(*(line[::-1] if upright else line), how.line, c=how.colour, lw=own.get("lw", 1.2))
    point = (at, mean) if upright else (mean, at)
    axes.plot(*point, **{**marks(label), "ls": "", "ms": 4.5, **own})


def forest(axes: Axes, data: pd.DataFrame, names: Iterable[str], mean: str = "difference") -> None:
    """Rows from the bottom with their names: each method's mean and interval, in percent."""
    for place, row in enumerate(data.to_dict("records")):
        dot(axes, row["label"], percent(row, mean), place)
    named_rows(axes, list(names))


def forest_series(
    axes: Axes, places: pd.Series, data: pd.DataFrame, look: tuple[str, str], name: str
) -> None:
    """Differences with their intervals, in percent, at ``places``; ``look``: colour and marker."""
    for place, row in zip(places, data.to_dict("records"), strict=True):
        mean, *ends = percent(row)
        axes.plot(ends, [place] * 2, c=look[0], lw=1)
        axes.plot(mean, place, look[1], c=look[0], ms=3.5, label=name)
        name = ""


def named_rows(axes: Axes, names: list[str]) -> None:
    """Rows 0, 1, ... from the bottom, with their names."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(axis="y", visible=False)


def no_difference(axes: Axes, half: float = 0) -> None:
    """A vertical line at 0; and a band of ``half`` (0..1) to either side, which does not matter."""
    if half:
        axes.axvspan(-100 * half, 100 * half, color=NO_EFFECT, lw=0)
    axes.axvline(0, color=NEUTRAL, lw=0.8)


def curves(axes: Axes, data: pd.DataFrame, x: str) -> None:
    """Each method's ``mean`` over ``x`` with the band from ``low`` to ``high``, in percent."""
    for label in methods_of(data):
        own = data[data["label"] == label]
        mean, low, high = percent(own.astype({"low": float, "high": float}), "mean")
        axes.plot(own[x], mean, **marks(label), markevery=max(1, len(own) // 5))
        axes.fill_between(own[x], low, high, color=look(label).colour, alpha=0.12, lw=0)


def methods_of(data: pd.DataFrame) -> list[str]:
    """The labels of a table, as the registry orders them."""
    return sorted(set(data["label"]), key=method_order)


def legend(
    figure: Figure, labels: Iterable[str], extra: Sequence[Line2D] = (), columns: int | None = None
) -> None:
    """The methods' markers above the panels, where they cover nothing."""
    columns = columns or (3 if figure.get_figwidth() < PAGE else 6)
    entries = [Line2D([], [], **marks(label), ms=5, label=name_of(label)) for label in labels]
    figure.legend(handles=[*entries, *extra], loc="outside upper center", ncols=columns)


def seeds_text(runs: pd.DataFrame, intervals: str = "95 % intervals of ") -> str:
    """Of how many seeds means and their intervals are; of one there is no interval."""
    low, high = runs["n"].min(), runs["n"].max()
    if high == 1:
        return "one seed"
    return intervals + (f"{low} to {high} seeds" if low < high else f"{low} seeds")
