"""Detectors that a classifier of crops teaches: what they gain, and which errors they lose."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor

from kdlib.data.image_data import ImageData
from kdlib.detection.data import Objects
from kdlib.detection.error_types import LEFT_OUT, RIGHT, judged
from kdlib.detection.evaluation import detected_rows, truth_rows
from kdlib.detection.models import Detections
from kdlib.errors import KdlibError
from kdlib.methods import METHODS as methods_METHODS
from study.figures.comparison import students_of, with_interval
from study.figures.pictures import as_picture, panels
from study.figures.style import (
    COLUMN,
    NEUTRAL,
    PAGE,
    PALETTE,
    curve,
    dot,
    entry,
    figure_style,
    look,
    methods_of,
    name_of,
    named_rows,
    new_figure,
    no_difference,
    rows_height,
    seeds_text,
    shown,
)
from study.records import ERRORS as records_ERRORS
from study.records import IOUS, student_settings
from study.statistics import (
    METHODS,
    STUDENT,
    Comparison,
    main_runs,
    paired_comparison,
    smallest_effect,
)

# Detections drawn on their images, each as TIDE judges it; several detectors one above the other.
SURE = 0.3
"""Score from which a detection is drawn: below it there are hundreds an image."""
TRUTH = "truth"
FADED, GREY = 0.6, 90  # share of the image that stays, so that boxes stand out, and the rest
LEGEND_ENTRY = 1.6  # inches
WIDEST = 16  # characters of a label


class Mark(NamedTuple):
    """How a verdict is drawn, and what it is called."""

    name: str
    colour: str
    line: str


_OTHER = Mark("nothing there, or there twice", PALETTE[6], ":")
MARKS: dict[str, Mark] = {
    TRUTH: Mark("object", "white", "-"),
    RIGHT: Mark("right", "#20d8a0", "-"),  # the palette's green, and brighter, as its orange
    "cls": Mark("wrong class", "#ff9f1c", "-"),
    "loc": Mark("badly placed", PALETTE[9], "--"),
    "both": Mark("wrong class, badly placed", PALETTE[4], "--"),
    "bkg": _OTHER,
    "dupe": _OTHER,
    LEFT_OUT: Mark("on a crowd", "#cccccc", ":"),
    "miss": Mark("missed object", PALETTE[8], ":"),
}
"""By verdict, see :func:`kdlib.detection.error_types.error_types`."""


class Judged(NamedTuple):
    """One image's detections, of those that are sure enough, with what is right about them.

    Attributes:
        boxes: (n, 4), x1, y1, x2, y2 of detections, and of objects that none of them finds.
        kinds: (n,) int64, their classes.
        scores: (n,), NaN for an object.
        types: of each, a key of :data:`MARKS`.
    """

    boxes: np.ndarray
    kinds: np.ndarray
    scores: np.ndarray
    types: list[str]


@figure_style()
def detection_grid(
    data: ImageData,
    found: Mapping[str, Sequence[Detections]],
    positions: Sequence[int],
    *,
    sure: float = SURE,
    names: bool = True,
    side: float = 1.35,
) -> Figure:
    """An image a column: its objects in the first row, then what each detector finds.

    Args:
        data: images with objects.
        found: detector's name -> its detections of all images of ``data``, as
            :func:`kdlib.detection.evaluation.detect` returns them.
        positions: the images to show.
        sure: score from which detections are drawn, and count as finding an object.
        names: write the classes beside the boxes.
        side: inches of a panel's side.

    Raises:
        KdlibError: no objects in the data, no such image, or not a detection list an image.
    """
    objects = _checked(data, found, positions)
    rows = 1 + len(found)
    width, height = (side + 0.08) * len(positions) + 0.2, (side + 0.06) * rows + 0.3
    figure, grid = panels(rows, len(positions), width, height)
    drawn: set[str] = set()
    for column, position in enumerate(positions):
        picture, own = picture_of(data, position), objects.part(position, position + 1)
        shown = [as_truth(own), *(judge_image(of[position], own, sure) for of in found.values())]
        for axes, one in zip(grid[:, column], shown, strict=True):
            draw_judged(axes, picture, one, data.classes if names else None)
            drawn |= set(one.types)
    for axes, name in zip(grid[:, 0], [TRUTH, *found], strict=True):
        axes.text(
            -0.04, 0.5, name, transform=axes.transAxes, rotation=90, ha="right", va="center",
            fontsize=8,
        )  # fmt: skip
    across = max(1, int(width / LEGEND_ENTRY))
    figure.legend(handles=legend_entries(drawn), loc="outside upper center", ncols=across)
    return figure


def draw_judged(
    axes: Axes, picture: np.ndarray, one: Judged, classes: Sequence[str] | None = None
) -> None:
    """A picture (H, W, 3) uint8, somewhat faded, and the boxes with their verdicts on it.

    Args:
        axes: where to draw.
        picture: the image.
        one: its detections and what is said of them.
        classes: names to write beside the boxes; ``None`` writes nothing.
    """
    faded = (FADED * picture + (1 - FADED) * GREY).astype(np.uint8)
    axes.imshow(faded, interpolation="nearest")  # smoothed, the file would be twice as large
    order = np.argsort(np.nan_to_num(one.scores, nan=-1), kind="stable")  # the surest on top
    for row in order:
        mark, (x1, y1, x2, y2) = MARKS[one.types[row]], one.boxes[row] - 0.5
        outline = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, lw=1.3)
        outline.set(edgecolor=mark.colour, linestyle=mark.line)
        axes.add_patch(outline)
        if classes is not None:
            label(axes, one.boxes[row], classes[one.kinds[row]][:WIDEST], mark.colour, picture)
    axes.set(xlim=(-0.5, picture.shape[1] - 0.5), ylim=(picture.shape[0] - 0.5, -0.5))


def label(axes: Axes, box: np.ndarray, text: str, colour: str, picture: np.ndarray) -> None:
    """A box's name on its upper edge; inside, and away from the border, where it would be cut."""
    (height, width), (x1, y1, x2, _) = picture.shape[:2], box - 0.5
    left, right, high = x1 < 0.1 * width, x2 > 0.9 * width, y1 < 0.07 * height
    place, align = (x1, "left") if left else (x2, "right") if right else ((x1 + x2) / 2, "center")
    axes.annotate(
        text, (place, max(y1, 0)), xytext=(2 * int(left) - 2 * int(right), -1 if high else 0.5),
        textcoords="offset points", color=colour, fontsize=5.5, ha=align,
        va="top" if high else "bottom", clip_on=True,
        path_effects=[withStroke(linewidth=1.2, foreground="black")],
    )  # fmt: skip


def judge_image(found: Detections, objects: Objects, sure: float = SURE) -> Judged:
    """What is right and wrong about the detections of one image, and which objects are missed.

    Judged at the score ``sure``: an object that is found with less is missed here.

    Args:
        found: of the image.
        objects: of that image alone.
        sure: the least score.
    """
    kept = found.scores >= sure
    rows, truth = detected_rows([Detections(*(one[kept] for one in found))]), truth_rows(objects)
    verdicts = judged(rows, truth)
    missed = torch.from_numpy(verdicts.missed)
    return Judged(
        np.concatenate([_corners(rows.boxes), objects.boxes[missed].double().numpy()]),
        np.concatenate([rows.kinds, truth.kinds[verdicts.missed]]),
        np.concatenate([rows.scores, np.full(int(missed.sum()), np.nan)]),
        [*verdicts.types.tolist(), *["miss"] * int(missed.sum())],
    )


def as_truth(objects: Objects) -> Judged:
    """The objects of one image; crowds are marked as such."""
    types = [LEFT_OUT if crowd else TRUTH for crowd in objects.crowd.tolist()]
    scores = np.full(len(types), np.nan)
    return Judged(objects.boxes.double().numpy(), objects.kinds.numpy(), scores, types)


def errors_of_images(
    found: Sequence[Detections], objects: Objects, error: str, sure: float = SURE
) -> Tensor:
    """(N,) int64: how often a verdict occurs in each image, to choose those that are worth a look.

    Args:
        found: detections of each image.
        objects: of the same images.
        error: ``right``, or an error of :func:`~kdlib.detection.error_types.error_types`.
        sure: score from which detections count.
    """
    parts = (objects.part(number, number + 1) for number in range(len(objects)))
    counts = [
        judge_image(one, own, sure).types.count(error)
        for one, own in zip(found, parts, strict=True)
    ]
    return torch.tensor(counts)


def legend_entries(types: set[str]) -> list[Line2D]:
    """What the boxes' colours and lines mean, of those that were drawn."""
    marks = dict.fromkeys(mark for name, mark in MARKS.items() if name in types)
    on_page = {"white": "#aaaaaa"}
    return [
        Line2D([], [], c=on_page.get(mark.colour, mark.colour), ls=mark.line, label=mark.name)
        for mark in marks
    ]


def picture_of(data: ImageData, position: int) -> np.ndarray:
    """An image as matplotlib shows it, (H, W, 3) uint8, in memory or read from its file."""
    if isinstance(data.images, Tensor):
        return as_picture(data.images[position])
    return data.images.read(position)


def _corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def _checked(
    data: ImageData, found: Mapping[str, Sequence[Detections]], positions: Sequence[int]
) -> Objects:
    if data.objects is None:
        raise KdlibError("These images have no objects to draw: load task='detection'.")
    for name, of_images in found.items():
        if len(of_images) != len(data):
            raise KdlibError(
                f"'{name}' has detections of {len(of_images)} images, but there are {len(data)}; "
                "detect in the very images that are drawn."
            )
    for position in positions:
        if not 0 <= position < len(data):
            raise KdlibError(f"There is no image {position}; there are 0 to {len(data) - 1}.")
    if not positions:
        raise KdlibError("No image was named to draw; give at least one position.")
    return data.objects


# Detectors that a classifier of crops teaches: what they gain, and which errors they lose.
TABLE_METRICS = ("map", "map50", "map75")
TYPES = tuple(name for name in records_ERRORS if not name.startswith("false_"))
"""TIDE's types, each error in one of them; ``false_pos`` and ``false_neg`` overlap with them."""
OF_RUN = ("weight", "crop_size", "teacher", "teacher_epochs")
"""Fields of a run that are choices of its method, beside the method's own options."""


def detection_gain_table(table: pd.DataFrame) -> pd.DataFrame:
    """Gains of each method over the detector alone, paired over seeds.

    Columns: ``label``, and those of :class:`study.statistics.Comparison`, ``metric`` being one
    of ``METRICS``. Empty without the detector alone, or without a method.
    """
    rows = [
        {"label": label, **vars(found)}
        for label, metric, found in _over_student(table, TABLE_METRICS)
        if found.n
    ]
    return pd.DataFrame(rows)


def detection_iou_table(table: pd.DataFrame) -> pd.DataFrame:
    """As :func:`detection_gain`, in the AP at each IoU from which a detection is right.

    Columns besides: ``iou``, a fraction.
    """
    columns = {f"ap{percent}": percent / 100 for percent in IOUS}
    rows = [
        {"label": label, "iou": columns[metric], **vars(found)}
        for label, metric, found in _over_student(table, tuple(columns))
        if found.n
    ]
    return pd.DataFrame(rows)


def error_types_table(table: pd.DataFrame) -> pd.DataFrame:
    """What errors of each of TIDE's types cost, in AP50, with each method; less is better.

    Columns: ``error``, one of ``TYPES``; ``label``, ``init_seed``, ``dap`` of a run; ``mean``,
    ``low``, ``high``, ``n`` of its method. Empty where a single method was run.
    """
    runs = main_runs(_detectors(table))
    if runs.empty or runs["label"].nunique() < 2:
        return pd.DataFrame()
    columns = {f"dap_{name}": name for name in TYPES}
    kept = runs[["label", "init_seed", *columns]].rename(columns=columns)
    long = kept.melt(["label", "init_seed"], list(TYPES), "error", "dap")
    return long.merge(with_interval(long, ["error", "label"], "dap"), on=["error", "label"])


def detection_ablations_table(table: pd.DataFrame) -> pd.DataFrame:
    """One choice of a method changed at a time: difference in mAP to the method as compared.

    Runs may be of several students. Columns: ``student``, ``switch`` (an option of the method, or
    one of ``OF_RUN``), ``value``, ``used`` (of the method as compared, whose difference is 0), and
    those of :class:`study.statistics.Comparison`. Runs that differ in several choices are left
    out, and seeds that the method as compared does not have.
    """
    rows: list[dict[str, Any]] = []
    compared = student_settings(table) if _has_detectors(table) else []
    sizes = table["setting"].value_counts()
    for setting in sorted(compared, key=lambda one: -sizes[one]):  # the main student first
        runs = table[(table["setting"] == setting) & (table["split"] == "train")]
        mains = main_runs(runs)
        for method in sorted(set(runs["method"]) & set(METHODS), key=METHODS.index):
            own = runs[runs["method"] == method]
            rows += _switched(own, own["run_id"].isin(mains["run_id"]))
    return pd.DataFrame(rows)


def detection_weights_table(table: pd.DataFrame) -> pd.DataFrame:
    """MAP by the weight of each method's terms, on the dev split: means over the grid's seeds.

    Columns: ``method``, ``weight``, ``factor`` of the method's default weight, ``map``, ``n``; the
    detector alone has no weight. Empty where no method has two.
    """
    runs = _detectors(table)
    if runs.empty:
        return pd.DataFrame()
    runs = runs[runs["split"] == "dev"]
    defaults = {method: methods_METHODS[method].weight for method in METHODS}
    weights = runs["weight"].astype(float).fillna(runs["method"].map(defaults))
    groups = runs.assign(weight=weights).groupby(
        ["method", "method_options", "weight"], dropna=False
    )
    found = groups["map"].agg(["mean", "size"]).reset_index()
    found = found.rename(columns={"mean": "map", "size": "n"})
    several = found.groupby(["method", "method_options"])["weight"].transform("nunique") > 1
    if not several.any():
        return pd.DataFrame()
    found = found[several | (found["method"] == STUDENT)].drop(columns="method_options")
    return found.assign(factor=found["weight"] / found["method"].map(defaults))


def _over_student(table: pd.DataFrame, metrics: tuple[str, ...]) -> Iterator[tuple[str, str, Any]]:
    """Of each method and metric the comparison with the detector alone."""
    runs = _detectors(table)
    runs = main_runs(runs) if len(runs) else runs
    known = set(runs["label"]) if len(runs) else set()
    for label in METHODS if STUDENT in known else ():
        for metric in metrics if label in known else ():
            yield label, metric, paired_comparison(runs, label, STUDENT, metric)


def _detectors(table: pd.DataFrame) -> pd.DataFrame:
    """The students of the table's one setting; none of another task."""
    return students_of(table) if _has_detectors(table) else table.iloc[:0]


def _has_detectors(table: pd.DataFrame) -> bool:
    return len(table) > 0 and set(table["task"]) == {"detection"}


def _switched(own: pd.DataFrame, used: pd.Series) -> list[dict[str, Any]]:
    """Of a method's runs those that differ in one choice from the ones ``used`` (a mask)."""
    choices = pd.Series([_choices(row) for row in own.to_dict("records")], index=own.index)
    base, rows = json.loads(choices[used].iloc[0]), []
    for text in dict.fromkeys(choices[~used]):
        changed = {name: v for name, v in json.loads(text).items() if v != base.get(name)}
        if len(changed) == 1:
            found = _difference(own[choices == text], own[used])
            rows += [(*next(iter(changed.items())), False, found)] if found.n else []
    for switch in dict.fromkeys(row[0] for row in rows):
        rows.append((switch, base[switch], True, _difference(own[used], own[used])))
    first = own.iloc[0]
    identity = {"student": first["student"], "method": first["method"]}
    return [
        {**vars(found), **identity, "switch": switch, "value": _as_text(value), "used": main}
        for switch, value, main, found in sorted(rows, key=lambda row: (row[0], row[1]))
    ]


def _choices(row: dict[str, Any]) -> str:
    """All that a method can be given, its defaults filled in, as text."""
    method = methods_METHODS[row["method"]]
    given = {name: row[name] for name in OF_RUN}
    weight = method.weight if pd.isna(row["weight"]) else row["weight"]
    options = {**method.options, **json.loads(row["method_options"])}
    return json.dumps({**given, "weight": weight, **options}, sort_keys=True)


def _difference(runs: pd.DataFrame, used: pd.DataFrame) -> Comparison:
    both = pd.concat([runs.assign(label="changed"), used.assign(label="used")])
    return paired_comparison(both, "changed", "used", "map")


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value) if isinstance(value, str) else f"{value:g}"


METRICS = {"map": "mAP", "map50": "AP at IoU 0.5", "map75": "AP at IoU 0.75"}
ERRORS = {
    "cls": "wrong class", "loc": "badly placed", "both": "both of these", "dupe": "found twice",
    "bkg": "nothing there", "miss": "not found",
}  # fmt: skip
SWITCHES = {
    "temperature": "temperature", "layers": "layers (-1: pixels)", "crop_size": "pixels of a crop",
    "sigmoid": "form for sigmoids", "weight": "weight", "teacher": "classifier",
    "teacher_epochs": "epochs of the classifier", "cls": "weight of KD_cls",
    "loc": "weight of KD_loc", "pixels": "largest value of pixels", "features": "factor of stages",
}  # fmt: skip
GROUP = ["student", "method", "switch"]
INDENT = "    "
WIDTH = 4.6  # inches: the names of choices need room


@figure_style()
def detection_gain(table: pd.DataFrame) -> Figure:
    """Gain of each method over the detector alone with 95 % interval, a panel a metric."""
    data = shown(detection_gain_table(table))
    labels = methods_of(data)[::-1]
    height = 0.75 + 1.2 * rows_height(len(labels))
    figure, panels = new_figure(PAGE, height, len(METRICS), sharex=True, sharey=True)
    for axes, (metric, title) in zip(panels, METRICS.items(), strict=True):
        no_difference(axes, 100 * smallest_effect(metric))
        own = data[data["metric"] == metric].set_index("label")
        for row, label in enumerate(labels):
            values = own.loc[label, ["difference", "low", "high"]].astype(float)
            dot(axes, label, 100 * values, row)
        axes.set_title(title)
        named_rows(axes, [name_of(label) for label in labels])
    figure.supxlabel(f"gain over the detector alone (points), {_seeds_of(data)}", fontsize=8)
    return figure


@figure_style()
def detection_iou(table: pd.DataFrame) -> Figure:
    """Gain of each method over the detector alone, by the IoU from which a detection is right."""
    data = shown(detection_iou_table(table)).rename(columns={"difference": "mean"})
    figure, (axes,) = new_figure(COLUMN, 2.7)
    axes.axhline(0, color=NEUTRAL, lw=0.8)
    for label in methods_of(data):
        curve(axes, label, data[data["label"] == label], "iou")
    axes.set(xlabel="IoU from which a detection is right", ylabel="gain in AP (points)")
    figure.legend(
        handles=[entry(label) for label in methods_of(data)], loc="outside upper center", ncols=2
    )
    return figure


@figure_style()
def error_types(table: pd.DataFrame) -> Figure:
    """What each type of error costs in AP50, by method: mean with 95 % interval, seeds as points.

    Each panel has a scale of its own, from 0.
    """
    data = shown(error_types_table(table))
    labels = methods_of(data)[::-1]
    height = 0.8 + 2 * (0.25 + rows_height(len(labels)))
    figure, panels = new_figure(PAGE, height, columns=3, rows=2, sharey=True)
    for axes, (error, title) in zip(panels, ERRORS.items(), strict=True):
        own = data[data["error"] == error]
        for row, label in enumerate(labels):
            runs = own[own["label"] == label]
            _seeds(axes, label, 100 * runs["dap"], row)
            dot(axes, label, 100 * runs.iloc[0][["mean", "low", "high"]].astype(float), row)
        axes.set_title(title)
        axes.set_xlim(left=0)
        named_rows(axes, [name_of(label) for label in labels])
    text = f"AP50 that a type of error costs (points; scales differ), {_seeds_of(data)}"
    figure.supxlabel(text, fontsize=8)
    return figure


@figure_style()
def detection_ablations(table: pd.DataFrame) -> Figure:
    """One choice of a method changed at a time: mAP less that of the method as compared.

    Filled: as compared; hollow: changed, with its 95 % interval where there are several seeds.
    """
    data = shown(detection_ablations_table(table))
    names, many = list[str](), data["student"].nunique() > 1
    figure, (axes,) = new_figure(WIDTH, 0.8 + rows_height(_lines(data)))
    no_difference(axes, 100 * smallest_effect("map"))
    top = _lines(data) - 1
    for (student, method, switch), rows in data.groupby(GROUP, sort=False):
        own = f"{name_of(method)}, {student.removeprefix('scenes_')}"
        whose = own if many else name_of(method)
        names.append(f"{whose}: {SWITCHES.get(switch, switch)}")
        for one in rows.to_dict("records"):
            _choice(axes, one, top - len(names))  # the rows go down, from the topmost
            names.append(f"{one['value']}{INDENT}")
    named_rows(axes, names[::-1])
    axes.set_xlabel(f"difference in mAP (points), {_seeds_of(data[~data['used']])}")
    return figure


@figure_style()
def detection_weights(table: pd.DataFrame) -> Figure:
    """MAP on the dev split by the weight of each method; dashed: the detector alone."""
    data = shown(detection_weights_table(table)).rename(columns={"method": "label"})
    figure, (axes,) = new_figure(COLUMN, 2.7)
    for value in data.loc[data["label"] == "student", "map"]:
        axes.axhline(100 * value, color=NEUTRAL, ls="--", lw=0.9)
    for label in _taught(data):
        own, style = data[data["label"] == label].sort_values("factor"), look(label)
        axes.plot(own["factor"], 100 * own["map"], "-", c=style.colour, marker=style.marker)
    axes.set(xscale="log", xlabel="weight / default weight", ylabel="mAP on the dev split (%)")
    alone = [Line2D([], [], c=NEUTRAL, ls="--", label="detector alone")]
    shows = alone if "student" in set(data["label"]) else []
    figure.legend(
        handles=[entry(label) for label in _taught(data)] + shows,
        loc="outside upper center", ncols=2,
    )  # fmt: skip
    return figure


def _taught(data: pd.DataFrame) -> list[str]:
    return [label for label in methods_of(data) if label != "student"]


def _seeds(axes: Axes, label: str, values: pd.Series, row: float) -> None:
    """The runs of a method, below its mean."""
    place = [row - 0.27] * len(values)
    axes.plot(values, place, "o", c=look(label).colour, ms=2, alpha=0.6, mew=0)


def _choice(axes: Axes, one: dict, row: float) -> None:
    """A choice's difference; the one that is used lies at 0, and has no interval."""
    style, mean = look(one["method"]), 100 * one["difference"]
    if not one["used"] and one["n"] > 1:
        axes.plot([100 * one["low"], 100 * one["high"]], [row, row], c=style.colour, lw=1.2)
    face = style.colour if one["used"] else "white"
    axes.plot(mean, row, style.marker, c=style.colour, mfc=face, ms=4.5)


def _lines(data: pd.DataFrame) -> int:
    """Rows of the figure: one a choice, and one above each group."""
    return len(data) + len(data[GROUP].drop_duplicates())


def _seeds_of(data: pd.DataFrame) -> str:
    """Of how many seeds means and their intervals are; of one there is no interval."""
    alone = (data["n"] == 1).all()
    return "one seed" if alone else f"95 % intervals of {seeds_text(data)}"
