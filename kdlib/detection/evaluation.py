"""Detectors on a data set: what they find, how good that is, and what finding costs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import torch
from faster_coco_eval import COCO, COCOeval_faster
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kdlib.data.image_data import ImageData
from kdlib.detection.batches import DetectionBatches
from kdlib.detection.data import Objects
from kdlib.detection.models import Detections, Detector
from kdlib.errors import KdlibError
from kdlib.evaluate import evaluating
from kdlib.models.cost import count_parameters
from kdlib.team import ALONE, Team

# Boxes of all images in flat arrays, a row a box, and the overlaps of those of the same image.
MOST = 100  # COCO counts so many detections a class and image, the surest


@dataclass(frozen=True)
class Detected:
    """What was detected, in COCO's order: by image and class, the surest first.

    Attributes:
        images: (D,) int64, the image of each.
        boxes: (D, 4) float64, x, y, width, height in pixels.
        kinds: (D,) int64.
        scores: (D,) float64.
    """

    images: np.ndarray
    boxes: np.ndarray
    kinds: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Truth:
    """What is to be detected, image after image.

    Attributes:
        images: (M,) int64, the image of each.
        boxes: (M, 4) float64, x, y, width, height in pixels.
        kinds: (M,) int64.
        crowd: (M,) bool, what counts neither as found nor as missed.
    """

    images: np.ndarray
    boxes: np.ndarray
    kinds: np.ndarray
    crowd: np.ndarray


@dataclass(frozen=True)
class Pairs:
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
        return Pairs(self.found[chosen], self.truth[chosen], self.iou[chosen])


def detected_rows(detections: Sequence[Detections]) -> Detected:
    """The detections of N images as rows, at most :data:`MOST` a class and image."""
    counts = [len(one.scores) for one in detections]
    rows = Detected(
        np.repeat(np.arange(len(detections)), counts),
        corners_to_sizes(together([one.boxes for one in detections], (0, 4))),
        together([one.kinds for one in detections], (0,)).astype(np.int64),
        together([one.scores for one in detections], (0,)),
    )
    order = np.lexsort((-rows.scores, rows.kinds, rows.images))  # stable: equals keep their order
    return surest(chosen_rows(rows, order))


def surest(found: Detected) -> Detected:
    """The first :data:`MOST` of each image and class, of rows that are in order."""
    place = np.arange(len(found))
    starts = np.ones(len(found), bool)
    starts[1:] = (np.diff(found.images) != 0) | (np.diff(found.kinds) != 0)
    return chosen_rows(found, place - np.maximum.accumulate(np.where(starts, place, 0)) < MOST)


def chosen_rows(found: Detected, rows: np.ndarray) -> Detected:
    """Those of a mask or of indices."""
    return replace(found, **{name: values[rows] for name, values in vars(found).items()})


def truth_rows(objects: Objects) -> Truth:
    """The objects as rows."""
    return Truth(
        objects.owners.numpy(),
        corners_to_sizes(objects.boxes.double().numpy()),
        objects.kinds.numpy(),
        objects.crowd.numpy(),
    )


def together(parts: list[Tensor], empty: tuple[int, ...]) -> np.ndarray:
    """The tensors of all images in one float64 array, of shape ``empty`` where there are none."""
    return (torch.cat(parts) if parts else torch.zeros(empty)).double().numpy()


def corners_to_sizes(boxes: np.ndarray) -> np.ndarray:
    """(n, 4) of x1, y1, x2, y2 as x, y, width, height; nothing is less than 0 wide."""
    return np.concatenate([boxes[:, :2], np.maximum(boxes[:, 2:] - boxes[:, :2], 0)], axis=1)


def overlapping(found: Detected, truth: Truth) -> Pairs:
    """Every detection with every object of its image, where they overlap.

    IoU is computed as pycocotools does, operation by operation, so that a pair on a threshold is
    on the same side of it here and there.
    """
    first, last = (np.searchsorted(truth.images, found.images, side) for side in ("left", "right"))
    counts = last - first
    rows = np.repeat(np.arange(len(found)), counts)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    pairs = Pairs(rows, first[rows] + within, np.zeros(len(rows)))
    mine, theirs = found.boxes[pairs.found], truth.boxes[pairs.truth]
    crossing = intersections(mine, theirs)
    area, other = mine[:, 2] * mine[:, 3], theirs[:, 2] * theirs[:, 3]
    unions = np.where(truth.crowd[pairs.truth], area, area + other - crossing)
    np.divide(crossing, unions, out=pairs.iou, where=crossing > 0)
    return pairs.where(crossing > 0)


def intersections(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Areas (P,) that boxes (P, 4) of x, y, width, height have in common, pair by pair."""
    ends = np.minimum(mine[:, :2] + mine[:, 2:], theirs[:, :2] + theirs[:, 2:])
    sides = np.maximum(ends - np.maximum(mine[:, :2], theirs[:, :2]), 0)
    return sides[:, 0] * sides[:, 1]


# COCO's measures of a detector, by faster_coco_eval, which counts as pycocotools does.
THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))  # of IoU
SIZES = ("small", "medium", "large")
LARGEST = 1e10  # pixels^2: COCO's bound, beyond any object


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
        there is no such object; ``ap_by_iou``, a number a threshold; ``per_class``, the mean over
        thresholds of each class, ``None`` where it has no object; ``recall``, the mean over
        thresholds and classes with at most 100 detections a class and image.

    Raises:
        KdlibError: there is nothing to detect.
    """
    check_there_are_objects(objects)
    return read_off(evaluated(detected_rows(detections), truth_rows(objects), objects, classes))


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


def evaluated(found: Detected, truth: Truth, objects: Objects, classes: int) -> dict[str, Any]:
    """What the evaluator counted: arrays ``precision`` (T, R, C, A, 3) and ``recall`` (T, C, A, 3).

    T thresholds, R = 101 recalls, A = all sizes and the three of :data:`SIZES`; last 1, 10 and 100
    detections an image. -1 stands for "no object".
    """
    bounds = (0.0, *objects.sizes, LARGEST)
    images = [{"id": image} for image in range(len(objects))]
    evaluator = COCOeval_faster(
        annotated(images, classes, annotations(truth, {"iscrowd": truth.crowd.astype(int)})),
        annotated(images, classes, annotations(found, {"score": found.scores})),
        "bbox",
        ranges={name: list(bounds[at : at + 2]) for at, name in enumerate(SIZES)},
        print_function=nowhere,
    )
    evaluator.evaluate()
    evaluator.accumulate()
    return evaluator.eval


def annotated(images: list[dict], classes: int, rows: list[dict]) -> COCO:
    """The evaluator's own kind of data set."""
    kinds = [{"id": kind} for kind in range(classes)]
    contents = {"images": images, "categories": kinds, "annotations": rows}
    return COCO(contents, print_function=nowhere)


def annotations(rows: Detected | Truth, more: dict[str, np.ndarray]) -> list[dict]:
    """A COCO annotation a row. Their ids begin at 1: to the evaluator, 0 means "no match"."""
    columns = {
        "id": np.arange(1, len(rows.kinds) + 1),
        "image_id": rows.images,
        "category_id": rows.kinds,
        "bbox": rows.boxes,
        "area": rows.boxes[:, 2] * rows.boxes[:, 3],
        **more,
    }
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [dict(zip(columns, row, strict=True)) for row in values]


def nowhere(*text: object) -> None:
    """Where the evaluator prints."""


def read_off(counted: dict[str, Any]) -> dict[str, Any]:
    """The measures of :func:`coco_measures` from what :func:`evaluated` returns."""
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


def mean(values: np.ndarray) -> float | None:
    """Of what is known; ``None`` if nothing is."""
    known = values[values > -1]
    return float(known.mean()) if known.size else None


# What is known of one detector, batch after batch, and what a record says of it.
class DetectionMarks:
    """Collects the detections of N images, in their order.

    Args:
        classes: number of classes C.
        objects: what there is to detect on these images.
    """

    def __init__(self, classes: int, objects: Objects) -> None:
        self.classes = classes
        self.objects = objects
        self.detections: list[Detections] = []

    def add(self, detections: Sequence[Detections]) -> None:
        """Take the detections of the next images.

        Raises:
            KdlibError: a class that there is not, or a number that is not finite.
        """
        for one in detections:
            here = Detections(*(values.detach().cpu() for values in one))
            check(here, self.classes, len(self.detections))
            self.detections.append(here)

    def results(self) -> dict[str, Any]:
        """All measures, fit for JSON; fractions, 0 to 1.

        Returns:
            Those of :func:`~kdlib.detection.evaluation.coco_measures`; ``errors``, what
            :func:`~kdlib.detection.error_types.error_types` returns; ``detections``, how many
            there are.

        Raises:
            KdlibError: there is nothing to detect, or not all images came.
        """
        from kdlib.detection.error_types import error_types

        if len(self.detections) != len(self.objects):
            raise KdlibError(
                f"Detections of {len(self.detections)} images, objects of {len(self.objects)}; add "
                "the detections of every image once, in the order of the objects."
            )
        return {
            **coco_measures(self.detections, self.objects, self.classes),
            "errors": error_types(self.detections, self.objects, self.classes),
            "detections": sum(len(one.scores) for one in self.detections),
        }


def check(one: Detections, classes: int, image: int) -> None:
    """Refuse what cannot be measured.

    Raises:
        KdlibError: a class that there is not, or a number that is not finite.
    """
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


BATCH_SIZE = 50
REPEATS = 5


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
    found: list[Detections] = []
    with evaluating(detector):
        for batch in batches.in_order():
            found += _on_cpu(answer(detector, batch.images, precision))
    return found


def _on_cpu(found: Sequence[Detections]) -> list[Detections]:
    return [Detections(*(values.cpu() for values in one)) for one in found]


def answer(detector: Detector, images: list[Tensor], precision: str) -> list[Detections]:
    """The detections of some images, in autocast where ``precision`` says so."""
    with torch.autocast(images[0].device.type, torch.bfloat16, precision == "bfloat16"):
        return detector(images)


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
        For each detector ``results``, see :class:`DetectionMarks`; ``ssim``
        and ``relevance`` are ``None``: a detector's stages have no teacher's to be compared with.

    Raises:
        KdlibError: the data has no objects.
    """
    if data.objects is None:
        raise KdlibError("There is no truth to compare detections with: load task='detection'.")
    marks = [DetectionMarks(len(data.classes), data.objects) for _ in detectors]
    batches = DetectionBatches(data, batch_size, device=device, team=team)
    found: list[list[list[Detections]]] = [[] for _ in detectors]
    with evaluating(*detectors):
        for batch in batches.in_order():
            for detector, own in zip(detectors, found, strict=True):
                own.append(_on_cpu(answer(detector, batch.images, precision)))
    for mark, own in zip(marks, found, strict=True):
        for detections in team.in_order(own):
            mark.add(detections)
    return [{"results": mark.results(), "ssim": None, "relevance": None} for mark in marks]


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
