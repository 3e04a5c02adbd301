"""Detectors on a data set: what they find, how good that is, and what finding costs."""

import time
from collections.abc import Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from kdlib.data.detection_batches import DetectionBatches
from kdlib.data.image_data import ImageData
from kdlib.detection.marks import DetectionMarks
from kdlib.distributed import ALONE, Team
from kdlib.errors import KdlibError
from kdlib.evaluate import evaluating
from kdlib.models import count_parameters
from kdlib.models.detections import Detections
from kdlib.models.detectors import Detector

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
        For each detector ``results``, see :class:`~kdlib.detection.marks.DetectionMarks`; ``ssim``
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
