"""Objects cut out by their boxes: what a classifier that teaches a detector is trained on."""

from dataclasses import dataclass, replace
from math import ceil, floor

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kdlib.data.cache import Arrays, cached
from kdlib.data.decode import Pixels
from kdlib.data.image_data import ImageData
from kdlib.data.photographs import Photographs
from kdlib.data.pixels import fingerprint
from kdlib.data.whole_photographs import WholePhotographs
from kdlib.errors import KdlibError

CROP_SIZES = (8, 512)


def checked_crop_size(crop_size: int) -> int:
    """``crop_size`` itself.

    Raises:
        KdlibError: it is no whole number, or out of range.
    """
    low, high = CROP_SIZES
    if type(crop_size) is not int or not low <= crop_size <= high:
        raise KdlibError(f"crop_size is {crop_size}; it must be a whole number, {low} to {high}.")
    return crop_size


def cut_out(picture: Pixels, box: tuple[float, float, float, float], side: int) -> Pixels:
    """What lies in a box, (H, W, 3) uint8 -> (side, side, 3): stretched, bilinear, antialiased.

    The window of whole pixels is cut first, because Pillow would interpolate with those beyond.
    """
    left, top = floor(box[0]), floor(box[1])
    window = Image.fromarray(picture[top : ceil(box[3]), left : ceil(box[2])])
    inside = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
    return np.asarray(window.resize((side, side), Image.Resampling.BILINEAR, box=inside))


def cropped(data: ImageData, crop_size: int) -> ImageData:
    """Every object that is counted, cut out of its image without a margin and labelled by its kind.

    The box is stretched to a square whatever its shape, as in the paper (Guo 2021, arXiv
    2106.05209). Crops of images in memory are in memory too, through the cache; of photographs,
    each is decoded when its crop is asked for.

    Args:
        data: images with objects.
        crop_size: pixels a side, 8 to 512.

    Raises:
        KdlibError: the size is out of range, the data has no objects, or none that count.
    """
    if data.objects is None:
        raise KdlibError("Crops are cut out of images with objects, and this data has none.")
    objects = data.objects.counted()
    if not len(objects.kinds):
        raise KdlibError("There is nothing to cut out: none of the images has an object.")
    source = _Source(data.images, objects.owners, objects.boxes, checked_crop_size(crop_size))
    facts = ("crops", crop_size, data.fingerprint)
    digest = fingerprint(facts, (objects.boxes, objects.kinds, objects.starts))
    return replace(
        data,
        images=source.crops(digest),
        labels=objects.kinds,
        fingerprint=digest,
        objects=None,
    )


@dataclass(frozen=True)
class _Source:
    """Where crops come from: the images, and image (M,) and box (M, 4) of each crop."""

    images: Tensor | Photographs | WholePhotographs
    owners: Tensor
    boxes: Tensor
    side: int

    def crops(self, digest: str) -> Tensor | Photographs:
        if isinstance(self.images, WholePhotographs):
            return Photographs(self.read, np.arange(len(self.owners)), self.side)
        arrays = cached(f"crops-{digest}", len(self.owners), self._make)
        return torch.from_numpy(arrays["crops"])

    def read(self, position: int) -> Pixels:
        """One crop, (side, side, 3)."""
        x1, y1, x2, y2 = self.boxes[position].tolist()
        return cut_out(self._picture(int(self.owners[position])), (x1, y1, x2, y2), self.side)

    def _picture(self, index: int) -> Pixels:
        if isinstance(self.images, WholePhotographs):
            return self.images.read(index)
        assert isinstance(self.images, Tensor)  # detectors are not given windows of photographs
        return self.images[index].permute(1, 2, 0).contiguous().numpy()

    def _make(self, rows: NDArray[np.int64]) -> Arrays:
        crops = np.stack([self.read(int(row)) for row in rows])
        return {"crops": np.ascontiguousarray(crops.transpose(0, 3, 1, 2))}
