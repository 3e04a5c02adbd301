"""What networks attend to: likeness, relevance, spectra, and the maps themselves."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from study.analyses import MAPS_FILE
from study.analyses.files import load_maps
from study.figures import style, tables
from study.figures.pictures import HEAT, as_picture, enlarged
from study.figures.style import COLUMN, PAGE, drawn_from, new_figure
from study.names import NEUTRAL, name_of
from study.records import stage_table

MAPS_OF = ("teacher", "student", "at", "release_a")
SPECTRA_OF = ("teacher", "student", "kd", "at", "parseval_twin", "dct", "release_a+gate")


def _by_stage(table: pd.DataFrame, measures: Sequence[str]) -> pd.DataFrame:
    """Of attention maps: ``measure``, ``label``, ``stage``; mean with interval, and ``chance``."""
    stages = stage_table(tables.students_of(table))
    chosen = stages[stages["measure"].isin(measures) & stages["label"].isin(tables.KEY_METHODS)]
    # Every student's record repeats its teacher's measures; one run's are enough.
    teachers = chosen[chosen["network"] == "teacher"].assign(label="teacher")
    teachers = teachers.drop_duplicates(["measure", "stage", "value"])
    students = chosen[chosen["network"] == "student"]
    keys = ["measure", "label", "stage", "data_seed", "init_seed"]
    means = students.groupby(keys, as_index=False)[["value", "chance"]].mean()  # over teachers
    rows = pd.concat([means, teachers])
    found = tables.with_interval(rows, ["measure", "label", "stage"], "value")
    return found if found.empty else found.assign(chance=rows["chance"].mean())


ssim_by_stage_table = partial(_by_stage, measures=["ssim"])
relevance_by_stage_table = partial(_by_stage, measures=["energy_share", "pointing"])


@drawn_from(ssim_by_stage_table)
def ssim_by_stage(data: pd.DataFrame) -> Figure:
    """SSIM of student and teacher attention maps at each stage, with 95 % intervals."""
    figure, (axes,) = new_figure(COLUMN, 2.6)
    _stage_dots(axes, data, 1)
    axes.set_ylabel("SSIM to the teacher's map")
    style.legend(figure, style.methods_of(data))
    return figure


@drawn_from(relevance_by_stage_table)
def relevance_by_stage(data: pd.DataFrame) -> Figure:
    """Share of attention on relevant pixels, and pointing game: students, teacher, chance."""
    figure, panels = new_figure(PAGE, 2.6, columns=2)
    line: dict[str, Any] = {"color": NEUTRAL, "ls": ":", "lw": 1}
    for axes, measure in zip(panels, ("energy_share", "pointing"), strict=True):
        _stage_dots(axes, data[data["measure"] == measure], 100)
        axes.axhline(100 * data["chance"].iloc[0], **line)
    panels[0].set_ylabel("attention on relevant pixels (%)")
    panels[1].set_ylabel("pointing game (%)")
    style.legend(figure, style.methods_of(data), [Line2D([], [], label="chance", **line)])
    return figure


def _stage_dots(axes: Axes, data: pd.DataFrame, scale: float) -> None:
    """Mean and interval of every method at every stage, side by side."""
    labels, stages = style.methods_of(data), sorted(set(data["stage"]))
    for place, label in enumerate(labels):
        shift = 0.8 * ((place + 0.5) / len(labels) - 0.5)
        for row in data[data["label"] == label].to_dict("records"):
            values = [scale * row[name] for name in ("mean", "low", "high")]
            style.dot(axes, label, values, row["stage"] + shift, upright=True)
    axes.set_xticks(stages, map(str, stages))
    axes.set_xlim(stages[0] - 0.5, stages[-1] + 0.5)
    axes.set_xlabel("stage, fine to coarse")
    axes.grid(axis="x", visible=False)


def map_spectra_table(table: pd.DataFrame) -> pd.DataFrame:
    """``mean`` share of the maps' AC energy by ``stage``, ``label``, radial ``frequency``."""
    rows = tables.from_analyses(table, _shares, SPECTRA_OF)
    return tables.with_interval(rows, ["stage", "label", "frequency"], "share")


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
        style.curves(axes, own, "frequency")
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set(xlabel="frequency (half periods an image)", title=f"stage {stage}")
        axes.set_ylim(0, 1.2 * 100 * own["mean"].max())  # bands of two seeds know no bounds
    panels[0].set_ylabel("share of the maps' energy (%)")
    style.legend(figure, style.methods_of(data))
    return figure


def attention_maps_table(table: pd.DataFrame) -> pd.DataFrame:
    """A row a network and image, of one run a network, with the ``digest`` of its maps' file.

    Empty without the teacher's maps. Attribute ``maps``: what is drawn, by label.
    """
    paths = tables.first_runs(MAPS_FILE, table, MAPS_OF)
    if "teacher" not in paths:
        return pd.DataFrame()
    maps, parts = {label: load_maps(path) for label, path in paths.items()}, []
    for label, own in maps.items():
        digest = hashlib.sha256((paths[label] / MAPS_FILE).read_bytes()).hexdigest()[:12]
        images = {"position": own.positions, "true": own.labels, "predicted": own.predicted}
        parts.append({"label": label, "run_id": paths[label].name, **images, "digest": digest})
    found = pd.concat(map(pd.DataFrame, parts), ignore_index=True)
    found.attrs["maps"] = maps
    return found


@drawn_from(attention_maps_table)
def attention_maps(data: pd.DataFrame) -> Figure:
    """Maps, each scaled by itself, over the same images, by stage; ✗: a wrong answer."""
    maps = data.attrs["maps"]
    columns, rows = 1 + len(maps) * len(maps["teacher"].stages), len(maps["teacher"].images)
    height = ((PAGE - 0.1) / columns + 0.14) * rows + 0.2
    none = {"wspace": 0, "hspace": 0}
    figure, panels = new_figure(PAGE, height, columns, rows, bare=True, gridspec_kw=none)
    figure.set_layout_engine(ConstrainedLayoutEngine(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0))
    teacher = maps["teacher"]
    cells = [(stage, *one) for stage in range(len(teacher.stages)) for one in maps.items()]
    for row, (first, *others) in enumerate(np.array(panels).reshape(rows, columns)):
        image = teacher.images[row]
        first.imshow(as_picture(image))
        first.set_title(teacher.labels[row], fontsize=6.5, pad=2)
        for axes, (stage, label, own) in zip(others, cells, strict=True):
            heat = enlarged(own.stages[stage][row] / 255, image)
            axes.imshow(as_picture(image).mean(2), cmap="gray", vmin=0, vmax=255)
            axes.imshow(heat, cmap=HEAT, vmin=0, vmax=1, alpha=np.sqrt(heat))
            if row == 0:
                side = own.stages[stage].shape[1]
                head = f"stage {stage + 1}: {side} × {side}" if label == "teacher" else ""
                axes.set_title(f"{head}\n", fontsize=7, loc="left")
            right = own.predicted[row] == own.labels[row]
            axes.set_title(name_of(label) + ("" if right else " ✗"), fontsize=6.5, pad=2)
    return figure
