"""Average precision and recall of detections, by faster_coco_eval as pycocotools counts them.

Boxes of all images lie in flat arrays, a row per box: x, y, width, height in pixels, float64.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask

from kdlib.detection.detector import Detections
from kdlib.detection.objects import Objects
from kdlib.errors import KdlibError

MOST = 100  # detections per class and image that COCO counts, the surest
THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""Of IoU, from which on COCO takes an object for found."""
SIZES = ("small", "medium", "large")
LARGEST = 1e10  # pixels^2: COCO's bound, beyond any object


def coco_measures(
    detections: Sequence[Detections], objects: Objects, classes: int
) -> dict[str, Any]:
    """Average precision and recall over N images (Lin et al. 2014; cocodataset.org, "Metrics").

    An object's size is the area of its box; COCO's own tables take the area of its mask where
    they tell small, medium and large apart. Objects of a crowd count neither as found nor as
    missed, nor do the detections that lie on them.

    Returns:
        Fractions: ``map``, the mean over :data:`THRESHOLDS` and classes; ``map50``, ``map75``;
        ``map_small``, ``map_medium``, ``map_large``, split at ``objects.sizes``, ``None`` where
        there is no such object; ``ap_by_iou``, one number per threshold; ``per_class``, the mean
        over thresholds of each class, ``None`` where it has no object; ``recall``, the mean over
        thresholds and classes with at most 100 detections per class and image.

    Raises:
        KdlibError: there is nothing to detect.
    """
    check_there_are_objects(objects)
    counted = evaluated(detected_rows(detections), truth_rows(objects), objects, classes)
    precision, recall = counted["precision"][..., -1], counted["recall"][..., -1]
    everything = precision[..., 0]
    return {
        "map": _mean(everything),
        "map50": _mean(everything[THRESHOLDS.index(0.5)]),
        "map75": _mean(everything[THRESHOLDS.index(0.75)]),
        **{f"map_{name}": _mean(precision[..., at]) for at, name in enumerate(SIZES, 1)},
        "ap_by_iou": [_mean(of_threshold) for of_threshold in everything],
        "per_class": [_mean(everything[:, :, kind]) for kind in range(everything.shape[2])],
        "recall": _mean(recall[..., 0]),
    }


def check_there_are_objects(objects: Objects) -> None:
    """Refuse images with nothing to detect."""
    if objects.crowd.all():  # also where there is none
        raise KdlibError(
            f"None of the {len(objects)} images has an object that counts; evaluate "
            "at least one image with an object that is not part of a crowd."
        )


def _mean(values: np.ndarray) -> float | None:
    """Of what is known; ``None`` if nothing is."""
    known = values[values > -1]
    return float(known.mean()) if known.size else None


class Detected(NamedTuple):
    """What was detected, in COCO's order: by image and class, the surest first."""

    images: np.ndarray  # (D,) int64
    kinds: np.ndarray  # (D,) int64
    boxes: np.ndarray  # (D, 4)
    scores: np.ndarray  # (D,) float64


class Truth(NamedTuple):
    """What is to be detected, image after image; a crowd counts neither as found nor as missed."""

    images: np.ndarray  # (M,) int64
    kinds: np.ndarray  # (M,) int64
    boxes: np.ndarray  # (M, 4)
    crowd: np.ndarray  # (M,) bool


class Pairs(NamedTuple):
    """Detections and objects of the same image that overlap, by their rows.

    The IoU of a detection and a crowd is their intersection over the detection's area.
    """

    found: np.ndarray  # (P,) int64
    truth: np.ndarray  # (P,) int64
    iou: np.ndarray  # (P,) float64

    def where(self, chosen: np.ndarray) -> "Pairs":
        """Those of a mask (P,)."""
        return Pairs(*(values[chosen] for values in self))


def detected_rows(detections: Sequence[Detections]) -> Detected:
    """The detections of N images as rows, at most :data:`MOST` per class and image."""
    images = np.repeat(np.arange(len(detections)), [len(one.scores) for one in detections])
    boxes, kinds, scores = (
        torch.cat(parts).detach().cpu().double().numpy() for parts in zip(*detections, strict=True)
    )
    order = np.lexsort((-scores, kinds, images))  # stable: equals keep their order
    rows = [values[order] for values in (images, kinds.astype(np.int64), _sized(boxes), scores)]
    place, starts = np.arange(len(order)), np.ones(len(order), bool)
    starts[1:] = (np.diff(rows[0]) != 0) | (np.diff(rows[1]) != 0)
    surest = place - np.maximum.accumulate(np.where(starts, place, 0)) < MOST
    return Detected(*(values[surest] for values in rows))


def truth_rows(objects: Objects) -> Truth:
    """The objects as rows."""
    boxes = _sized(objects.boxes.double().numpy())
    return Truth(objects.owners.numpy(), objects.kinds.numpy(), boxes, objects.crowd.numpy())


def _sized(boxes: np.ndarray) -> np.ndarray:
    """(n, 4) of x1, y1, x2, y2 as x, y, width, height; nothing is less than 0 wide."""
    return np.concatenate([boxes[:, :2], np.maximum(boxes[:, 2:] - boxes[:, :2], 0)], axis=1)


def overlapping(found: Detected, truth: Truth) -> Pairs:
    """Every detection with every object of its image, where they overlap."""
    none = np.zeros(0, int)
    parts = [Pairs(none, none, np.zeros(0))]
    for image in np.intersect1d(found.images, truth.images):
        mine, theirs = (
            np.arange(*np.searchsorted(rows.images, (image, image + 1))) for rows in (found, truth)
        )
        crowd = truth.crowd[theirs].astype(int).tolist()
        iou = np.asarray(mask.iou(found.boxes[mine], truth.boxes[theirs], crowd))
        near = np.nonzero(iou)
        parts.append(Pairs(mine[near[0]], theirs[near[1]], iou[near]))
    return Pairs(*map(np.concatenate, zip(*parts, strict=True)))


def evaluated(found: Detected, truth: Truth, objects: Objects, classes: int) -> dict[str, Any]:
    """What faster_coco_eval counts: ``precision`` (T, R, C, A, 3) and ``recall`` (T, C, A, 3).

    T thresholds, R = 101 recalls, A = all sizes and the three of :data:`SIZES`; last 1, 10 and 100
    detections per image. -1 stands for "no object".
    """
    bounds = (0.0, *objects.sizes, LARGEST)
    evaluator = COCOeval_faster(
        _annotated(len(objects), classes, truth, iscrowd=truth.crowd.astype(int)),
        _annotated(len(objects), classes, found, score=found.scores),
        "bbox",
        ranges={name: list(bounds[at : at + 2]) for at, name in enumerate(SIZES)},
    )
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator.eval


def _annotated(images: int, classes: int, rows: Detected | Truth, **more: np.ndarray) -> COCO:
    """The evaluator's own kind of data set. Its ids begin at 1: to it, 0 means "no match"."""
    columns = {
        "id": np.arange(1, len(rows.kinds) + 1),
        "image_id": rows.images,
        "category_id": rows.kinds,
        "bbox": rows.boxes,
        "area": rows.boxes[:, 2] * rows.boxes[:, 3],
        **more,
    }
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    contents = {
        "images": [{"id": image} for image in range(images)],
        "categories": [{"id": kind} for kind in range(classes)],
        "annotations": [dict(zip(columns, row, strict=True)) for row in values],
    }
    return COCO(contents)
