"""What networks attend to: likeness, relevance, spectra, and the maps themselves."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from torch import Tensor
from torch.nn.functional import interpolate

from study.analyses.measure import FILES_FILE, MAPS_FILE, AttentionMaps, analyses_of, load_maps
from study.figures.comparison import KEY_METHODS, students_of, with_interval, with_teacher_label
from study.figures.pictures import HEAT, as_picture
from study.figures.style import (
    COLUMN,
    NEUTRAL,
    PAGE,
    curve,
    dot,
    figure_style,
    legend,
    methods_of,
    name_of,
    new_figure,
    shown,
)
from study.records import stage_table

# What networks attend to: likeness, relevance, spectra, and the maps themselves.
MAPS_OF = ("teacher", "student", "at", "dct")
SPECTRA_OF = ("teacher", "student", "kd", "at", "release_a", "dct")


def ssim_by_stage_table(table: pd.DataFrame, methods: Sequence[str] = KEY_METHODS) -> pd.DataFrame:
    """SSIM to the teacher's map: ``label``, ``stage``, ``mean``, ``low``, ``high``, ``n``."""
    return _by_stage(table, methods, ("ssim",))


def relevance_by_stage_table(
    table: pd.DataFrame, methods: Sequence[str] = KEY_METHODS
) -> pd.DataFrame:
    """As :func:`ssim_by_stage`, for both relevance measures, the teacher's too, with ``chance``."""
    return _by_stage(table, methods, ("energy_share", "pointing"))


def map_spectra_table(table: pd.DataFrame, methods: Sequence[str] = SPECTRA_OF) -> pd.DataFrame:
    """Share of the maps' AC energy at each radial frequency, of students and teacher.

    Columns: ``stage``, ``label``, ``frequency`` (half periods an image), ``mean``, ``low``,
    ``high`` (95 % interval over seeds), ``n``.
    """
    rows = [
        {"stage": stage, "label": row["label"], "frequency": frequency, "share": share}
        for row, analysis in analyses_of(with_teacher_label(table, methods, FILES_FILE))
        for stage, shares in enumerate(analysis["spectra"], 1)
        for frequency, share in enumerate(shares, 1)
    ]
    keys = ["stage", "label", "frequency"]
    return with_interval(pd.DataFrame(rows), keys, "share") if rows else pd.DataFrame()


def attention_maps_table(table: pd.DataFrame, methods: Sequence[str] = MAPS_OF) -> pd.DataFrame:
    """Which maps there are to show: a row a network and image, of one run a network.

    Columns: ``label``, ``run_id``, ``position`` (in the test set), ``true`` and ``predicted``
    class, ``digest`` of the maps' file. Empty without the teacher's maps.
    """
    runs = with_teacher_label(table, methods, MAPS_FILE)
    rows = []
    for label in methods:
        own = runs[runs["label"] == label].sort_values("init_seed") if len(runs) else runs
        paths = [Path(one) for one in own.get("directory", ())]
        kept = next((path for path in paths if (path / MAPS_FILE).exists()), None)
        if kept is not None:
            rows += _images(label, kept)
    shown = pd.DataFrame(rows)
    return shown if len(shown) and "teacher" in set(shown["label"]) else pd.DataFrame()


def _images(label: str, directory: Path) -> list[dict[str, object]]:
    maps = load_maps(directory)
    digest = hashlib.sha256((directory / MAPS_FILE).read_bytes()).hexdigest()[:12]
    identity = {"label": label, "run_id": directory.name}
    return [
        {**identity, "position": place, "true": true, "predicted": answer, "digest": digest}
        for place, true, answer in zip(maps.positions, maps.labels, maps.predicted, strict=True)
    ]


def _by_stage(table: pd.DataFrame, methods: Sequence[str], measures: Sequence[str]) -> pd.DataFrame:
    stages = stage_table(students_of(table))
    chosen = stages[stages["measure"].isin(measures) & stages["label"].isin(methods)]
    # Every student's record repeats its teacher's measures; one run's are enough.
    theirs = chosen[chosen["network"] == "teacher"].assign(label="teacher")
    theirs = theirs.drop_duplicates(["measure", "stage", "value"])
    rows = pd.concat([chosen[chosen["network"] == "student"], theirs])
    if rows.empty:
        return pd.DataFrame()
    keys = ["measure", "label", "stage"]
    return with_interval(rows, keys, "value").assign(chance=rows["chance"].mean())


@figure_style()
def ssim_by_stage(table: pd.DataFrame) -> Figure:
    """SSIM of student and teacher attention maps at each stage, with 95 % intervals."""
    data = shown(ssim_by_stage_table(table))
    figure, (axes,) = new_figure(COLUMN, 2.6)
    _stage_dots(axes, data)
    axes.set_ylabel("SSIM to the teacher's map")
    legend(figure, methods_of(data))
    return figure


@figure_style()
def relevance_by_stage(table: pd.DataFrame) -> Figure:
    """Share of attention on relevant pixels, and pointing game: students, teacher, chance."""
    data = shown(relevance_by_stage_table(table))
    figure, panels = new_figure(PAGE, 2.6, columns=2)
    titles = {"energy_share": "attention on relevant pixels (%)", "pointing": "pointing game (%)"}
    for axes, (measure, title) in zip(panels, titles.items(), strict=True):
        of_measure = data[data["measure"] == measure]
        percent = {column: 100 * of_measure[column] for column in ("mean", "low", "high")}
        _stage_dots(axes, of_measure.assign(**percent))
        axes.axhline(100 * of_measure["chance"].iloc[0], color=NEUTRAL, ls=":", lw=1)
        axes.set_ylabel(title)
    chance = Line2D([], [], color=NEUTRAL, ls=":", lw=1, label="chance")
    legend(figure, methods_of(data), extra=[chance])
    return figure


@figure_style()
def map_spectra(table: pd.DataFrame) -> Figure:
    """Share of the maps' energy at each frequency, a panel a stage; 95 % bands over seeds."""
    data = shown(map_spectra_table(table))
    stages = sorted(set(data["stage"]))
    figure, panels = new_figure(PAGE, 2.4, columns=len(stages))
    for axes, stage in zip(panels, stages, strict=True):
        of_stage = data[data["stage"] == stage]
        for label in methods_of(of_stage):
            curve(axes, label, of_stage[of_stage["label"] == label], "frequency")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set(xlabel="frequency (half periods an image)", title=f"stage {stage}")
        axes.set_ylim(0, 1.2 * 100 * of_stage["mean"].max())  # bands of two seeds know no bounds
    panels[0].set_ylabel("share of the maps' energy (%)")
    legend(figure, methods_of(data))
    return figure


@figure_style()
def attention_maps(table: pd.DataFrame) -> Figure:
    """Maps over the same images, a row an image, grouped by stage: fine to coarse, left to right.

    Each map is scaled by itself; a cross marks a network's wrong answer.
    """
    data = shown(attention_maps_table(table))
    folders = table.drop_duplicates("run_id").set_index("run_id")["directory"]
    runs = data.drop_duplicates("label").set_index("label")["run_id"]
    maps = {str(label): load_maps(Path(folders[run])) for label, run in runs.items()}
    first = next(iter(maps.values()))
    columns, rows = 1 + len(maps) * len(first.stages), len(first.images)
    side = (PAGE - 0.1) / columns
    figure, panels = new_figure(
        PAGE, (side + 0.14) * rows + 0.2, columns, rows, gridspec_kw={"wspace": 0, "hspace": 0}
    )
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0))
    for axes in panels:
        axes.set_axis_off()
    for row in range(rows):
        _map_row(panels[row * columns : (row + 1) * columns], maps, row)
    return figure


def _map_row(panels: list[Axes], maps: dict[str, AttentionMaps], row: int) -> None:
    first = next(iter(maps.values()))
    panels[0].imshow(as_picture(first.images[row]))
    panels[0].set_title(first.labels[row], fontsize=6.5, pad=2)
    for place, axes in enumerate(panels[1:]):
        stage, label = place // len(maps), list(maps)[place % len(maps)]
        own = maps[label]
        _glow(axes, first.images[row], own.stages[stage][row])
        name = name_of(label) + ("" if own.predicted[row] == own.labels[row] else " ✗")
        if row == 0:
            side = own.stages[stage].shape[1]
            head = f"stage {stage + 1}: {side} × {side}" if place % len(maps) == 0 else ""
            axes.set_title(f"{head}\n", fontsize=7, loc="left")
        axes.set_title(name, fontsize=6.5, pad=2)


def _glow(axes: Axes, image: Tensor, attention: Tensor) -> None:
    """An image (3, H, W) in grey, coloured the more, the more attention (h, w) lies there.

    Unlike :func:`overlay` it leaves what is not attended to as bright as it is,
    so that it stays legible at the size of a stamp.
    """
    axes.imshow(as_picture(image).mean(2), cmap="gray", vmin=0, vmax=255)
    size = tuple(image.shape[1:])
    heat = interpolate(attention[None, None].float() / 255, size=size, mode="nearest")[0, 0].numpy()
    axes.imshow(heat, cmap=HEAT, vmin=0, vmax=1, alpha=np.sqrt(heat))


def _stage_dots(axes: Axes, data: pd.DataFrame) -> None:
    """Mean and interval of every method at every stage, side by side."""
    labels, stages = methods_of(data), sorted(set(data["stage"]))
    for place, label in enumerate(labels):
        shift = 0.8 * ((place + 0.5) / len(labels) - 0.5)
        for row in data[data["label"] == label].to_dict("records"):
            values = pd.Series(row)[["mean", "low", "high"]].astype(float)
            dot(axes, label, values, row["stage"] + shift, vertical=True)
    axes.set_xticks(stages, [f"{stage}" for stage in stages])
    axes.set_xlim(stages[0] - 0.5, stages[-1] + 0.5)
    axes.set_xlabel("stage, fine to coarse")
    axes.grid(axis="x", visible=False)
