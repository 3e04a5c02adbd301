"""What networks attend to: likeness, relevance, spectra, and the maps themselves."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from study.analyses import MAPS_FILE
from study.analyses.files import AttentionMaps, load_maps
from study.figures.pictures import HEAT, as_picture, enlarged
from study.figures.style import (
    COLUMN,
    PAGE,
    curves,
    dot,
    drawn_from,
    legend,
    methods_of,
    new_figure,
)
from study.figures.tables import (
    KEY_METHODS,
    from_analyses,
    having,
    students_of,
    with_interval,
    with_teachers_that_have,
)
from study.names import NEUTRAL, name_of
from study.records import stage_table

MAPS_OF = ("teacher", "student", "at", "dct")
SPECTRA_OF = ("teacher", "student", "kd", "at", "release_a", "dct")


def ssim_by_stage_table(table: pd.DataFrame) -> pd.DataFrame:
    """SSIM to the teacher's map: ``label``, ``stage``, ``mean``, ``low``, ``high``, ``n``."""
    return _by_stage(table, ["ssim"])


@drawn_from(ssim_by_stage_table)
def ssim_by_stage(data: pd.DataFrame) -> Figure:
    """SSIM of student and teacher attention maps at each stage, with 95 % intervals."""
    figure, (axes,) = new_figure(COLUMN, 2.6)
    _stage_dots(axes, data, 1)
    axes.set_ylabel("SSIM to the teacher's map")
    legend(figure, methods_of(data))
    return figure


def relevance_by_stage_table(table: pd.DataFrame) -> pd.DataFrame:
    """As :func:`ssim_by_stage_table`, for both relevance measures, with teacher and ``chance``."""
    return _by_stage(table, ["energy_share", "pointing"])


@drawn_from(relevance_by_stage_table)
def relevance_by_stage(data: pd.DataFrame) -> Figure:
    """Share of attention on relevant pixels, and pointing game: students, teacher, chance."""
    figure, panels = new_figure(PAGE, 2.6, columns=2)
    titles = {"energy_share": "attention on relevant pixels (%)", "pointing": "pointing game (%)"}
    line: dict[str, Any] = {"color": NEUTRAL, "ls": ":", "lw": 1}
    for axes, (measure, title) in zip(panels, titles.items(), strict=True):
        _stage_dots(axes, data[data["measure"] == measure], 100)
        axes.axhline(100 * data["chance"].iloc[0], **line)
        axes.set_ylabel(title)
    legend(figure, methods_of(data), [Line2D([], [], label="chance", **line)])
    return figure


def _by_stage(table: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    stages = stage_table(students_of(table))
    chosen = stages[stages["measure"].isin(measures) & stages["label"].isin(KEY_METHODS)]
    # Every student's record repeats its teacher's measures; one run's are enough.
    teachers = chosen[chosen["network"] == "teacher"].assign(label="teacher")
    teachers = teachers.drop_duplicates(["measure", "stage", "value"])
    rows = pd.concat([chosen[chosen["network"] == "student"], teachers])
    found = with_interval(rows, ["measure", "label", "stage"], "value")
    return found if found.empty else found.assign(chance=rows["chance"].mean())


def _stage_dots(axes: Axes, data: pd.DataFrame, scale: float) -> None:
    """Mean and interval of every method at every stage, side by side."""
    labels, stages = methods_of(data), sorted(set(data["stage"]))
    for place, label in enumerate(labels):
        shift = 0.8 * ((place + 0.5) / len(labels) - 0.5)
        for row in data[data["label"] == label].to_dict("records"):
            values = [scale * row[name] for name in ("mean", "low", "high")]
            dot(axes, label, values, row["stage"] + shift, vertical=True)
    axes.set_xticks(stages, [f"{stage}" for stage in stages])
    axes.set_xlim(stages[0] - 0.5, stages[-1] + 0.5)
    axes.set_xlabel("stage, fine to coarse")
    axes.grid(axis="x", visible=False)


def map_spectra_table(table: pd.DataFrame) -> pd.DataFrame:
    """Share of the maps' AC energy at each radial frequency, of students and teacher.

    Columns: ``stage``, ``label``, ``frequency`` (half periods per image), ``mean``, ``low``,
    ``high`` (95 % interval over seeds), ``n``.
    """
    rows = from_analyses(table, _shares, SPECTRA_OF)
    return with_interval(rows, ["stage", "label", "frequency"], "share")


def _shares(analysis: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for stage, shares in enumerate(analysis["spectra"], 1):
        for frequency, share in enumerate(shares, 1):
            yield {"stage": stage, "frequency": frequency, "share": share}


@drawn_from(map_spectra_table)
def map_spectra(data: pd.DataFrame) -> Figure:
    """Share of the maps' energy at each frequency, a panel a stage; 95 % bands over seeds."""
    stages = data.groupby("stage")
    figure, panels = new_figure(PAGE, 2.4, columns=len(stages))
    for axes, (stage, own) in zip(panels, stages, strict=True):
        curves(axes, own, "frequency")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set(xlabel="frequency (half periods an image)", title=f"stage {stage}")
        axes.set_ylim(0, 1.2 * 100 * own["mean"].max())  # bands of two seeds know no bounds
    panels[0].set_ylabel("share of the maps' energy (%)")
    legend(figure, methods_of(data))
    return figure


def attention_maps_table(table: pd.DataFrame) -> pd.DataFrame:
    """Which maps there are to show: a row a network and image, of one run a network.

    Columns: ``label``, ``run_id``, ``position`` (in the test set), ``true`` and ``predicted``
    class, ``digest`` of the maps' file; attribute ``directories``, by label. Empty without the
    teacher's maps.
    """
    runs = with_teachers_that_have(MAPS_FILE, table, MAPS_OF).sort_values("init_seed")
    first = having(MAPS_FILE, runs).groupby("label")["directory"].first()
    if "teacher" not in first:
        return pd.DataFrame()
    directories = {label: Path(first[label]) for label in MAPS_OF if label in first}
    found = pd.concat(_images(*one) for one in directories.items())
    found.attrs["directories"] = directories
    return found.reset_index(drop=True)


def _images(label: str, directory: Path) -> pd.DataFrame:
    maps = load_maps(directory)
    digest = hashlib.sha256((directory / MAPS_FILE).read_bytes()).hexdigest()[:12]
    images = {"position": maps.positions, "true": maps.labels, "predicted": maps.predicted}
    return pd.DataFrame({"label": label, "run_id": directory.name, **images, "digest": digest})


@drawn_from(attention_maps_table)
def attention_maps(data: pd.DataFrame) -> Figure:
    """Maps over the same images, a row an image, grouped by stage: fine to coarse, left to right.

    Each map is scaled by itself; a cross marks a network's wrong answer.
    """
    maps = {label: load_maps(one) for label, one in data.attrs["directories"].items()}
    first = maps["teacher"]
    columns, rows = 1 + len(maps) * len(first.stages), len(first.images)
    side = (PAGE - 0.1) / columns
    figure, panels = new_figure(
        PAGE, (side + 0.14) * rows + 0.2, columns, rows, bare=True,
        gridspec_kw={"wspace": 0, "hspace": 0},
    )  # fmt: skip
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0))
    for row in range(rows):
        _map_row(panels[row * columns : (row + 1) * columns], maps, row)
    return figure


def _map_row(panels: list[Axes], maps: dict[str, AttentionMaps], row: int) -> None:
    """The image; then for each stage what each network attends to, as coloured cells on grey."""
    image, title = maps["teacher"].images[row], maps["teacher"].labels[row]
    panels[0].imshow(as_picture(image))
    panels[0].set_title(title, fontsize=6.5, pad=2)
    cells = [(stage, *one) for stage in range(len(maps["teacher"].stages)) for one in maps.items()]
    for axes, (stage, label, own) in zip(panels[1:], cells, strict=True):
        cell = own.stages[stage][row]
        axes.imshow(as_picture(image).mean(2), cmap="gray", vmin=0, vmax=255)
        heat = enlarged(cell / 255, image)
        axes.imshow(heat, cmap=HEAT, vmin=0, vmax=1, alpha=np.sqrt(heat))
        if row == 0:
            head = f"stage {stage + 1}: {len(cell)} × {len(cell)}" if label == "teacher" else ""
            axes.set_title(f"{head}\n", fontsize=7, loc="left")
        right = own.predicted[row] == own.labels[row]
        axes.set_title(name_of(label) + ("" if right else " ✗"), fontsize=6.5, pad=2)
