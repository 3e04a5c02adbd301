"""Objects in images: a box and a class each, and what is done with boxes that are not sound.

A box is x1, y1, x2, y2 in pixels of the image as it is stored; x2 and y2 are exclusive, so that
x2 - x1 is the width. Images have different numbers of objects, so all objects of a data set lie in
one table, image after image.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from kdlib.errors import KdlibError

COCO_SIZES = (32.0**2, 96.0**2)
"""Areas where small objects end and large ones begin, in COCO's evaluation."""


@dataclass(frozen=True)
class Objects:
    """The objects of N images.

    Attributes:
        boxes: (M, 4) float32, x1, y1, x2, y2 in pixels; inside their image, of some area.
        kinds: (M,) int64, the class of each, from 0; background is none of them.
        crowd: (M,) bool: neither trained on nor counted (COCO's crowds, VOC's difficult ones).
        starts: (N + 1,) int64: image i has the rows from ``starts[i]`` to ``starts[i + 1] - 1``.
        sizes: areas (square pixels) where small objects end and where large ones begin.
    """

    boxes: Tensor
    kinds: Tensor
    crowd: Tensor
    starts: Tensor
    sizes: tuple[float, float] = COCO_SIZES

    def __len__(self) -> int:
        """Number of images."""
        return len(self.starts) - 1

    @property
    def counts(self) -> Tensor:
        """(N,) int64: objects of each image."""
        return self.starts.diff()

    @property
    def owners(self) -> Tensor:
        """(M,) int64: the image of each object."""
        return torch.arange(len(self)).repeat_interleave(self.counts)

    def of(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (n, 4), kinds (n,) and crowd (n,) of one image; n may be 0."""
        rows = slice(int(self.starts[index]), int(self.starts[index + 1]))
        return self.boxes[rows], self.kinds[rows], self.crowd[rows]

    def part(self, start: int, stop: int) -> "Objects":
        """Those of the images at positions ``start`` to ``stop - 1``."""
        starts = self.starts[start : stop + 1]
        rows = slice(int(starts[0]), int(starts[-1]))
        boxes, kinds, crowd = self.boxes[rows], self.kinds[rows], self.crowd[rows]
        return replace(self, boxes=boxes, kinds=kinds, crowd=crowd, starts=starts - starts[0])

    def chosen(self, kept: Tensor) -> "Objects":
        """The objects where ``kept`` (M,) is true; images that lose all of theirs stay."""
        before = torch.cat([torch.zeros(1).long(), kept.long().cumsum(0)])
        boxes, kinds, crowd = self.boxes[kept], self.kinds[kept], self.crowd[kept]
        return replace(self, boxes=boxes, kinds=kinds, crowd=crowd, starts=before[self.starts])

    def counted(self) -> "Objects":
        """Those that are trained on and counted: all but the crowds."""
        return self.chosen(~self.crowd)


class Found(NamedTuple):
    """One object as a file has it: x1, y1, x2, y2; its class; whether it is a crowd."""

    box: tuple[float, float, float, float]
    kind: int
    crowd: bool


def tabled(
    found: Sequence[Sequence[Found]],
    shapes: Sequence[tuple[int, int]],
    sizes: tuple[float, float] = COCO_SIZES,
) -> Objects:
    """The table of the objects of N images, cleaned as by :func:`cleaned`.

    Args:
        found: the objects of each image.
        shapes: width and height of each image, in pixels.
        sizes: as :class:`Objects` has them.
    """
    every = [one for of_image in found for one in of_image]
    starts = [0, *accumulate(len(of_image) for of_image in found)]
    raw = Objects(
        torch.tensor([one.box for one in every], dtype=torch.float32).view(-1, 4),
        torch.tensor([one.kind for one in every], dtype=torch.int64),
        torch.tensor([one.crowd for one in every], dtype=torch.bool),
        torch.tensor(starts),
        sizes,
    )
    return cleaned(raw, torch.tensor(shapes, dtype=torch.float32).view(-1, 2))


def cleaned(objects: Objects, shapes: Tensor) -> Objects:
    """The rule for boxes that are not sound, the same for all data sets.

    A box is clipped to its image. One that then has no area (it lay outside, was empty, or its
    corners were swapped) is dropped; with a share of a pixel it stays. An image that has no object,
    or none any more, stays: it is trained on as background.

    Args:
        objects: finite boxes of any kind.
        shapes: (N, 2) width and height of each image.
    """
    limits = shapes[objects.owners].repeat(1, 2)
    boxes = torch.minimum(objects.boxes.clamp(min=0), limits)
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return replace(objects, boxes=boxes).chosen(kept)


def damaged(file: object, annotation: str, problem: str) -> KdlibError:
    """The error for an annotation that has no meaning; names the file and the annotation."""
    return KdlibError(f"{file}, {annotation}: {problem}. Get the file again, or correct it.")
