"""Orthonormal 2-D transforms of maps as matrix products, and bands of their frequencies."""

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from kdlib.errors import KdlibError

Band = tuple[str, float] | tuple[str, float, float]


@lru_cache(maxsize=64)
def dct_matrix(
    size: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Tensor:
    """Orthonormal DCT-II basis (N, N), a row a frequency. Cached: do not write to it.

    ``D[k, n] = c_k cos(pi (2 n + 1) k / (2 N))``, ``c_0 = sqrt(1/N)``, else ``sqrt(2/N)``
    (Ahmed, Natarajan, Rao 1974), so that ``D @ D.T = 1``.
    """
    # A tensor born in inference mode could not be used in training, and the cache outlives it.
    with torch.inference_mode(False):
        n = torch.arange(size, dtype=torch.float64)
        basis = torch.cos(math.pi / (2 * size) * torch.outer(n, 2 * n + 1)) * math.sqrt(2 / size)
        basis[0] = math.sqrt(1 / size)
        return basis.to(device, dtype)


def dct_2d(maps: Tensor) -> Tensor:
    """2-D DCT-II of each map, (B, H, W) -> (B, H, W): ``scipy.fft.dctn(norm="ortho")``.

    Its size is [frequency down, frequency across]; ``[:, 0, 0]`` is the DC coefficient.
    """
    height, width = maps.shape[-2:]
    rows = dct_matrix(height, maps.dtype, maps.device)
    columns = dct_matrix(width, maps.dtype, maps.device)
    return rows @ maps @ columns.T


def real_fft_2d(maps: Tensor) -> Tensor:
    """Real part of the orthonormal 2-D FFT: (B, H, W) -> (B, H, W). Not a DCT.

    It is the FFT of the circularly even part of a map, ``(x[n] + x[-n]) / 2``, and so blind to
    the odd part.
    """
    return torch.fft.fft2(maps, norm="ortho").real


TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "dct": dct_2d,
    "dct_abs": lambda maps: dct_2d(maps).abs(),
    "fft_abs": lambda maps: real_fft_2d(maps).abs(),
    "fft_real": real_fft_2d,
    "none": lambda maps: maps,
}
FOLDED = ("fft_abs", "fft_real")
BANDS = {"low": 1, "high": 1, "range": 2}


def checked_band(band: object) -> Band | None:
    """``band`` as a tuple, or None for all frequencies.

    Raises:
        KdlibError: it is none of ("low", k), ("high", k), ("range", a, b).
    """
    if band is None:
        return None
    name, *limits = band if isinstance(band, (tuple, list)) else (band,)
    numeric = all(isinstance(limit, (int, float)) and limit >= 0 for limit in limits)
    if name not in BANDS or len(limits) != BANDS[name] or not numeric:
        raise KdlibError(
            f"Invalid band {band!r}. Valid: null (all frequencies), [low, k], [high, k], "
            "[range, a, b]; k, a, b: how many frequencies an axis (2), or a share of them (0.5)."
        )
    return (name, *limits)


@lru_cache(maxsize=256)
def frequency_mask(
    shape: tuple[int, int],
    transform: str,
    band: Band | None,
    drop_dc: bool,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor | None:
    """1 where a coefficient (H, W) is kept, else 0; None when all are. Cached: do not write.

    The lowest k are those below k on *both* axes; the highest k are all but the lowest N - k.
    In an FFT, frequency n and N - n are one.

    Raises:
        KdlibError: the band leaves nothing of a map of this shape.
    """
    with torch.inference_mode(False):
        kept = _in_band(shape, transform in FOLDED, band)
        kept[0, 0] &= not drop_dc
        if band is not None and not kept.any():
            raise KdlibError(f"Band {list(band)} leaves no frequency of a {shape} map; widen it.")
        return None if kept.all() else kept.to(device, dtype)


def _in_band(shape: tuple[int, int], folded: bool, band: Band | None) -> Tensor:
    if band is None:
        return torch.ones(shape, dtype=torch.bool)
    name, *limits = band
    if name == "low":
        return _lowest(shape, folded, limits[0])
    if name == "high":
        return ~_lowest(shape, folded, limits[0], from_top=True)
    return _lowest(shape, folded, limits[1]) & ~_lowest(shape, folded, limits[0])


def _lowest(shape: tuple[int, int], folded: bool, limit: float, from_top: bool = False) -> Tensor:
    rows, columns = (_axis_below(size, folded, limit, from_top) for size in shape)
    return rows[:, None] & columns


def _axis_below(size: int, folded: bool, limit: float, from_top: bool) -> Tensor:
    frequency = torch.arange(size)
    if folded:
        frequency = torch.minimum(frequency, size - frequency)
    count = int(frequency.max()) + 1
    below = limit if isinstance(limit, int) else round(limit * count)
    return frequency < (count - below if from_top else below)
