"""Detections and objects that meet in every way: near, far, twice, with the wrong class, in crowds.

Coordinates are whole numbers and many scores are equal, so that ties and overlaps that lie on a
threshold occur.
"""

import numpy as np
import torch

from kdlib.detection.detector import Detections
from kdlib.detection.objects import Objects


def objects_of(boxes, kinds, crowd=None, counts=None, sizes=(32.0**2, 96.0**2)):
    """Objects from lists; all of one image if ``counts`` does not say otherwise."""
    starts = [0, *np.cumsum(np.asarray([len(kinds)] if counts is None else counts)).tolist()]
    return Objects(
        torch.as_tensor(boxes, dtype=torch.float32).view(-1, 4),
        torch.as_tensor(kinds, dtype=torch.int64),
        torch.as_tensor([False] * len(kinds) if crowd is None else crowd, dtype=torch.bool),
        torch.tensor(starts),
        sizes,
    )


def detections_of(boxes, kinds, scores):
    """Detections from lists."""
    return Detections(
        torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        torch.tensor(kinds, dtype=torch.int64),
        torch.tensor(scores, dtype=torch.float32),
    )


def random_case(seed, images=30, classes=5, crowds=0.15, most=12):
    """Detections of each image and the objects; image 0 has no object, image 1 no detection."""
    random = np.random.default_rng(seed)
    counts = random.integers(0, 7, images)
    counts[0] = 0
    total = int(counts.sum())
    corners = random.integers(0, 100, (total, 2))
    boxes = np.concatenate([corners, corners + random.integers(5, 60, (total, 2))], axis=1)
    kinds = random.integers(0, classes, total)
    crowd = random.random(total) < crowds
    objects = objects_of(boxes, kinds, crowd, counts, (20.0**2, 40.0**2))
    found = [
        answers(random, objects.of(image), classes, 0 if image == 1 else most)
        for image in range(images)
    ]
    return found, objects


def answers(random, present, classes, most):
    """Up to ``most`` detections of one image: its objects, shifted, and boxes anywhere."""
    boxes, kinds, _ = (values.numpy() for values in present)
    number = int(random.integers(0, most + 1))
    corners = random.integers(0, 100, (number, 2))
    mine = np.concatenate([corners, corners + random.integers(5, 60, (number, 2))], axis=1)
    mine, labels = mine.astype(float), random.integers(0, classes, number)
    if len(kinds):
        near, like = random.random(number) < 0.75, random.integers(0, len(kinds), number)
        shifted = boxes[like] + random.integers(-5, 6, (number, 4)) * (random.random((number, 1)))
        mine[near] = np.round(shifted)[near]
        labels = np.where(random.random(number) < 0.7, kinds[like], labels)
    mine[:, 2:] = np.maximum(mine[:, 2:], mine[:, :2] + 1)
    return detections_of(mine, labels, random.integers(1, 20, number) / 20)
