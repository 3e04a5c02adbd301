"""Boxes of all images in flat arrays, a row a box, and the overlaps of those of the same image."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from kdlib.data.objects import Objects
from kdlib.models.detections import Detections

MOST = 100  # COCO counts so many detections a class and image, the surest


@dataclass(frozen=True)
class Detected:
    """What was detected, in COCO's order: by image and class, the surest first.

    Attributes:
        images: (D,) int64, the image of each.
        boxes: (D, 4) float64, x, y, width, height in pixels.
        kinds: (D,) int64.
        scores: (D,) float64.
    """

    images: np.ndarray
    boxes: np.ndarray
    kinds: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True)
class Truth:
    """What is to be detected, image after image.

    Attributes:
        images: (M,) int64, the image of each.
        boxes: (M, 4) float64, x, y, width, height in pixels.
        kinds: (M,) int64.
        crowd: (M,) bool, what counts neither as found nor as missed.
    """

    images: np.ndarray
    boxes: np.ndarray
    kinds: np.ndarray
    crowd: np.ndarray


@dataclass(frozen=True)
class Pairs:
    """Detections and objects of the same image that overlap.

    Attributes:
        found: (P,) int64, the row of the detection.
        truth: (P,) int64, the row of the object.
        iou: (P,) float64, intersection over union; for a crowd, over the detection's area.
    """

    found: np.ndarray
    truth: np.ndarray
    iou: np.ndarray

    def where(self, chosen: np.ndarray) -> "Pairs":
        """Those of a mask (P,)."""
        return Pairs(self.found[chosen], self.truth[chosen], self.iou[chosen])


def detected_rows(detections: Sequence[Detections]) -> Detected:
    """The detections of N images as rows, at most :data:`MOST` a class and image."""
    counts = [len(one.scores) for one in detections]
    rows = Detected(
        np.repeat(np.arange(len(detections)), counts),
        corners_to_sizes(together([one.boxes for one in detections], (0, 4))),
        together([one.kinds for one in detections], (0,)).astype(np.int64),
        together([one.scores for one in detections], (0,)),
    )
    order = np.lexsort((-rows.scores, rows.kinds, rows.images))  # stable: equals keep their order
    return surest(chosen_rows(rows, order))


def surest(found: Detected) -> Detected:
    """The first :data:`MOST` of each image and class, of rows that are in order."""
    place = np.arange(len(found))
    starts = np.ones(len(found), bool)
    starts[1:] = (np.diff(found.images) != 0) | (np.diff(found.kinds) != 0)
    return chosen_rows(found, place - np.maximum.accumulate(np.where(starts, place, 0)) < MOST)


def chosen_rows(found: Detected, rows: np.ndarray) -> Detected:
    """Those of a mask or of indices."""
    return replace(found, **{name: values[rows] for name, values in vars(found).items()})


def truth_rows(objects: Objects) -> Truth:
    """The objects as rows."""
    return Truth(
        objects.owners.numpy(),
        corners_to_sizes(objects.boxes.double().numpy()),
        objects.kinds.numpy(),
        objects.crowd.numpy(),
    )


def together(parts: list[Tensor], empty: tuple[int, ...]) -> np.ndarray:
    """The tensors of all images in one float64 array, of shape ``empty`` where there are none."""
    return (torch.cat(parts) if parts else torch.zeros(empty)).double().numpy()


def corners_to_sizes(boxes: np.ndarray) -> np.ndarray:
    """(n, 4) of x1, y1, x2, y2 as x, y, width, height; nothing is less than 0 wide."""
    return np.concatenate([boxes[:, :2], np.maximum(boxes[:, 2:] - boxes[:, :2], 0)], axis=1)


def overlapping(found: Detected, truth: Truth) -> Pairs:
    """Every detection with every object of its image, where they overlap.

    IoU is computed as pycocotools does, operation by operation, so that a pair on a threshold is
    on the same side of it here and there.
    """
    first, last = (np.searchsorted(truth.images, found.images, side) for side in ("left", "right"))
    counts = last - first
    rows = np.repeat(np.arange(len(found)), counts)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    pairs = Pairs(rows, first[rows] + within, np.zeros(len(rows)))
    mine, theirs = found.boxes[pairs.found], truth.boxes[pairs.truth]
    crossing = intersections(mine, theirs)
    area, other = mine[:, 2] * mine[:, 3], theirs[:, 2] * theirs[:, 3]
    unions = np.where(truth.crowd[pairs.truth], area, area + other - crossing)
    np.divide(crossing, unions, out=pairs.iou, where=crossing > 0)
    return pairs.where(crossing > 0)


def intersections(mine: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Areas (P,) that boxes (P, 4) of x, y, width, height have in common, pair by pair."""
    ends = np.minimum(mine[:, :2] + mine[:, 2:], theirs[:, :2] + theirs[:, 2:])
    sides = np.maximum(ends - np.maximum(mine[:, :2], theirs[:, :2]), 0)
    return sides[:, 0] * sides[:, 1]
