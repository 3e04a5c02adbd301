"""Objects in images: a box and a class each, in one table; and their crops, for a classifier.

A box is x1, y1, x2, y2 in pixels of the image as it is stored; x2 and y2 are exclusive, so that
x2 - x1 is the width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from math import ceil, floor
from typing import NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kdlib.data.image_data import ImageData, fingerprint
from kdlib.data.photographs import Photographs, Pixels
from kdlib.errors import KdlibError
from kdlib.files import Arrays, cached
from kdlib.frskd.voc import annotated

COCO_SIZES = (32.0**2, 96.0**2)  # where small objects end and large ones begin, by area


@dataclass(frozen=True)
class Objects:
    """The M objects of N images; image i has the rows ``starts[i]`` to ``starts[i + 1] - 1``."""

    boxes: Tensor  # (M, 4) float32, x1, y1, x2, y2 in pixels; within their image, not empty
    kinds: Tensor  # (M,) int64, the class of each, from 0; the background has none
    crowd: Tensor  # (M,) bool: neither trained on nor counted (of COCO; in VOC "difficult")
    starts: Tensor  # (N + 1,) int64
    sizes: tuple[float, float] = COCO_SIZES  # areas where small ones end, and large ones begin

    def __len__(self) -> int:
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
        rows = torch.arange(int(starts[0]), int(starts[-1]))
        return self._of_rows(rows, starts - starts[0])

    def chosen(self, kept: Tensor) -> "Objects":
        """The objects where ``kept`` (M,) is true; images that lose all of theirs stay."""
        before = torch.cat([torch.zeros(1).long(), kept.long().cumsum(0)])
        return self._of_rows(kept, before[self.starts])

    def counted(self) -> "Objects":
        """Those that are trained on and counted: all but the crowds."""
        return self.chosen(~self.crowd)

    def _of_rows(self, rows: Tensor, starts: Tensor) -> "Objects":
        boxes, kinds, crowd = self.boxes[rows], self.kinds[rows], self.crowd[rows]
        return replace(self, boxes=boxes, kinds=kinds, crowd=crowd, starts=starts)


class Found(NamedTuple):
    """One object as a file has it: x1, y1, x2, y2; its class; whether it is a crowd."""

    box: tuple[float, float, float, float]
    kind: int
    crowd: bool = False


def tabled(found: Sequence[Sequence[Found]], shapes: Sequence[tuple[int, int]]) -> Objects:
    """The objects of N images, whose widths and heights in pixels are ``shapes``, as a table.

    A box is clipped to its image, and dropped if it is then empty; one thinner than a pixel stays,
    and so does an image without objects: it is trained on as background.
    """
    every = [one for of_image in found for one in of_image]
    starts = torch.tensor([0, *accumulate(len(of_image) for of_image in found)])
    limits = torch.tensor(shapes, dtype=torch.float32).view(-1, 2).repeat(1, 2)
    boxes = torch.tensor([one.box for one in every], dtype=torch.float32).view(-1, 4)
    boxes = torch.minimum(boxes.clamp(min=0), limits.repeat_interleave(starts.diff(), 0))
    kinds = torch.tensor([one.kind for one in every], dtype=torch.int64)
    crowd = torch.tensor([one.crowd for one in every], dtype=torch.bool)
    return Objects(boxes, kinds, crowd, starts).chosen((boxes[:, 2:] > boxes[:, :2]).all(1))


@dataclass(frozen=True)
class WholePhotographs:
    """Photographs of any size, read from their files when they are asked for."""

    paths: Sequence[str]
    shapes: Sequence[tuple[int, int]]  # width and height of each, as its annotation has them

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, part: slice) -> "WholePhotographs":
        return WholePhotographs(self.paths[part], self.shapes[part])

    def read(self, index: int) -> Pixels:
        """The photograph at ``index``, (H, W, 3) uint8; a ``KdlibError`` if its size is wrong."""
        return annotated(self.paths[index], self.shapes[index], "its annotation")


def picture_at(images: Tensor | WholePhotographs, index: int) -> Tensor:
    """One image, (3, H, W) uint8, in memory or read from its file."""
    if isinstance(images, Tensor):
        return images[index]
    return torch.tensor(images.read(index)).permute(2, 0, 1)


def cropped(data: ImageData, crop_size: int) -> ImageData:
    """Every object that is counted, cut out of its image without a margin and labelled by its kind.

    The box is stretched to a square whatever its shape, as in the paper (Guo 2021, arXiv
    2106.05209). Crops of images in memory are made once, through the cache; photographs are read
    when a crop is asked for. A ``KdlibError`` where no object counts.
    """
    if data.objects is None:
        raise KdlibError("Crops are cut out of images with objects, and this data has none.")
    objects = data.objects.counted()
    if not len(objects.kinds):
        raise KdlibError("There is nothing to cut out: none of the images has an object.")
    digest = crops_fingerprint(data, crop_size)
    images = _crops(data, objects, crop_size, f"crops-{digest}")
    return replace(data, images=images, labels=objects.kinds, fingerprint=digest, objects=None)


def crops_fingerprint(data: ImageData, crop_size: int) -> str:
    """What the crops of all objects of ``data`` are known by."""
    objects, facts = cast("Objects", data.objects).counted(), ("crops", crop_size, data.fingerprint)
    return fingerprint(facts, (objects.boxes, objects.kinds, objects.starts))


def _crops(data: ImageData, objects: Objects, side: int, name: str) -> Tensor | Photographs:
    # Detectors are never given photographs of one size.
    images, owners = cast("Tensor | WholePhotographs", data.images), objects.owners.tolist()

    def crop(row: int) -> Pixels:
        picture = picture_at(images, owners[row]).permute(1, 2, 0).contiguous().numpy()
        return _cut_out(picture, objects.boxes[row].tolist(), side)

    def make(rows: NDArray[np.int64]) -> Arrays:
        crops = np.stack([crop(int(row)) for row in rows])
        return {"crops": np.ascontiguousarray(crops.transpose(0, 3, 1, 2))}

    if isinstance(images, WholePhotographs):
        return Photographs(crop, np.arange(len(owners)), side)
    return torch.from_numpy(cached(name, len(owners), make)["crops"])


def _cut_out(picture: Pixels, box: Sequence[float], side: int) -> Pixels:
    """What lies in a box, (H, W, 3) uint8 -> (side, side, 3): stretched, bilinear, antialiased.

    The window of whole pixels is cut first, because Pillow would interpolate with those beyond.
    """
    left, top = floor(box[0]), floor(box[1])
    window = Image.fromarray(picture[top : ceil(box[3]), left : ceil(box[2])])
    inside = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
    return np.asarray(window.resize((side, side), Image.Resampling.BILINEAR, box=inside))
