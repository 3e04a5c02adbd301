"""Detections drawn on their images, each as TIDE judges it; several detectors one above another."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from torch import Tensor

from kdlib.data.image_data import ImageData
from kdlib.detection.average_precision import LEFT_OUT, RIGHT, detected_rows, judged, truth_rows
from kdlib.detection.detector import Detections
from kdlib.detection.objects import Objects
from kdlib.errors import KdlibError
from study.figures.pictures import as_picture, picture_panels
from study.figures.style import figure_style
from study.names import PALETTE

SURE = 0.3  # score from which a detection is drawn: below it there are hundreds an image
TRUTH, MISSED = "truth", "miss"
FADED, GREY = 0.6, 90  # share of the image that stays, so that boxes stand out, and the rest
LEGEND_ENTRY = 1.6  # inches
WIDEST = 16  # characters of a name
OTHER = ("nothing there, or there twice", PALETTE[6], ":")
# Verdict (see kdlib.detection.average_precision) -> what it is called, colour and line.
MARKS: dict[str, tuple[str, str, str]] = {
    TRUTH: ("object", "white", "-"),
    RIGHT: ("right", "#20d8a0", "-"),  # the palette's green, and brighter, as its orange
    "cls": ("wrong class", "#ff9f1c", "-"),
    "loc": ("badly placed", PALETTE[9], "--"),
    "both": ("wrong class, badly placed", PALETTE[4], "--"),
    "bkg": OTHER,
    "dupe": OTHER,
    LEFT_OUT: ("on a crowd", "#cccccc", ":"),
    MISSED: ("missed object", PALETTE[8], ":"),
}


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
    names: bool = True,
) -> Figure:
    """An image a column: its objects in the first row, then what each detector finds.

    Args:
        data: images with objects.
        found: detector's name -> its detections of all images of ``data``, as
            :func:`kdlib.detection.evaluation.detect` returns them.
        positions: the images to show.
        names: write the classes beside the boxes.

    Raises:
        KdlibError: no objects in the data, no such image, or not a detection list an image.
    """
    objects = _checked(data, found, positions)
    rows, width = 1 + len(found), 1.43 * len(positions) + 0.2
    figure, panels = picture_panels(rows, len(positions), width, 1.41 * rows + 0.3)
    drawn: set[str] = set()
    for column, position in zip(panels.T, positions, strict=True):
        own = objects.part(position, position + 1)
        judgements = [as_truth(own), *(judge_image(of[position], own) for of in found.values())]
        for axes, one in zip(column, judgements, strict=True):
            _draw(axes, _picture(data, position), one, data.classes if names else None)
            drawn |= set(one.types)
    for axes, name in zip(panels[:, 0], [TRUTH, *found], strict=True):
        axes.text(
            -0.04, 0.5, name, transform=axes.transAxes, rotation=90, ha="right", va="center",
            fontsize=8,
        )  # fmt: skip
    across = max(1, int(width / LEGEND_ENTRY))
    figure.legend(handles=_entries(drawn), loc="outside upper center", ncols=across)
    return figure


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


def _picture(data: ImageData, position: int) -> np.ndarray:
    """An image (H, W, 3) uint8, in memory or read from its file."""
    if isinstance(data.images, Tensor):
        return as_picture(data.images[position])
    return data.images.read(position)


def _draw(axes: Axes, picture: np.ndarray, one: Judged, classes: Sequence[str] | None) -> None:
    """A picture, somewhat faded, and the boxes with their verdicts, and class names, on it."""
    faded = (FADED * picture + (1 - FADED) * GREY).astype(np.uint8)
    axes.imshow(faded, interpolation="nearest")  # smoothed, the file would be twice as large
    order = np.argsort(np.nan_to_num(one.scores, nan=-1), kind="stable")  # the surest on top
    for row in order:
        (_, colour, line), (x1, y1, x2, y2) = MARKS[one.types[row]], one.boxes[row] - 0.5
        outline = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, lw=1.3)
        outline.set(edgecolor=colour, linestyle=line)
        axes.add_patch(outline)
        if classes is not None:
            _write(axes, one.boxes[row], classes[one.kinds[row]][:WIDEST], colour, picture)
    axes.set(xlim=(-0.5, picture.shape[1] - 0.5), ylim=(picture.shape[0] - 0.5, -0.5))


def _write(axes: Axes, box: np.ndarray, text: str, colour: str, picture: np.ndarray) -> None:
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

    Args:
        found: of the image.
        objects: of that image alone.
        sure: the least score; an object that is found with less is missed here.
    """
    kept = found.scores >= sure
    rows, truth = detected_rows([Detections(*(one[kept] for one in found))]), truth_rows(objects)
    verdicts = judged(rows, truth)
    missed = as_truth(objects.chosen(torch.from_numpy(verdicts.missed)))
    boxes = np.concatenate([rows.boxes[:, :2], rows.boxes[:, :2] + rows.boxes[:, 2:]], axis=1)
    return Judged(
        np.concatenate([boxes, missed.boxes]),
        np.concatenate([rows.kinds, missed.kinds]),
        np.concatenate([rows.scores, missed.scores]),
        [*verdicts.types.tolist(), *[MISSED] * len(missed.types)],
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
        error: ``right``, or an error of :func:`~kdlib.detection.average_precision.error_types`.
        sure: score from which detections count.
    """
    parts = (objects.part(number, number + 1) for number in range(len(objects)))
    judgements = (judge_image(*pair, sure) for pair in zip(found, parts, strict=True))
    return torch.tensor([one.types.count(error) for one in judgements])


def _entries(types: set[str]) -> list[Line2D]:
    """What the boxes' colours and lines mean, of those that were drawn."""
    marks = dict.fromkeys(mark for verdict, mark in MARKS.items() if verdict in types)
    on_page = {"white": "#aaaaaa"}
    return [
        Line2D([], [], c=on_page.get(colour, colour), ls=line, label=name)
        for name, colour, line in marks
    ]
