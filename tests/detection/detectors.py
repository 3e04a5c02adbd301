"""Small batches and detectors, built once; detections and objects that meet in every way."""

from functools import cache

import numpy as np
import torch
from torch import Tensor

from kdlib.detection import average_precision as ap
from kdlib.detection.detector import Detections, Detector
from kdlib.detection.objects import COCO_SIZES, Objects
from kdlib.models import MODELS, create_model

DETECTORS = [name for name, model in MODELS.items() if model.task == "detection"]
CLASSES, SIZE = 20, 64
SIZES = {"fasterrcnn_resnet50_fpn": 32}  # which would take seconds a step otherwise
NOTHING = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}


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
    found = (([4.0, 5, 20, 22], [30.0, 30, 50, 46]), [1, 5]), (([2.0, 6, 42, 44],), [2])
    return [{"boxes": torch.tensor(b), "labels": torch.tensor(k)} for b, k in found]


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


def base_of(detections, objects, classes):
    """AP50 as error_types starts from it."""
    found, truth = ap.detected_rows(detections), ap.truth_rows(objects)
    asked = np.bincount(truth.kinds[~truth.crowd], minlength=classes)
    return ap.ap50(ap.curve_points(found, ap.judged(found, truth)), asked, asked > 0)


def random_case(seed, images=30, classes=5, most=12):
    """Detections, near objects and anywhere, and objects: image 0 has none, 1 no detection."""
    random = np.random.default_rng(seed)
    counts, found = random.integers(0, 7, images), []
    counts[0] = 0
    boxes, kinds = _anywhere(random, counts.sum()), random.integers(0, classes, counts.sum())
    crowd = random.random(len(kinds)) < 0.15
    objects = objects_of(boxes, kinds, crowd, counts, (20.0**2, 40.0**2))
    for image in range(images):
        number = int(random.integers(0, 1 if image == 1 else most + 1))
        mine, labels = _anywhere(random, number), random.integers(0, classes, number)
        if counts[image]:
            present, known, _ = (values.numpy() for values in objects.of(image))
            near, like = random.random(number) < 0.75, random.integers(0, len(known), number)
            shifts = random.integers(-5, 6, (number, 4)) * random.random((number, 1))
            mine[near] = np.round(present[like] + shifts)[near]
            labels = np.where(random.random(number) < 0.7, known[like], labels)
        mine[:, 2:] = np.maximum(mine[:, 2:], mine[:, :2] + 1)
        found.append(detections_of(mine, labels, random.integers(1, 20, number) / 20))
    return found, objects


def _anywhere(random, count):
    corners = random.integers(0, 100, (count, 2))
    return np.concatenate([corners, corners + random.integers(5, 60, (count, 2))], axis=1)
