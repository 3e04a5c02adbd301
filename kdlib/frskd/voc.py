"""Pascal VOC's photographs and masks of their pixels' classes, scaled and cut together."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional
from torchvision.tv_tensors import Image as Picture
from torchvision.tv_tensors import Mask

from kdlib.data.image_data import IGNORED, IMAGE_SIZES, ImageData, checked_root, fingerprint
from kdlib.data.photographs import (
    MEAN,
    PLACE_BITS,
    STD,
    UNREADABLE,
    Photographs,
    Pixels,
    middle,
    placed,
)
from kdlib.data.published import VOC_CLASSES, list_voc
from kdlib.errors import KdlibError, check_range
from kdlib.seeds import generator

SCALES = (0.5, 2.0)
"""Of random windows: each photograph is enlarged by a factor between these first, as is usual for
Pascal VOC (Chen 2017, arXiv 1706.05587)."""
FULL_SIZE = 512
MARGIN = (124, 116, 104)
"""Colour beyond a photograph: the mean of ImageNet's, which normalisation turns into nearly 0."""


@dataclass(frozen=True)
class AnnotatedPhotographs(Photographs):
    """Photographs of which ``read`` returns red, green, blue and class: (H, W, 4).

    Without a random place a window shows the whole photograph, in the middle: as it is where it
    fits into ``FULL_SIZE`` pixels a side (and ``image_size`` is that), else as much smaller.
    """

    annotated: ClassVar[bool] = True
    drawn: ClassVar[int] = 3

    def _cut(self, window: Pixels, position: int, place: list[int] | None) -> None:
        pixels = torch.from_numpy(self.read(int(self.positions[position]))).permute(2, 0, 1)
        picture, mask = Picture(pixels[:3]), Mask(pixels[3:])
        scale = self.image_size / max(FULL_SIZE, *picture.shape[-2:])
        low, high = SCALES
        scale *= 1.0 if place is None else low * (high / low) ** (place[2] / (1 << PLACE_BITS))
        sides = [max(1, round(side * scale)) for side in picture.shape[-2:]]
        for values, fill, channels in ((picture, MARGIN, [0, 1, 2]), (mask, IGNORED, [3])):
            resized = functional.resize(values, sides, antialias=True)
            cut = _window(resized, self.image_size, fill, place)
            window[..., channels] = cut.permute(1, 2, 0).numpy()


def _window(values: Tensor, side: int, fill: object, place: list[int] | None) -> Tensor:
    """(C, side, side) of (C, H, W), padded by ``fill`` where that is smaller."""
    lacking = [max(0, side - length) for length in values.shape[-2:]]
    above, before = middle(lacking)
    below, behind = lacking[0] - above, lacking[1] - before
    padded = functional.pad(values, [before, above, behind, below], fill=fill)
    room = [length - side for length in padded.shape[-2:]]
    top, left = middle(room) if place is None else placed(room, place[:2])
    return functional.crop(padded, top, left, side, side)


def read_annotated(picture: Path, mask: Path) -> Pixels:
    """A photograph with its mask, an image with a palette or grey levels: (H, W, 4) uint8.

    Raises:
        KdlibError: a file that is missing, truncated or no image; a mask in colours, of another
            size than its photograph, or with a value that is neither a class nor ``IGNORED``.
    """
    pixels, marks = _opened(picture, "RGB"), _opened(mask, None)
    if marks.shape != pixels.shape[:2]:
        raise KdlibError(
            f"{mask} is of shape {marks.shape}, but {picture} of {pixels.shape[:2]}. A mask has "
            "one value a pixel (a palette or grey levels, no colours) and its photograph's size."
        )
    strange = sorted({*np.unique(marks).tolist()} - {*range(len(VOC_CLASSES)), IGNORED})
    if strange:
        raise KdlibError(
            f"{mask} has the values {', '.join(map(str, strange[:5]))}; valid: 0 to "
            f"{len(VOC_CLASSES) - 1}, {IGNORED} for pixels that do not count. Get the file again."
        )
    return np.dstack([pixels, marks.astype(np.uint8)])


def _opened(path: Path, mode: str | None) -> Pixels:
    try:
        with Image.open(path) as opened:
            return np.asarray(opened.convert(mode) if mode else opened)
    except UNREADABLE as error:
        raise KdlibError(f"{path} cannot be read as an image ({error}). Get it again.") from error


def load_voc(
    split: str,
    *,
    size: int | None = None,
    image_size: int = FULL_SIZE,
    data_root: Path | None = None,
    **composition: int,
) -> ImageData:
    """Pascal VOC 2007 and 2012: photographs, each pixel one of 20 things or background.

    Args and errors as :func:`kdlib.data.load_data`. The order is random, and always the same;
    windows of 512 pixels a side show photographs at their own resolution.
    """
    check_range("image_size", image_size, *IMAGE_SIZES)
    listing = list_voc("segmentation", split, checked_root(data_root))
    facts, count = listing.facts(), len(listing.names) // 2
    order = torch.randperm(count, generator=generator(0, "voc", "order"))[:size]
    names = hashlib.sha256(repr(listing.names).encode()).hexdigest()

    def read(position: int) -> Pixels:
        return read_annotated(Path(listing.path(position)), Path(listing.path(position + count)))

    return ImageData(
        images=AnnotatedPhotographs(read, order.numpy(), image_size),
        labels=torch.zeros(len(order), dtype=torch.int64),
        classes=VOC_CLASSES,
        mean=MEAN,
        std=STD,
        fingerprint=fingerprint(("voc", names, image_size), (torch.from_numpy(facts[:, 0]), order)),
    )
