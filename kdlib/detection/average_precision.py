"""COCO's measures of a detector, by faster_coco_eval, which counts as pycocotools does."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster

from kdlib.data.objects import Objects
from kdlib.detection.rows import Detected, Truth, detected_rows, truth_rows
from kdlib.errors import KdlibError
from kdlib.models.detections import Detections

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
