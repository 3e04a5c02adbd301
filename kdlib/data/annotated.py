"""Photographs with the class of each pixel: read, mirrored, scaled and cut together.

The mask travels as a fourth channel. Whatever size a photograph has, a window of it is a square of
``image_size`` pixels; where that reaches beyond the photograph the mask says ``IGNORED``, so that
every pixel of the photograph counts, once, and none that was made up does.
"""

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

from kdlib.data.decode import UNREADABLE, Pixels
from kdlib.data.photographs import PLACE_BITS, Photographs, middle, placed
from kdlib.errors import KdlibError
from kdlib.tasks import IGNORED

SCALES = (0.5, 2.0)
"""Of random windows: each photograph is enlarged by a factor between these first, as is usual for
Pascal VOC (Chen 2017, arXiv 1706.05587)."""


@dataclass(frozen=True)
class AnnotatedPhotographs(Photographs):
    """Photographs of which ``read`` returns red, green, blue and class: (H, W, 4).

    Without a random place a window shows the whole photograph, in the middle: as it is where it
    fits into ``full_size`` pixels a side (and ``image_size`` is that), else as much smaller.

    Attributes:
        full_size: pixels a side of a window that shows photographs at their own resolution.
        margin: colour (0 to 255) beyond the photograph.
    """

    full_size: int
    margin: tuple[int, int, int]
    annotated: ClassVar[bool] = True
    drawn: ClassVar[int] = 3

    def _cut(self, window: Pixels, position: int, place: list[int] | None) -> None:
        pixels = torch.from_numpy(self.read(int(self.positions[position]))).permute(2, 0, 1)
        picture, mask = Picture(pixels[:3]), Mask(pixels[3:])
        scale = self.image_size / max(self.full_size, *picture.shape[-2:])
        scale *= 1.0 if place is None else _random_scale(place[2])
        sides = [max(1, round(side * scale)) for side in picture.shape[-2:]]
        for values, fill, channels in ((picture, self.margin, [0, 1, 2]), (mask, IGNORED, [3])):
            enlarged = functional.resize(values, sides, antialias=True)
            cut = _window(enlarged, self.image_size, fill, place)
            window[..., channels] = cut.permute(1, 2, 0).numpy()


def _random_scale(draw: int) -> float:
    low, high = SCALES
    return low * (high / low) ** (draw / (1 << PLACE_BITS))


def _window(values: Tensor, side: int, fill: object, place: list[int] | None) -> Tensor:
    """(C, side, side) of (C, H, W), padded by ``fill`` where that is smaller."""
    lacking = [max(0, side - length) for length in values.shape[-2:]]
    above, before = middle(lacking)
    below, behind = lacking[0] - above, lacking[1] - before
    padded = functional.pad(values, [before, above, behind, below], fill=fill)
    room = [length - side for length in padded.shape[-2:]]
    top, left = middle(room) if place is None else placed(room, place[:2])
    return functional.crop(padded, top, left, side, side)


def read_annotated(picture: Path, mask: Path, classes: int) -> Pixels:
    """A photograph with its mask as the fourth channel: (H, W, 4) uint8.

    Args:
        picture: the photograph.
        mask: an image with a palette or grey levels, whose values are classes.
        classes: number of them; the mask's other values must be ``IGNORED``.

    Raises:
        KdlibError: a file that is missing, truncated or no image; a mask in colours, of another
            size than its photograph, or with a value that is no class.
    """
    pixels, marks = _opened(picture, "RGB"), _opened(mask, None)
    if marks.shape != pixels.shape[:2]:
        raise KdlibError(
            f"{mask} is of shape {marks.shape}, but {picture} of {pixels.shape[:2]}. A mask has "
            "one value a pixel (a palette or grey levels, no colours) and its photograph's size."
        )
    strange = sorted({*np.unique(marks).tolist()} - {*range(classes), IGNORED})
    if strange:
        raise KdlibError(
            f"{mask} has the values {', '.join(map(str, strange[:5]))}; valid: 0 to {classes - 1}, "
            f"and {IGNORED} for pixels that do not count. Get the file again."
        )
    return np.dstack([pixels, marks.astype(np.uint8)])


def _opened(path: Path, mode: str | None) -> Pixels:
    try:
        with Image.open(path) as opened:
            return np.asarray(opened.convert(mode) if mode else opened)
    except UNREADABLE as error:
        raise KdlibError(f"{path} cannot be read as an image ({error}). Get it again.") from error
