"""Detectors on a data set: what they find, how good that is, and what finding costs."""

import time
from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from faster_coco_eval.core import mask
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kdlib.data.image_data import ImageData
from kdlib.detection.batches import DetectionBatches
from kdlib.detection.detector import Detections, Detector
from kdlib.detection.objects import Objects
from kdlib.errors import KdlibError
from kdlib.evaluate import evaluating
from kdlib.models.cost import count_parameters
from kdlib.team import ALONE, Team

BATCH_SIZE = 50
REPEATS = 5
MOST = 100
"""Detections per class and image that COCO counts, the surest."""
THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""Of IoU, from which on COCO takes an object for found."""
SIZES = ("small", "medium", "large")
LARGEST = 1e10  # pixels^2: COCO's bound, beyond any object


def detect(
    detector: Detector,
    data: ImageData,
    batch_size: int = BATCH_SIZE,
    *,
    device: torch.device | str = "cpu",
    precision: str = "float32",
) -> list[Detections]:
    """What a detector finds in every image, in order, on the CPU; its mode is restored."""
    batches = DetectionBatches(data, batch_size, device=device)
    (found,) = _found([detector], batches, precision)
    return [one for of_batch in found for one in of_batch]


def _found(
    detectors: Sequence[Detector], batches: DetectionBatches, precision: str
) -> list[list[list[Detections]]]:
    """What each detector finds in each batch, in order, on the CPU."""
    found: list[list[list[Detections]]] = [[] for _ in detectors]
    with evaluating(*detectors):
        for batch in batches.in_order():
            for detector, own in zip(detectors, found, strict=True):
                kind = batch.images[0].device.type
                with torch.autocast(kind, torch.bfloat16, precision == "bfloat16"):
                    answer = detector(batch.images)
                own.append([Detections(*(values.cpu() for values in one)) for one in answer])
    return found


def evaluate_detectors(
    detectors: Sequence[Detector],
    data: ImageData,
    batch_size: int = BATCH_SIZE,
    *,
    device: torch.device | str = "cpu",
    precision: str = "float32",
    team: Team = ALONE,
) -> list[dict[str, Any]]:
    """What a record says of each detector's quality, from one pass over ``data``.

    Several processes each take a part of the batches, and all have all results.

    Returns:
        For each detector ``results``, see :func:`measured`; ``ssim`` and ``relevance`` are
        ``None``: a detector's stages have no teacher's to be compared with.

    Raises:
        KdlibError: the data has no objects.
    """
    if data.objects is None:
        raise KdlibError("There is no truth to compare detections with: load task='detection'.")
    batches = DetectionBatches(data, batch_size, device=device, team=team)
    qualities = []
    for own in _found(detectors, batches, precision):
        found = [one for of_batch in team.in_order(own) for one in of_batch]
        results = measured(found, data.objects, len(data.classes))
        qualities.append({"results": results, "ssim": None, "relevance": None})
    return qualities


def detector_cost(detector: Detector, images: list[Tensor]) -> dict[str, Any]:
    """Parameters, operations of one image, and median latency (ms) of 1 and of all ``images``.

    From pixels to detections, torchvision's resizing and selection included. Operations are those
    of convolutions and matrix products.
    """
    with evaluating(detector), FlopCounterMode(display=False) as counter:
        detector(images[:1])
    with evaluating(detector):
        latency = {str(len(some)): _latency(detector, some) for some in (images[:1], images)}
    return {
        "parameters": count_parameters(detector),
        "flops": counter.get_total_flops(),
        "latency_ms": latency,
    }


def _latency(detector: Detector, images: list[Tensor]) -> float:
    seconds = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        sum(len(found.scores) for found in detector(images))
        seconds.append(time.perf_counter() - start)
    return round(1000 * median(seconds[1:]), 3)


def measured(detections: Sequence[Detections], objects: Objects, classes: int) -> dict[str, Any]:
    """All measures of N images' detections, fit for JSON; fractions, 0 to 1.

    Returns:
        Those of :func:`coco_measures`; ``errors``, what
        :func:`~kdlib.detection.error_types.error_types` returns; ``detections``, how many there
        are.

    Raises:
        KdlibError: there is nothing to detect, not as many images as in ``objects``, a class that
            does not exist, or a number that is not finite.
    """
    from kdlib.detection.error_types import error_types

    for image, one in enumerate(detections):
        _check(one, classes, image)
    if len(detections) != len(objects):
        raise KdlibError(
            f"Detections of {len(detections)} images, objects of {len(objects)}; give the "
            "detections of every image once, in the order of the objects."
        )
    return {
        **coco_measures(detections, objects, classes),
        "errors": error_types(detections, objects, classes),
        "detections": sum(len(one.scores) for one in detections),
    }


def _check(one: Detections, classes: int, image: int) -> None:
    if not (torch.isfinite(one.boxes).all() and torch.isfinite(one.scores).all()):
        raise KdlibError(
            f"A box or a score of image {image} is not finite: the detector has diverged; train "
            "it with a lower learning rate."
        )
    strange = one.kinds[(one.kinds < 0) | (one.kinds >= classes)]
    if len(strange):
        raise KdlibError(
            f"Image {image} has a detection of class {int(strange[0])}, but the {classes} classes "
            f"are 0 to {classes - 1}; evaluate with the classes that the detector was made for."
        )


def coco_measures(
    detections: Sequence[Detections], objects: Objects, classes: int
) -> dict[str, Any]:
    """Average precision and recall over N images (Lin et al. 2014; cocodataset.org, "Metrics").

    An object's size is the area of its box; COCO's own tables take the area of its mask where
    they tell small, medium and large apart. Objects of a crowd count neither as found nor as
    missed, nor do the detections that lie on them.

    Args:
        detections: of each image.
        objects: of the same images.
        classes: number of classes C.

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
    by_size = {f"map_{name}": mean(precision[..., at]) for at, name in enumerate(SIZES, 1)}
    return {
        "map": mean(everything),
        "map50": mean(everything[THRESHOLDS.index(0.5)]),
        "map75": mean(everything[THRESHOLDS.index(0.75)]),
        **by_size,
        "ap_by_iou": [mean(of_threshold) for of_threshold in everything],
        "per_class": [mean(everything[:, :, kind]) for kind in range(everything.shape[2])],
        "recall": mean(recall[..., 0]),
    }


def check_there_are_objects(objects: Objects) -> None:
    """Refuse images with nothing to detect.

    Raises:
        KdlibError: no image has an object that counts.
    """
    if objects.crowd.all():  # also where there is none
        raise KdlibError(
            f"None of the {len(objects)} images has an object that counts; evaluate "
            "at least one image with an object that is not part of a crowd."
        )


def mean(values: np.ndarray) -> float | None:
    """Of what is known; ``None`` if nothing is."""
    known = values[values > -1]
    return float(known.mean()) if known.size else None


# Boxes of all images in flat arrays, a row per box: x, y, width, height in pixels, float64.
class Detected(NamedTuple):
    """What was detected, in COCO's order: by image and class, the surest first.

    Attributes:
        images: (D,) int64, the image of each.
        kinds: (D,) int64.
        boxes: (D, 4).
        scores: (D,) float64.
    """

    images: np.ndarray
    kinds: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray


class Truth(NamedTuple):
    """What is to be detected, image after image.

    Attributes:
        images: (M,) int64, the image of each.
        kinds: (M,) int64.
        boxes: (M, 4).
        crowd: (M,) bool, what counts neither as found nor as missed.
    """

    images: np.ndarray
    kinds: np.ndarray
    boxes: np.ndarray
    crowd: np.ndarray


class Pairs(NamedTuple):
    """Detections and objects of the same image that overlap.

    Attributes:
        found: (P,) int64, the row of the detection.
        truth: (P,) int64, the row of the object.
        iou: (P,) float64, intersection over union; for a crowd, over the detection's area.
    """

    found: np.ndarray
    truth: np.ndarray
    iou: np.ndarray

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
