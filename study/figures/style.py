"""The one style of all figures: how they are made, drawn, and written to disk."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
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
    """A figure and its table, both made from the runs of ``study.records.load_records``.

    Called with runs, it draws them, and raises a KdlibError where these have nothing to show.
    """

    table: Callable[[pd.DataFrame], pd.DataFrame]
    draw: Callable[[pd.DataFrame], Figure]

    def __call__(self, runs: pd.DataFrame) -> Figure:
        """The figure of these runs."""
        return self.of(self.table(runs))

    def of(self, data: pd.DataFrame) -> Figure:
        """The figure of a table that was made before."""
        if data.empty:
            raise KdlibError("These runs have nothing to show here; see study.figures.")
        with figure_style():
            return self.draw(data)


def drawn_from(
    table: Callable[[pd.DataFrame], pd.DataFrame],
) -> Callable[[Callable[[pd.DataFrame], Figure]], Drawing]:
    """Pairs the function below, which draws a table, with the one that makes it from runs."""
    return lambda draw: Drawing(table, draw)


def figure_provenance(runs: pd.DataFrame, drawn: pd.DataFrame) -> dict[str, Any]:
    """What a figure comes from: the records of ``runs`` and the table that was ``drawn``.

    Returns:
        ``records``: run ids with their commits; ``uncommitted``: those of a changed working
        tree; ``hash``: SHA-256 of the drawn table, rounded to nine digits; ``table``: its text.
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
    """Write ``path`` with the suffixes ``.pdf``, ``.png`` (at most 300 KB) and ``.json``.

    No file holds a date, so drawing the same records again changes nothing.

    Raises:
        KdlibError: the figure does not fit 300 KB at any resolution.
    """
    # Laid out once, and not again for each file and resolution.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    # Appended, not replaced: a name may hold a dot.
    pdf, png, beside = (Path(f"{path}{suffix}") for suffix in (".pdf", ".png", ".json"))
    undated: dict[str, Any] = {"format": "pdf", "metadata": {"CreationDate": None}}
    write_atomic(pdf, lambda file: figure.savefig(file, **undated))
    write_atomic(png, lambda file: _save_small_png(figure, file))
    write_json(beside, json.loads(json.dumps(provenance)))
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
    """A figure in inches and its panels row by row, without axes where ``bare``.

    It is closed at once: a notebook shows what a cell returns, not twice.
    """
    options = {"layout": "constrained", "squeeze": False, **options}
    figure, axes = plt.subplots(rows, columns, figsize=(width, height), **options)
    plt.close(figure)
    for one in axes.flat if bare else ():
        one.set_axis_off()
    return figure, list(axes.flat)


def rows_height(count: int) -> float:
    """Inches for so many rows; they move together before they outgrow a page."""
    return min(ROW * count, TALLEST)


def dot(
    axes: Axes, label: str, values: Iterable[float], row: float, *, vertical: bool = False
) -> None:
    """Mean, low and high as a marker with its interval; without interval where it is missing."""
    (mean, low, high), style = values, look(label)
    if not np.isnan(low):
        line = ([low, high], [row, row])
        axes.plot(*(line[::-1] if vertical else line), style.line, c=style.colour, lw=1.2)
    place = (row, mean) if vertical else (mean, row)
    axes.plot(*place, style.marker, c=style.colour, mfc=style.face, ms=4.5)


def seed_points(axes: Axes, label: str, values: pd.Series, row: float) -> None:
    """The runs of a method, as small points below its mean."""
    places = [row - 0.27] * len(values)
    axes.plot(values, places, "o", c=look(label).colour, ms=2, alpha=0.6, mew=0)


def interval_of(row: Mapping[Any, Any], mean: str = "difference") -> tuple[float, float, float]:
    """Mean, low and high of a table's row, in percent."""
    return 100 * row[mean], 100 * row["low"], 100 * row["high"]


def curves(axes: Axes, data: pd.DataFrame, x: str) -> None:
    """Each method's ``mean`` over ``x`` with the band from ``low`` to ``high``, in percent."""
    for label in methods_of(data):
        own, style = data[data["label"] == label], look(label)
        axes.plot(
            own[x], 100 * own["mean"], style.line, c=style.colour, marker=style.marker,
            mfc=style.face, markevery=max(1, len(own) // 5),
        )  # fmt: skip
        band = 100 * own["low"].astype(float), 100 * own["high"].astype(float)
        axes.fill_between(own[x], *band, color=style.colour, alpha=0.12, lw=0)


def student_alone(axes: Axes, values: Iterable[float]) -> None:
    """A dashed line at what a student without a teacher reaches, in percent."""
    for value in values:
        axes.axhline(100 * value, color=NEUTRAL, ls="--", lw=0.9)


def no_difference(axes: Axes, half: float = 0) -> None:
    """A vertical line at 0; and a band of ``half`` to either side, in which nothing matters."""
    if half:
        axes.axvspan(-half, half, color=NO_EFFECT, lw=0)
    axes.axvline(0, color=NEUTRAL, lw=0.8)


def named_rows(axes: Axes, names: Sequence[str]) -> None:
    """Rows 0, 1, ... from the bottom, with their names."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(axis="y", visible=False)


def methods_of(data: pd.DataFrame) -> list[str]:
    """The labels of a table, as the registry orders them."""
    return sorted(set(data["label"]), key=method_order)


def legend(
    figure: Figure, labels: Iterable[str], extra: Sequence[Line2D] = (), columns: int | None = None
) -> None:
    """The methods' markers above the panels, where they cover nothing."""
    columns = columns or (3 if figure.get_figwidth() < PAGE else 6)
    entries = [entry(label) for label in labels] + list(extra)
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
