"""The objects that scenes are composed of."""

from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

SHRINK = 0.45
"""Side of a shrunk picture as a share of the scene's; just above the largest scale."""


@dataclass(frozen=True, eq=False)
class ObjectBank:
    """Objects by kind: sprites, garments, anything with an opacity.

    Attributes:
        kinds: names of the kinds.
        pictures: (kinds, exemplars, 4, S, S) uint8: red, green, blue, opacity.
        tinted: give each object a random colour (for objects that come without one).
    """

    kinds: tuple[str, ...]
    pictures: Tensor
    tinted: bool = False

    @cache  # noqa: B019 - banks live as long as the process
    def at_size(self, size: int) -> "ObjectBank":
        """The same objects, premultiplied by their opacity and as small as scenes need them.

        Shrinking first by area leaves at most a factor of two to the bilinear sampler, which
        would otherwise alias. Bytes, not floats: 60,000 garments stay under 200 MB.
        """
        side = max(8, round(SHRINK * size))
        return replace(self, pictures=torch.stack([_shrunk(kind, side) for kind in self.pictures]))


def _shrunk(pictures: Tensor, side: int) -> Tensor:
    """(E, 4, S, S) uint8 -> the same premultiplied, at most ``side`` pixels a side."""
    pictures = pictures.float()
    pictures[:, :3] *= pictures[:, 3:] / 255
    if side < pictures.shape[-1]:
        pictures = functional.interpolate(pictures, size=side, mode="area")
    return pictures.round().byte()
