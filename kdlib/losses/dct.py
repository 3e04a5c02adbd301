"""The DCT-driven loss of arXiv 2205.01997 and its variants, as one function of named options."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from kdlib.errors import KdlibError, checked_options, unknown
from kdlib.losses.numeric import divide, flatness_floor, working_precision
from kdlib.losses.stages import pool_to_common_size
from kdlib.losses.transforms import TRANSFORMS, Band, checked_band, frequency_mask


@dataclass(frozen=True)
class SpectralOptions:
    """What is compared of two attention maps, and how.

    Args:
        transform: ``dct`` (orthonormal DCT-II), ``dct_abs``, ``fft_abs`` (magnitude of the real
            part of the FFT), ``fft_real``, or ``none`` (the map itself).
        normalise: ``l2`` (unit norm), ``max_ac`` (divide by the largest magnitude but DC),
            ``minmax`` (to 0..1), or ``none``.
        normalise_when: ``before`` or ``after`` the transform.
        drop_dc: leave out the DC coefficient (for ``transform="none"``: subtract the mean).
        distance: ``l2`` (root of the sum of squares), ``squared`` (the sum of squares), ``l1``.
        band: None (all), ("low", k), ("high", k) or ("range", a, b): whole numbers count
            frequencies of an axis, fractions are shares of them.

    Raises:
        KdlibError: an unknown value, listing the valid ones.
    """

    transform: str = "dct"
    normalise: str = "l2"
    normalise_when: str = "after"
    drop_dc: bool = True
    distance: str = "l2"
    band: Band | None = None

    def __post_init__(self) -> None:
        for name, valid in _VALID.items():
            if getattr(self, name) not in valid:
                raise unknown(name, getattr(self, name), valid)
        if not isinstance(self.drop_dc, bool):
            raise KdlibError(f"drop_dc is true or false, not {self.drop_dc!r}.")
        object.__setattr__(self, "band", checked_band(self.band))
        if self.band is not None and self.transform == "none":
            raise KdlibError("A band of frequencies needs a transform; this one is 'none'.")


OPTION_NAMES = tuple(field.name for field in fields(SpectralOptions))


def options_from(start: SpectralOptions, /, **changes: Any) -> SpectralOptions:
    """``start`` with some options changed.

    Raises:
        KdlibError: an unknown option or value, listing the valid ones.
    """
    checked_options(changes, OPTION_NAMES, "the DCT loss")
    return replace(start, **changes)


def spectral_distance(
    student_map: Tensor, teacher_map: Tensor, options: SpectralOptions | None = None
) -> Tensor:
    """Distance of two maps' normalised spectra: (B, H, W), (B, H', W') -> (B,).

    Computed in float32 (float64 for float64 maps), whatever autocast says. Finite in value and
    gradient for any finite maps: a flat map has a zero spectrum, and gets no gradient; equal
    spectra have a zero gradient.

    Maps of unequal size: their common low frequencies are compared (``dct``, ``dct_abs``), or
    the larger is first pooled to the smaller (other transforms).
    """
    options = options or SpectralOptions()
    with torch.autocast(student_map.device.type, enabled=False):
        student, teacher = working_precision(student_map), working_precision(teacher_map)
        if not options.transform.startswith("dct"):
            student, teacher = pool_to_common_size(student, teacher)
        size = min(student.shape[1], teacher.shape[1]), min(student.shape[2], teacher.shape[2])
        student, teacher = (spectrum(maps, options, size) for maps in (student, teacher))
        return DISTANCES[options.distance]((student - teacher).flatten(1))


def spectrum(maps: Tensor, options: SpectralOptions, size: tuple[int, int] | None = None) -> Tensor:
    """What the loss compares of maps (B, H, W): their normalised spectrum, of ``size`` if given.

    ``size`` keeps the lowest frequencies, scaled so that a smooth map has about the same
    coefficients at any resolution.
    """
    normalise = NORMALISERS[options.normalise]
    floor = None if normalise is _unchanged else flatness_floor(maps)
    if options.normalise_when == "before":
        maps = normalise(maps, "none", floor)
    values = _cut(TRANSFORMS[options.transform](maps), size)
    values = _select(values, options.transform, options.drop_dc, options.band)
    if options.normalise_when == "after":
        values = normalise(values, options.transform, floor)
    return values


def _cut(values: Tensor, size: tuple[int, int] | None) -> Tensor:
    if size is None or values.shape[1:] == size:
        return values
    share = size[0] * size[1] / (values.shape[1] * values.shape[2])
    return values[:, : size[0], : size[1]] * share**0.5


def _select(values: Tensor, transform: str, drop_dc: bool, band: Band | None = None) -> Tensor:
    if transform == "none":
        return values - values.mean((1, 2), keepdim=True) if drop_dc else values
    shape = (values.shape[1], values.shape[2])
    mask = frequency_mask(shape, transform, band, drop_dc, values.dtype, values.device)
    return values if mask is None else values * mask


def _unit_l2(values: Tensor, transform: str, floor: Tensor) -> Tensor:
    norms = torch.linalg.vector_norm(values.flatten(1), dim=1)
    return divide(values, norms[:, None, None], floor)


def _max_ac(values: Tensor, transform: str, floor: Tensor) -> Tensor:
    without_dc = _select(values, transform, drop_dc=True)
    return divide(values, without_dc.abs().amax((1, 2), keepdim=True), floor)


def _minmax(values: Tensor, transform: str, floor: Tensor) -> Tensor:
    low, high = values.amin((1, 2), keepdim=True), values.amax((1, 2), keepdim=True)
    return divide(values - low, high - low, floor)


def _unchanged(values: Tensor, transform: str, floor: Tensor | None) -> Tensor:
    return values


NORMALISERS: dict[str, Callable[..., Tensor]] = {
    "l2": _unit_l2,
    "max_ac": _max_ac,
    "minmax": _minmax,
    "none": _unchanged,
}
DISTANCES: dict[str, Callable[[Tensor], Tensor]] = {
    "l2": lambda difference: torch.linalg.vector_norm(difference, dim=1),
    "squared": lambda difference: difference.square().sum(dim=1),
    "l1": lambda difference: difference.abs().sum(dim=1),
}
_VALID = {
    "transform": tuple(TRANSFORMS),
    "normalise": tuple(NORMALISERS),
    "normalise_when": ("before", "after"),
    "distance": tuple(DISTANCES),
}
