"""Small batches and detectors, built once; detections and objects that meet in every way."""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from kdlib.detection.detector import Detections, Detector
from kdlib.detection.objects import COCO_SIZES, Objects
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


def objects_of(boxes, kinds, crowd=None, counts=None, sizes=COCO_SIZES):
    """Objects from lists; all of one image if ``counts`` does not say otherwise."""
    starts = torch.from_numpy(np.cumsum([0, *([len(kinds)] if counts is None else counts)]))
    boxes, kinds = torch.as_tensor(boxes).float().view(-1, 4), torch.as_tensor(kinds).long()
    crowd = torch.zeros(len(kinds)) if crowd is None else torch.as_tensor(crowd)
    return Objects(boxes, kinds, crowd.bool(), starts, sizes)


def detections_of(boxes, kinds, scores):
    """Detections from lists."""
    boxes, kinds, scores = map(torch.as_tensor, (boxes, kinds, scores))
    return Detections(boxes.float().view(-1, 4), kinds.long(), scores.float())


def random_case(seed, images=30, classes=5, crowds=0.15, most=12):
    """Detections of each image and the objects; image 0 has no object, image 1 no detection."""
    random = np.random.default_rng(seed)
    counts = random.integers(0, 7, images)
    counts[0] = 0
    boxes, kinds = _anywhere(random, counts.sum()), random.integers(0, classes, counts.sum())
    crowd = random.random(len(kinds)) < crowds
    objects = objects_of(boxes, kinds, crowd, counts, (20.0**2, 40.0**2))
    sizes = [0 if image == 1 else most for image in range(images)]
    found = [_answers(random, objects.of(i), classes, size) for i, size in enumerate(sizes)]
    return found, objects


def _anywhere(random, count):
    corners = random.integers(0, 100, (count, 2))
    return np.concatenate([corners, corners + random.integers(5, 60, (count, 2))], axis=1)


def _answers(random, present, classes, most):
    """Up to ``most`` detections of one image: its objects, shifted, and boxes anywhere."""
    boxes, kinds, _ = (values.numpy() for values in present)
    number = int(random.integers(0, most + 1))
    mine, labels = _anywhere(random, number).astype(float), random.integers(0, classes, number)
    if len(kinds):
        near, like = random.random(number) < 0.75, random.integers(0, len(kinds), number)
        shifted = boxes[like] + random.integers(-5, 6, (number, 4)) * (random.random((number, 1)))
        mine[near] = np.round(shifted)[near]
        labels = np.where(random.random(number) < 0.7, kinds[like], labels)
    mine[:, 2:] = np.maximum(mine[:, 2:], mine[:, :2] + 1)
    return detections_of(mine, labels, random.integers(1, 20, number) / 20)
