"""How fine is the structure of attention maps? Energy of their DCT by frequency."""

import torch
from torch import Tensor, nn

from kdlib.data.image_data import ImageData
from kdlib.losses.transforms import dct_2d
from kdlib.trained import attention_on

IMAGES = 2000
CHUNK = 250


def mean_spectra(network: nn.Module, data: ImageData) -> list[list[float]]:
    """Mean of :func:`radial_energy` over the first 2,000 images, a list a stage, fine to coarse."""
    part = data.first(IMAGES)
    sums: dict[int, Tensor] = {}
    for start in range(0, len(part), CHUNK):
        piece = part.part(start, min(start + CHUNK, len(part)))
        for stage, maps in enumerate(attention_on(network, piece)):
            energy = radial_energy(maps).sum(0)
            sums[stage] = sums[stage] + energy if stage in sums else energy
    # A flat map has no energy to share out; those that have some share 1 each.
    return [(total / total.sum().clamp_min(1)).tolist() for total in sums.values()]


def radial_energy(maps: Tensor) -> Tensor:
    """Share of a map's AC energy at each radial frequency: (B, H, W) -> (B, bands), float64.

    Band k holds the DCT's coefficients (u, v) with ``round(sqrt(u^2 + v^2)) = k``, in half
    periods an image, from 1 on, so that bands of maps of unequal size mean the same. The shares
    of a map add up to 1, those of a flat map to 0.
    """
    energy = dct_2d(maps.double()).square()
    energy[:, 0, 0] = 0
    # Rounding leaves a flat map some energy, next to nothing beside its own.
    floor = 1e-12 * maps.double().square().sum((1, 2)).clamp_min(1e-300)
    total = energy.sum((1, 2))
    shares = energy.flatten(1) / torch.where(total > floor, total, torch.inf)[:, None]
    bands = _bands(*maps.shape[1:]).flatten()
    return shares @ torch.nn.functional.one_hot(bands).double()[:, 1:]


def _bands(height: int, width: int) -> Tensor:
    squares = torch.arange(height)[:, None] ** 2 + torch.arange(width) ** 2
    return squares.double().sqrt().round().long()
