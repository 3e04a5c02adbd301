"""The one style of all figures: size, palette, and a fixed colour and marker for each method."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

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
from study.names import method_order, name_of

COLUMN, PAGE = 3.5, 7.16  # widths in inches of a column and of a page of the journal
PALETTE = sns.color_palette("colorblind").as_hex()
TEACHER_COLOUR = "#222222"
NEUTRAL = "#666666"


class Look(NamedTuple):
    """How a method is drawn. Modified methods keep their family's colour and marker.

    ``filled`` is false for methods with KD added, ``line`` is dashed for gated ones.
    """

    colour: str
    marker: str
    filled: bool
    line: str

    @property
    def face(self) -> str:
        """Colour inside the marker."""
        return self.colour if self.filled else "white"


FAMILIES: dict[str, tuple[str, str]] = {
    "teacher": (TEACHER_COLOUR, "*"),
    "student": (NEUTRAL, "o"),
    "kd": (PALETTE[5], "s"),
    "at": (PALETTE[0], "D"),
    "at_equal_scale": (PALETTE[9], "d"),
    "dct": (PALETTE[1], "o"),
    "release_a": (PALETTE[3], "^"),
    "release_b": (PALETTE[3], "v"),
    "parseval_twin": (PALETTE[2], "X"),
    "newl2": (PALETTE[2], "P"),
    "ours": (PALETTE[4], "p"),
    "fitnet": (PALETTE[4], "<"),
    "pkt": (PALETTE[2], "v"),
    "vid": (PALETTE[8], "s"),
    "crd": (PALETTE[0], ">"),
    "semckd": (PALETTE[3], "P"),
    "sp": (PALETTE[9], "<"),
    "rkd": (PALETTE[5], ">"),
    "dkd": (PALETTE[4], "D"),
    "reviewkd": (PALETTE[8], "X"),
    "logit_std": (PALETTE[5], "p"),
    "famkd": (PALETTE[2], "*"),
    "frskd": (PALETTE[4], "^"),
    "frskd_dct": (PALETTE[4], "o"),
    "frskd_pixels": (PALETTE[4], "v"),
    "srm": (PALETTE[2], "D"),
    "srm_logits": (PALETTE[1], "D"),
    "kd_cls": (PALETTE[1], "s"),
    "loc": (PALETTE[9], "v"),
    "kd_loc": (PALETTE[0], "^"),
    "kd_cls_loc": (PALETTE[3], "o"),
}
CONTROL = (PALETTE[6], "h")


def look(label: str) -> Look:
    """Colour, marker, filling and line of a method's label, such as ``dct+gate [weight=3]``.

    A method without a family of its own is drawn as a control.
    """
    base, *modifiers = label.split(" [")[0].split("+")
    colour, marker = FAMILIES.get(base, CONTROL)
    return Look(colour, marker, "kd" not in modifiers, "--" if "gate" in modifiers else "-")


@contextmanager
def figure_style() -> Iterator[None]:
    """The paper style of seaborn, with type that stays legible at column width."""
    settings = {
        "font.size": 8.0, "axes.labelsize": 8, "axes.titlesize": 8, "xtick.labelsize": 7.5,
        "ytick.labelsize": 7.5, "legend.fontsize": 7, "lines.linewidth": 1.2, "axes.linewidth": 0.7,
        "grid.linewidth": 0.5, "lines.markersize": 4.5, "legend.frameon": False,
        "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 120,
        "pdf.fonttype": 42, "svg.hashsalt": "kdlib",
    }  # fmt: skip
    style = {**sns.axes_style("whitegrid"), **sns.plotting_context("paper"), **settings}
    with mpl.rc_context({k: v for k, v in style.items() if k in mpl.rcParams}):
        yield


# A figure on disk: pdf, png and, beside them, where it comes from. The same bytes every time.
PNG_BYTES = 300 * 1024
RESOLUTIONS = (160, 110, 80)  # dots an inch, the first that fits


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
    write_atomic(
        pdf, lambda file: figure.savefig(file, format="pdf", metadata={"CreationDate": None})
    )
    write_atomic(png, lambda file: _save_small_png(figure, file))
    write_json(beside, json.loads(json.dumps(provenance)))
    return [pdf, png, beside]


def _save_small_png(figure: Figure, file: Path) -> None:
    for resolution in RESOLUTIONS:
        figure.savefig(file, format="png", dpi=resolution, metadata={"Software": None})
        if file.stat().st_size <= PNG_BYTES:
            return
    raise KdlibError(f"{file.name} is larger than {PNG_BYTES} bytes; draw less in one figure.")


# What the figures have in common: panels, dots with intervals, rows of methods, legends.
ROW = 0.21  # inches of height that a method's row takes
TALLEST = 8.3  # inches that all rows together may take, on a page
SEEN_AS_NOTHING = "#e8e8e8"  # the band in which a difference does not matter


def shown(data: pd.DataFrame) -> pd.DataFrame:
    """The table itself.

    Raises:
        KdlibError: it is empty.
    """
    if data.empty:
        raise KdlibError("These runs have nothing to show here; see study.figures.")
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
