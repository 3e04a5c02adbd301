"""Images made harder to see: noise on every pixel, a square that hides a part.

What befalls an image depends on its position in the data set alone, so every network meets the
same harm, whatever the batch. All levels of one corruption share an image's random draw: the
noise grows, the hidden square widens.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from kdlib.analyses.pixels import pixels_of
from kdlib.data.image_data import ImageData
from kdlib.seeds import generator

SEED = 0


class Corruption(NamedTuple):
    """A way to harm images.

    Attributes:
        levels: how strong; the unit is the corruption's own.
        versions: (data, positions (N,) in the whole data set) -> an (N, 3, H, W) uint8 for each
            level.
    """

    levels: tuple[float, ...]
    versions: Callable[[ImageData, Tensor], Iterator[Tensor]]


def noisy(data: ImageData, positions: Tensor) -> Iterator[Tensor]:
    """Images with Gaussian noise added, clipped to 0..255 again."""
    whole = pixels_of(data)
    shape, places = whole.shape[1:], positions.tolist()
    draws = [torch.randn(shape, generator=_stream("noise", place)) for place in places]
    noise = torch.stack(draws)
    for sigma in NOISE:
        noised = whole.float() + 255 * sigma * noise
        yield noised.round_().clamp_(0, 255).to(torch.uint8)


def occluded(data: ImageData, positions: Tensor) -> Iterator[Tensor]:
    """Images with a square, somewhere inside, of the mean colour of the data set."""
    whole = pixels_of(data)
    draws = [torch.rand(2, generator=_stream("occlusion", place)) for place in positions.tolist()]
    colour = (torch.tensor(data.mean) * 255).round().to(torch.uint8).view(1, 3, 1, 1)
    for share in OCCLUSION:
        hidden = square_masks(torch.stack(draws), share, *whole.shape[2:])
        yield torch.where(hidden[:, None], colour, whole)


def square_masks(places: Tensor, share: float, height: int, width: int) -> Tensor:
    """Squares of ``share`` of the area (as far as the shorter side has room): (N, H, W) bool.

    Args:
        places: (N, 2) in 0..1; 0 touches the top or the left edge, 1 the opposite one.
        share: of the image's area, 0..1.
        height: pixels.
        width: pixels.
    """
    side = min(round((share * height * width) ** 0.5), height, width)
    room = torch.tensor([height - side + 1, width - side + 1])
    corner = (places * room).long().minimum(room - 1)
    rows, columns = (
        (torch.arange(size) >= start) & (torch.arange(size) < start + side)
        for size, start in ((height, corner[:, :1]), (width, corner[:, 1:]))
    )
    return rows[:, :, None] & columns[:, None, :]


def _stream(kind: str, place: int) -> torch.Generator:
    return generator(SEED, "corruption", kind, place)


NOISE = (0.025, 0.05, 0.075, 0.1)  # standard deviation, where black is 0 and white 1
OCCLUSION = (0.05, 0.1, 0.2, 0.3)  # share of the image's area
CORRUPTIONS: dict[str, Corruption] = {
    "noise": Corruption(NOISE, noisy),
    "occlusion": Corruption(OCCLUSION, occluded),
}
