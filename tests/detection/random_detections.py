"""Detections and objects that meet in every way: near, far, twice, with the wrong class, in crowds.

Coordinates are whole numbers and many scores are equal, so that ties and overlaps that lie on a
threshold occur.
"""

import numpy as np
import torch

from kdlib.detection.detector import Detections
from kdlib.detection.objects import COCO_SIZES, Objects


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
