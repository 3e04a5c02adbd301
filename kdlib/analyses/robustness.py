"""Accuracy under corruptions of the images."""

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from kdlib.analyses.corruptions import CORRUPTIONS
from kdlib.data.image_data import ImageData
from kdlib.evaluate import predict

IMAGES = 2000
CHUNK = 250  # images whose corrupted versions are in memory at once


def robustness(
    network: nn.Module, data: ImageData, precision: str = "float32"
) -> dict[str, dict[str, Any]]:
    """Top-1 accuracy (0..1) on the first 2,000 images, whole (level 0) and corrupted.

    Returns:
        Name of a corruption -> ``level`` and ``top1``, equally long lists.
    """
    part = data.first(IMAGES)
    hits = {name: [0] * (1 + len(one.levels)) for name, one in CORRUPTIONS.items()}
    for start in range(0, len(part), CHUNK):
        piece = part.part(start, min(start + CHUNK, len(part)))
        positions = torch.arange(start, start + len(piece))
        whole = _hits(network, piece, precision)
        for name, corruption in CORRUPTIONS.items():
            hits[name][0] += whole
            for level, images in enumerate(corruption.versions(piece, positions), 1):
                hits[name][level] += _hits(network, replace(piece, images=images), precision)
    return {
        name: {"level": [0.0, *one.levels], "top1": [count / len(part) for count in hits[name]]}
        for name, one in CORRUPTIONS.items()
    }


def _hits(network: nn.Module, data: ImageData, precision: str) -> int:
    predicted = predict(network, data, precision=precision).argmax(1)
    return int((predicted == data.labels).sum())
