"""Does a network's confidence say how often it is right? (Guo et al. 2017, arXiv 1706.04599)."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

BINS = 15
# In float32, in which torchmetrics bins, this is the largest number below 1. A confidence of
# exactly 1 it would put into a bin of its own, a sixteenth.
LARGEST = 1 - 2**-24


def calibration(logits: Tensor, labels: Tensor) -> dict[str, Any]:
    """Expected calibration error, and the bins of the reliability diagram.

    Args:
        logits: (N, K).
        labels: (N,).

    Returns:
        ``ece`` in 0..1; ``count``, ``confidence`` and ``accuracy`` of each of 15 equally wide
        bins of confidence (mean confidence and accuracy are ``None`` where a bin is empty).
    """
    probabilities = logits.double().softmax(1).clamp(max=LARGEST)
    ece = multiclass_calibration_error(probabilities, labels, logits.shape[1], n_bins=BINS)
    confidence, predicted = probabilities.max(1)
    edges = torch.linspace(0, 1, BINS + 1)
    place = torch.bucketize(confidence.float(), edges, right=True) - 1
    count = torch.bincount(place, minlength=BINS)
    return {
        "ece": ece.item(),
        "count": count.tolist(),
        "confidence": _means(confidence, place, count),
        "accuracy": _means((predicted == labels).double(), place, count),
    }


def _means(values: Tensor, place: Tensor, count: Tensor) -> list[float | None]:
    sums = torch.bincount(place, weights=values, minlength=BINS)
    return [
        total / number if number else None
        for total, number in zip(sums.tolist(), count.tolist(), strict=True)
    ]
