"""Figures from records: one function a figure, each drawn from its namesake in figure_tables.

Every function takes a table of runs (:func:`kdlib.run_table.load_records`) of one setting, but
for :func:`attentions_gain`, and raises a KdlibError where these runs have nothing to show.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from kdlib import figure_tables
from kdlib.comparisons import smallest_effect
from kdlib.errors import KdlibError
from kdlib.figure_files import figure_provenance, save_figure
from kdlib.run_table import SEEDS, VARIANT, load_records, method_order, student_settings
from kdlib.selection import with_teachers
from kdlib.style import (
    COLUMN,
    NEUTRAL,
    PAGE,
    TEACHER_COLOUR,
    difference_name,
    figure_style,
    look,
    name_of,
)

__all__ = [
    "FIGURES",
    "attentions_gain",
    "draw_all",
    "figure_provenance",
    "method_accuracy",
    "noise_gauge",
    "paired_differences",
    "relevance_by_stage",
    "save_figure",
    "ssim_by_stage",
    "training_curves",
]

ROW = 0.21  # inches of height that a method's row takes


@figure_style()
def method_accuracy(table: pd.DataFrame) -> Figure:
    """Top-1 of each method: mean with 95 % interval, seeds as small points, best on top."""
    data = _shown(figure_tables.method_accuracy(table))
    students = data[data["label"] != "teacher"]
    order = list(students.groupby("label")["mean"].first().sort_values().index)
    figure, (axes,) = _new(COLUMN, 0.7 + ROW * len(order))
    _reference(axes, data, "teacher", TEACHER_COLOUR)
    _reference(axes, data, "student", NEUTRAL)
    for row, label in enumerate(order):
        runs = students[students["label"] == label]
        seeds = 100 * runs["top1"], [row - 0.27] * len(runs)
        axes.plot(*seeds, "o", c=look(label).colour, ms=2, alpha=0.6, mew=0)
        _dot(axes, label, 100 * runs.iloc[0][["mean", "low", "high"]], row)
    _method_rows(axes, [name_of(label) for label in order])
    axes.set_xlabel(f"top-1 accuracy (%)\n95 % intervals of {_seeds(students)}")
    return figure


@figure_style()
def paired_differences(table: pd.DataFrame) -> Figure:
    """Forest plot of the claims: paired difference with 95 % interval, and the verdict."""
    data = _shown(figure_tables.paired_differences(table))[::-1]
    figure, (axes,) = _new(COLUMN, 0.75 + ROW * len(data))
    matters = 100 * smallest_effect("top1")
    axes.axvspan(-matters, matters, color="#e8e8e8", lw=0)
    axes.axvline(0, color=NEUTRAL, lw=0.8)
    for row, claim in enumerate(data.to_dict("records")):
        values = pd.Series(claim)[["difference", "low", "high"]].astype(float)
        _dot(axes, claim["method"], 100 * values, row)
        axes.annotate(
            claim["verdict"], (1.02, row), xycoords=("axes fraction", "data"),
            va="center", fontsize=6.5,
        )  # fmt: skip
    names = [difference_name(*pair) for pair in data[["method", "baseline"]].to_numpy()]
    _method_rows(axes, names)
    axes.set_xlabel("difference in top-1 (points)")
    return figure


@figure_style()
def ssim_by_stage(table: pd.DataFrame) -> Figure:
    """SSIM of student and teacher attention maps at each stage, with 95 % intervals."""
    data = _shown(figure_tables.ssim_by_stage(table))
    figure, (axes,) = _new(COLUMN, 2.6)
    _stage_dots(axes, data)
    axes.set_ylabel("SSIM to the teacher's map")
    _legend(figure, _methods(data))
    return figure


@figure_style()
def relevance_by_stage(table: pd.DataFrame) -> Figure:
    """Share of attention on relevant pixels, and pointing game: students, teacher, chance."""
    data = _shown(figure_tables.relevance_by_stage(table))
    figure, panels = _new(PAGE, 2.6, columns=2)
    titles = {"energy_share": "attention on relevant pixels (%)", "pointing": "pointing game (%)"}
    for axes, (measure, title) in zip(panels, titles.items(), strict=True):
        of_measure = data[data["measure"] == measure]
        percent = {column: 100 * of_measure[column] for column in ("mean", "low", "high")}
        _stage_dots(axes, of_measure.assign(**percent))
        axes.axhline(100 * of_measure["chance"].iloc[0], color=NEUTRAL, ls=":", lw=1)
        axes.set_ylabel(title)
    chance = Line2D([], [], color=NEUTRAL, ls=":", lw=1, label="chance")
    _legend(figure, _methods(data), extra=[chance])
    return figure


@figure_style()
def training_curves(table: pd.DataFrame) -> Figure:
    """Monitored accuracy over epochs: mean of the seeds, and their extremes as a band."""
    data = _shown(figure_tables.training_curves(table))
    figure, (axes,) = _new(COLUMN, 2.7)
    for label in _methods(data):
        curve, style = data[data["label"] == label], look(label)
        axes.plot(
            curve["epoch"], 100 * curve["mean"], style.line, c=style.colour, marker=style.marker,
            mfc=style.face, markevery=max(1, len(curve) // 5),
        )  # fmt: skip
        band = 100 * curve["low"], 100 * curve["high"]
        axes.fill_between(curve["epoch"], *band, color=style.colour, alpha=0.12, lw=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel="top-1 accuracy (%)")
    _legend(figure, _methods(data))
    return figure


@figure_style()
def noise_gauge(table: pd.DataFrame) -> Figure:
    """DCT against its twin, which differs in nothing but noise, beside DCT against its rivals.

    The band is the mean difference that so many seeds could tell from noise.
    """
    data = _shown(figure_tables.noise_gauge(table))
    pairs = list(dict.fromkeys(data["pair"]))[::-1]
    figure, (axes,) = _new(COLUMN, 0.75 + 1.3 * ROW * len(pairs))
    noise = 100 * data["noise"].iloc[0]
    axes.axvspan(-noise, noise, color="#e8e8e8", lw=0)
    axes.axvline(0, color=NEUTRAL, lw=0.8)
    for row, pair in enumerate(pairs):
        values, style = 100 * data.loc[data["pair"] == pair, "difference"], look(pair.split()[1])
        axes.plot(values, [row] * len(values), style.marker, c=style.colour, ms=4, alpha=0.7)
        axes.plot([values.mean()] * 2, [row - 0.3, row + 0.3], c=style.colour, lw=1.8)
    _method_rows(axes, [difference_name(*pair.split()) for pair in pairs])
    axes.set_xlabel("difference in top-1 (points), each seed")
    return figure


@figure_style()
def attentions_gain(table: pd.DataFrame) -> Figure:
    """Gain of DCT over AT and over the student alone, by ``attentions``, with 95 % bands."""
    data = _shown(figure_tables.attentions_gain(table))
    figure, (axes,) = _new(COLUMN, 2.5)
    axes.axhline(0, color=NEUTRAL, lw=0.8)
    for baseline, gain in data.groupby("baseline"):
        style, number = look(str(baseline)), gain["attentions"]
        label = f"DCT − {name_of(str(baseline))}"
        axes.plot(
            number, 100 * gain["difference"], "-", marker=style.marker, c=style.colour, label=label
        )
        band = 100 * gain["low"], 100 * gain["high"]
        axes.fill_between(number, *band, color=style.colour, alpha=0.15, lw=0)
    axes.set_xticks(sorted(set(data["attentions"])))
    axes.set(xlabel="attentions (objects that define a class)", ylabel="gain in top-1 (points)")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


FIGURES: dict[str, Callable[[pd.DataFrame], Figure]] = {
    draw.__name__: draw
    for draw in (
        method_accuracy, paired_differences, ssim_by_stage, relevance_by_stage, training_curves,
        noise_gauge, attentions_gain,
    )
}  # fmt: skip


def draw_all(records_root: Path, out: Path) -> list[Path]:
    """Draw every figure of every setting that has something to show into ``out``.

    Runs on the dev split are left out. Names are ``figure-dataset-a2``, with the setting's hash
    where two settings would share a name.

    Returns:
        The files written: pdf, png and provenance of each figure.

    Raises:
        KdlibError: no records, or a damaged one.
    """
    table = load_records(records_root)
    written = []
    for name, slug, runs in _drawings(table[table["split"] == "train"]):
        drawn = getattr(figure_tables, name)(runs)
        if not drawn.empty:
            provenance = figure_provenance(runs, drawn)
            written += save_figure(FIGURES[name](runs), Path(out) / f"{name}-{slug}", provenance)
    return written


def _drawings(table: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Name, file name's end and runs of every figure that might be drawn."""
    settings = student_settings(table)
    students = table[table["setting"].isin(settings)]
    for slug, group in _slugs(students, ["attentions"]):
        runs = with_teachers(table, group)
        for name in FIGURES:
            if name != "attentions_gain":
                yield name, slug, runs
    for slug, sweep in _slugs(students, [], free=("attentions", "distractors", "setting")):
        yield "attentions_gain", slug, sweep


def _slugs(
    students: pd.DataFrame, names: list[str], free: tuple[str, ...] = ()
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Runs that agree in all settings but ``free``, with a name for their files."""
    columns = [*students.columns[: students.columns.get_loc("top1")], "setting"]
    own = {"method", *VARIANT, *SEEDS, *free}
    groups = students.groupby([c for c in columns if c not in own], dropna=False)
    slugs = [(_slug(group, names), group) for _, group in groups]
    taken = [slug for slug, _ in slugs]
    for slug, group in slugs:
        unique = taken.count(slug) == 1
        yield slug if unique else f"{slug}-{group['setting'].iloc[0]}", group


def _slug(group: pd.DataFrame, names: list[str]) -> str:
    return "-".join([group["dataset"].iloc[0], *(f"{n[0]}{group[n].iloc[0]}" for n in names)])


def _shown(data: pd.DataFrame) -> pd.DataFrame:
    if data.empty:
        raise KdlibError("These runs have nothing to show here; see kdlib.figure_tables.")
    return data


def _new(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure in inches. It is closed at once: a notebook shows what a cell returns, not twice."""
    size = (width, height)
    figure, axes = plt.subplots(1, columns, figsize=size, layout="constrained", squeeze=False)
    plt.close(figure)
    return figure, list(axes[0])


def _dot(axes: Axes, label: str, values: pd.Series, row: float, vertical: bool = False) -> None:
    """Mean, low and high as a marker with its interval; without interval where it is missing."""
    mean, low, high = values
    style = look(label)
    if not np.isnan(low):
        line = ([low, high], [row, row])
        axes.plot(*(line[::-1] if vertical else line), style.line, c=style.colour, lw=1.2)
    place = (row, mean) if vertical else (mean, row)
    axes.plot(*place, style.marker, c=style.colour, mfc=style.face, ms=4.5)


def _reference(axes: Axes, data: pd.DataFrame, label: str, colour: str) -> None:
    """A vertical line at a method's mean, named on top."""
    values = 100 * data.loc[data["label"] == label, "mean"]
    if len(values):
        place = (values.iloc[0], 1.0)
        axes.axvline(place[0], color=colour, ls="--", lw=0.9)
        axes.annotate(
            label, place, xycoords=("data", "axes fraction"), xytext=(0, 2),
            textcoords="offset points", ha="center", fontsize=7, color=colour,
        )  # fmt: skip


def _method_rows(axes: Axes, names: list[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(axis="y", visible=False)


def _stage_dots(axes: Axes, data: pd.DataFrame) -> None:
    """Mean and interval of every method at every stage, side by side."""
    labels, stages = _methods(data), sorted(set(data["stage"]))
    for place, label in enumerate(labels):
        shift = 0.8 * ((place + 0.5) / len(labels) - 0.5)
        for row in data[data["label"] == label].to_dict("records"):
            values = pd.Series(row)[["mean", "low", "high"]].astype(float)
            _dot(axes, label, values, row["stage"] + shift, vertical=True)
    axes.set_xticks(stages, [f"{stage}" for stage in stages])
    axes.set_xlim(stages[0] - 0.5, stages[-1] + 0.5)
    axes.set_xlabel("stage, fine to coarse")
    axes.grid(axis="x", visible=False)


def _methods(data: pd.DataFrame) -> list[str]:
    return sorted(set(data["label"]), key=method_order)


def _legend(figure: Figure, labels: list[str], extra: list[Any] | None = None) -> None:
    """The methods' markers above the panels, where they cover nothing."""
    entries = [_entry(label) for label in labels] + (extra or [])
    columns = 3 if figure.get_figwidth() < PAGE else 5
    figure.legend(handles=entries, loc="outside upper center", ncols=columns)


def _entry(label: str) -> Line2D:
    style = look(label)
    return Line2D(
        [], [], ls=style.line, marker=style.marker, c=style.colour, mfc=style.face, ms=5,
        label=name_of(label),
    )  # fmt: skip


def _seeds(runs: pd.DataFrame) -> str:
    counts = sorted(set(runs["n"]))
    return f"{counts[0]} to {counts[-1]} seeds" if len(counts) > 1 else f"{counts[0]} seeds"
