"""Small batches for detectors, and one detector of each name for all tests of a process."""

from functools import cache

import torch
from torch import Tensor

from kdlib.detection.detector import Detector
from kdlib.models import MODELS, create_model

DETECTORS = [name for name, model in MODELS.items() if model.task == "detection"]
CLASSES, SIZE = 20, 64
SIZES = {"fasterrcnn_resnet50_fpn": 32}
"""Of the network that would take seconds a step otherwise."""
NOTHING = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
"""The target of an image without objects."""


@cache
def detector(name: str) -> Detector:
    """A detector that tests share: they may train its batch norm, but not change its weights."""
    torch.manual_seed(0)
    return create_model(name, CLASSES, image_size=SIZES.get(name, SIZE))


def images() -> list[Tensor]:
    """Two of different sizes."""
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(3, side, 64, generator=generator) for side in (64, 48)]


def targets() -> list[dict[str, Tensor]]:
    """Two objects in the first image and one in the second."""
    first, second = (
        torch.tensor([[4.0, 5, 20, 22], [30, 30, 50, 46]]),
        torch.tensor([[2.0, 6, 42, 44]]),
    )
    labels = torch.tensor([1, 5]), torch.tensor([2])
    return [{"boxes": first, "labels": labels[0]}, {"boxes": second, "labels": labels[1]}]
