"""What the released DCT loss sees and does not see: the probes behind the notebook on it."""

from collections.abc import Callable, Iterable

import torch
from scipy.stats import spearmanr
from torch import Tensor
from torch.nn import functional

from kdlib.losses.dct import TRANSFORMS, dct_matrix
from kdlib.seeds import generator

PairLoss = Callable[[Tensor, Tensor], Tensor]


def smooth_maps(
    count: int, size: int, seed: int, *, detail: int = 7, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Random smooth maps in 0..1, (count, size, size): noise of ``detail`` squared, enlarged.

    The same seed gives the same pictures at every size, so losses at several sizes compare.
    """
    noise = torch.randn(count, 1, detail, detail, generator=generator(seed, "smooth maps"))
    noise = noise.to(dtype)
    maps = functional.interpolate(noise, (size, size), mode="bicubic", align_corners=False)[:, 0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low)


def basis_mosaic(size: int) -> Tensor:
    """All basis pictures of the DCT of a ``size`` x ``size`` map in one map, with NaN seams.

    The picture at row u, column v is what a map with coefficient (u, v) alone looks like.
    """
    basis = dct_matrix(size, torch.float64)
    pictures = torch.einsum("ui,vj->uvij", basis, basis)
    seamed = functional.pad(pictures, (0, 1, 0, 1), value=float("nan"))
    return seamed.permute(0, 2, 1, 3).reshape(size * (size + 1), -1)[:-1, :-1]


def reverse_circularly(maps: Tensor) -> Tensor:
    """``x[-n]`` on both axes, indices modulo the size: pixel 0 stays, the others swap ends."""
    return maps.flip((-2, -1)).roll((1, 1), (-2, -1))


def even_part(maps: Tensor) -> Tensor:
    """``(x[n] + x[-n]) / 2``: all that the real part of an FFT sees of a map."""
    return (maps + reverse_circularly(maps)) / 2


def invisible_share(maps: Tensor) -> Tensor:
    """Share of each map's energy about its mean that the real part of its FFT cannot see."""
    energy = (maps - maps.mean((1, 2), keepdim=True)).square().sum((1, 2))
    return (maps - even_part(maps)).square().sum((1, 2)) / energy


def distinct_coefficients(transform: str, size: int) -> int:
    """How many independent numbers a linear transform keeps of a ``size`` x ``size`` map."""
    impulses = torch.eye(size * size, dtype=torch.float64).view(-1, size, size)
    return int(torch.linalg.matrix_rank(TRANSFORMS[transform](impulses).flatten(1)))


def mean_loss_by_size(
    loss: PairLoss, sizes: Iterable[int], count: int, seed: int
) -> dict[int, float]:
    """Mean loss of ``count`` random pairs of smooth maps at each size: the balance of levels."""
    return {size: float(loss(*_pairs(count, size, seed)).mean()) for size in sizes}


def rank_correlation(first: PairLoss, second: PairLoss, size: int, count: int, seed: int) -> float:
    """Spearman correlation of two losses over ``count`` random pairs of smooth maps."""
    pairs = _pairs(count, size, seed)
    return float(spearmanr(first(*pairs), second(*pairs)).statistic)


def released_loss(student_map: Tensor, teacher_map: Tensor, absolute: bool = True) -> Tensor:
    """The loss step by step as released, with its NaNs: (B, H, W), (B, H, W) -> (B,).

    ``absolute`` is variant A (June 2021), else B (branch ``main``). Only to show why the loss
    needs care; train with :func:`kdlib.losses.dct.spectral_distance`.
    """
    student, teacher = (_released_spectrum(maps, absolute) for maps in (student_map, teacher_map))
    return (student - teacher).square().sum((1, 2)).sqrt()


def _released_spectrum(maps: Tensor, absolute: bool) -> Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    maps = (maps - low) / (high - low)
    spectrum = torch.fft.fft2(maps - maps.mean((1, 2), keepdim=True)).real
    spectrum = spectrum.abs() if absolute else spectrum
    low, high = spectrum.amin((1, 2), keepdim=True), spectrum.amax((1, 2), keepdim=True)
    return (spectrum - low) / (high if absolute else high - low)


def _pairs(count: int, size: int, seed: int) -> tuple[Tensor, Tensor]:
    first, second = smooth_maps(2 * count, size, seed).chunk(2)
    return first, second
