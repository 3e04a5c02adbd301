"""Detectors on a data set: what they find, and how good that is."""

from collections.abc import Sequence
from typing import Any

import torch

from kdlib.data.image_data import ImageData
from kdlib.detection.average_precision import coco_measures, error_types
from kdlib.detection.batches import DetectionBatches
from kdlib.detection.detector import Detections, Detector
from kdlib.detection.objects import Objects
from kdlib.errors import KdlibError
from kdlib.models.output import evaluating
from kdlib.process_group import ALONE, ProcessGroup

BATCH_SIZE = 50


def detect(
    detector: Detector,
    data: ImageData,
    batch_size: int = BATCH_SIZE,
    *,
    device: torch.device | str = "cpu",
    precision: str = "float32",
    world: ProcessGroup = ALONE,
) -> list[Detections]:
    """What a detector finds in every image, in order, on the CPU; its mode is restored.

    Processes of a ``world`` share the batches, and all have all that is found.
    """
    found: list[list[Detections]] = []
    with evaluating(detector):
        for batch in DetectionBatches(data, batch_size, device=device, world=world).in_order():
            kind = batch.images[0].device.type
            with torch.autocast(kind, torch.bfloat16, precision == "bfloat16"):
                answer = detector(batch.images)
            found.append([Detections(*(values.cpu() for values in one)) for one in answer])
    return [one for of_batch in world.in_order(found) for one in of_batch]


def evaluate_detector(detector: Detector, data: ImageData, **how: Any) -> dict[str, Any]:
    """What a record says of a detector's quality: ``results``, see :func:`measured`.

    ``how`` as for :func:`detect`. ``ssim`` and ``relevance`` are ``None``: there are no stages of a
    teacher to compare with. A ``KdlibError`` for data without objects.
    """
    if data.objects is None:
        raise KdlibError("There is no truth to compare detections with: load task='detection'.")
    results = measured(detect(detector, data, **how), data.objects, len(data.classes))
    return {"results": results, "ssim": None, "relevance": None}


def measured(detections: Sequence[Detections], objects: Objects, classes: int) -> dict[str, Any]:
    """What :func:`coco_measures` and :func:`error_types` measure of N images, fit for JSON.

    A ``KdlibError`` if there is nothing to detect, not as many images as in ``objects``, a class
    that does not exist, or a number that is not finite.
    """
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
