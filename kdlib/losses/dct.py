"""The DCT-driven loss of arXiv 2205.01997, and its variants as named options of one function."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, replace
from functools import lru_cache, partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from kdlib.errors import KdlibError, check_known, checked_options
from kdlib.losses import attention
from kdlib.losses.attention import Features, Levels, divide, working_precision

Build = TypeVar("Build", bound=Callable[..., Tensor | None])
Band = tuple[str, float] | tuple[str, float, float]


def _constant(build: Build) -> Build:
    """Build a tensor once for each size; ``torch.compile`` takes it for a constant."""
    # A tensor born in inference mode could not be used in training, and the cache outlives it.
    look_up: Any = torch.inference_mode(False)(lru_cache(maxsize=256)(build))
    # What torch.compiler.assume_constant_result does, but that imports the whole compiler.
    look_up._dynamo_marked_constant = True
    return look_up


@_constant
def dct_matrix(
    size: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> Tensor:
    """Orthonormal DCT-II basis (N, N), one row per frequency. Cached: do not write to it.

    ``D[k, n] = c_k cos(pi (2 n + 1) k / (2 N))``, ``c_0 = sqrt(1/N)``, else ``sqrt(2/N)``
    (Ahmed, Natarajan, Rao 1974), so that ``D @ D.T = 1``.
    """
    n = torch.arange(size, dtype=torch.float64)
    basis = torch.cos(math.pi / (2 * size) * torch.outer(n, 2 * n + 1)) * math.sqrt(2 / size)
    basis[0] = math.sqrt(1 / size)
    return basis.to(device, dtype)


def dct_2d(maps: Tensor) -> Tensor:
    """2-D DCT-II of each map, (B, H, W) -> (B, H, W): ``scipy.fft.dctn(norm="ortho")``.

    Indices are [frequency down, frequency across]; ``[:, 0, 0]`` is the DC coefficient.
    """
    maps = working_precision(maps)
    rows, columns = (dct_matrix(size, maps.dtype, maps.device) for size in maps.shape[-2:])
    return rows @ maps @ columns.T


def real_fft_2d(maps: Tensor) -> Tensor:
    """Real part of the orthonormal 2-D FFT: (B, H, W) -> (B, H, W). Not a DCT.

    It sees the circularly even part of a map, ``(x[n] + x[-n]) / 2``, and is blind to the odd part.
    """
    return torch.fft.fft2(maps, norm="ortho").real


TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "dct": dct_2d,
    "dct_abs": lambda maps: dct_2d(maps).abs(),
    "fft_abs": lambda maps: real_fft_2d(maps).abs(),
    "fft_real": real_fft_2d,
    "none": lambda maps: maps,
}
LIMITS = {"low": 1, "high": 1, "range": 2}  # of a band


@_constant
def frequency_mask(
    shape: tuple[int, int], transform: str, band: Band | None, drop_dc: bool, device: torch.device
) -> Tensor | None:
    """Which coefficients (H, W) are kept; None for all. Cached: do not write to it.

    The lowest k are those below k on *both* axes; the highest k are all but the lowest N - k.
    In an FFT, frequency n and N - n are one. A KdlibError if a band leaves nothing.
    """
    folded = transform.startswith("fft")
    axes = [_below_edges(size, folded, band or ("low", 1.0)) for size in shape]
    below, within = (rows[:, None] & columns for rows, columns in zip(*axes, strict=True))
    kept = within & ~below
    kept[0, 0] &= not drop_dc
    if band is not None and not kept.any():
        raise KdlibError(f"Band {list(band)} leaves no frequency of a {shape} map; widen it.")
    return None if kept.all() else kept.to(device)


def _below_edges(size: int, folded: bool, band: Band) -> tuple[Tensor, Tensor]:
    """Which frequencies of an axis lie below a band's lower edge, and below its upper edge."""
    frequency = torch.arange(size)
    if folded:
        frequency = torch.minimum(frequency, size - frequency)
    count = int(frequency.max()) + 1
    name, *limits = band
    edges = [limit if isinstance(limit, int) else round(limit * count) for limit in limits]
    low, high = (count - edges[0], count) if name == "high" else (0, *edges)[-2:]
    return frequency < low, frequency < high


def _select(values: Tensor, transform: str, drop_dc: bool, band: Band | None = None) -> Tensor:
    if transform == "none":
        return values - values.mean((1, 2), keepdim=True) if drop_dc else values
    shape = (values.shape[1], values.shape[2])
    mask = frequency_mask(shape, transform, band, drop_dc, values.device)
    return values if mask is None else values * mask


def _normalised(values: Tensor, how: str, transform: str, floor: Tensor) -> Tensor:
    if how == "none":
        return values
    if how == "minmax":
        low, high = values.amin((1, 2), keepdim=True), values.amax((1, 2), keepdim=True)
        return divide(values - low, high - low, floor)
    if how == "l2":
        norms = torch.linalg.vector_norm(values.flatten(1), dim=1)
        return divide(values, norms[:, None, None], floor)
    without_dc = _select(values, transform, drop_dc=True)
    return divide(values, without_dc.abs().amax((1, 2), keepdim=True), floor)


DISTANCES: dict[str, Callable[[Tensor], Tensor]] = {
    "l2": lambda difference: torch.linalg.vector_norm(difference, dim=1),
    "squared": lambda difference: difference.square().sum(dim=1),
    "l1": lambda difference: difference.abs().sum(dim=1),
}
VALID: dict[str, Collection[Any]] = {
    "transform": TRANSFORMS,
    "normalise": ("l2", "max_ac", "minmax", "none"),
    "normalise_when": ("before", "after"),
    "drop_dc": (True, False),
    "distance": DISTANCES,
}


@dataclass(frozen=True)
class SpectralOptions:
    """What is compared of two attention maps, and how; a KdlibError lists what is valid."""

    transform: str = "dct"  # orthonormal DCT-II; dct_abs; fft_real (part of the FFT), fft_abs; none
    normalise: str = "l2"  # norm; max_ac: by the largest magnitude but DC; minmax: to 0..1; none
    normalise_when: str = "after"  # the transform; before
    drop_dc: bool = True  # leave out the DC coefficient (of transform none: the map's mean)
    distance: str = "l2"  # root of the sum of squares; squared: without root; l1
    band: Band | None = None  # all; ("low", k), ("high", k), ("range", a, b), counts or shares

    def __post_init__(self) -> None:
        for name, valid in VALID.items():
            check_known(name, getattr(self, name), valid)
        if self.band is None:
            return
        name, *limits = self.band if isinstance(self.band, tuple | list) else (self.band,)
        numeric = all(isinstance(limit, int | float) and limit >= 0 for limit in limits)
        if LIMITS.get(name) != len(limits) or not numeric:
            raise KdlibError(
                f"Invalid band {self.band!r}. Valid: null (all frequencies), [low, k], [high, k], "
                "[range, a, b]; k, a, b: frequencies per axis (2), or a share of them (0.5)."
            )
        if self.transform == "none":
            raise KdlibError("A band of frequencies needs a transform; this one is 'none'.")
        object.__setattr__(self, "band", (name, *limits))


# What the paper's name says: a DCT. With unit L2 norm, the same in both domains (Parseval), not a
# largest coefficient of 1 as released. A term lies in 0..2; release_a's is about 3.
DCT = SpectralOptions()
PRESETS: dict[str, SpectralOptions] = {
    "dct": DCT,
    # As released in June 2021 (and branch `dev`), and in branch `main`. The min-max of maps that
    # precedes both there is undone by what follows it, and so is left out.
    "release_a": SpectralOptions(transform="fft_abs", normalise="max_ac"),
    "release_b": SpectralOptions(transform="fft_real", normalise="minmax"),
    # Controls, each one step away from `dct`, and the plain spatial distance of min-max maps.
    "parseval_twin": replace(DCT, transform="none"),
    "dct_abs": replace(DCT, transform="dct_abs"),
    "dct_l1": replace(DCT, distance="l1"),
    "dct_low": replace(DCT, band=("low", 0.5)),
    "dct_high": replace(DCT, band=("high", 0.5)),
    "newl2": SpectralOptions("none", "minmax", "before", drop_dc=False),
    # The best of all of these on the dev split of Scenes, if by less than two runs may differ.
    "ours": replace(DCT, transform="dct_abs"),
}


def options_from(preset: str, **changes: Any) -> SpectralOptions:
    """The options of a preset, some of them changed; a KdlibError lists what is valid."""
    check_known("preset of the DCT loss", preset, PRESETS)
    checked_options(changes, [field.name for field in fields(SpectralOptions)], "the DCT loss")
    return replace(PRESETS[preset], **changes)


def spectrum(maps: Tensor, options: SpectralOptions, size: tuple[int, int]) -> Tensor:
    """What the loss compares of maps (B, H, W): the lowest frequencies, (B, *size), normalised.

    They are scaled so that a smooth map has about the same coefficients at any resolution.
    """
    # A variation of less than 16 units in the last place of a map's norm is rounding noise.
    norms = torch.linalg.vector_norm(maps.detach().flatten(1), dim=1)[:, None, None]
    floor = (norms * (16 * torch.finfo(maps.dtype).eps)).clamp_min(attention.SMALLEST)
    if options.normalise_when == "before":
        maps = _normalised(maps, options.normalise, "none", floor)
    values = TRANSFORMS[options.transform](maps)
    if values.shape[1:] != size:
        share = size[0] * size[1] / (values.shape[1] * values.shape[2])
        values = values[:, : size[0], : size[1]] * share**0.5
    values = _select(values, options.transform, options.drop_dc, options.band)
    if options.normalise_when == "after":
        values = _normalised(values, options.normalise, options.transform, floor)
    return values


def spectral_distance(
    student_map: Tensor, teacher_map: Tensor, options: SpectralOptions = DCT
) -> Tensor:
    """Distance of two maps' normalised spectra: (B, H, W), (B, H', W') -> (B,).

    In float32 (or float64), whatever autocast says, and finite in value and gradient: flat maps
    have a zero spectrum, equal spectra no gradient. Of maps of unequal size a DCT compares the
    common low frequencies; for other transforms the larger is first pooled to the smaller.
    """
    with torch.autocast(student_map.device.type, enabled=False):
        student, teacher = working_precision(student_map), working_precision(teacher_map)
        if not options.transform.startswith("dct"):
            student, teacher = attention.pool_to_common_size(student, teacher)
        size = min(student.shape[1], teacher.shape[1]), min(student.shape[2], teacher.shape[2])
        student, teacher = (spectrum(maps, options, size) for maps in (student, teacher))
        return DISTANCES[options.distance]((student - teacher).flatten(1))


class DCTLoss(attention.MapLoss):
    """The DCT-driven loss, :func:`spectral_distance` summed over stages.

    Its usual weight is 4, and 1 for the released variants. ``preset`` is one of ``PRESETS``, of
    which ``options`` change fields of :class:`SpectralOptions`.
    """

    def __init__(
        self,
        preset: str = "dct",
        reduction: str = "mean",
        *,
        level_weights: Levels = "equal_weight",
        **options: Any,
    ) -> None:
        chosen = options_from(preset, **options)
        super().__init__(partial(spectral_distance, options=chosen), reduction, level_weights)
        self.options = chosen


def dct_loss(student: Features, teacher: Features, options: SpectralOptions | str = DCT) -> Tensor:
    """:class:`DCTLoss` as a function, of options or a preset: lists of maps (B, C, H, W) -> ()."""
    options = options_from(options) if isinstance(options, str) else options
    return attention.MapLoss(partial(spectral_distance, options=options))(student, teacher)
