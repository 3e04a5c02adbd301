"""The DCT-driven loss of arXiv 2205.01997: its released variants, its name's, its controls."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from kdlib.data.batches import Batch
from kdlib.errors import checked_options, unknown
from kdlib.losses.attention import HasStages, paired_maps
from kdlib.losses.dct import (
    OPTION_NAMES,
    SpectralOptions,
    options_from,
    spectral_distance,
)
from kdlib.losses.levels import LevelBalance

# The paper's name taken at its word. The spectrum is brought to unit L2 norm, not to a largest
# coefficient of 1 as in the release: the L2 norm is the same in both domains (Parseval), so the
# twin below can differ from this in nothing but rounding; a map's largest pixel and its largest
# coefficient are unrelated. Both normalisers remove the scale, and a term lies in 0..2 as
# against about 3 for release_a.
DCT = SpectralOptions(transform="dct", normalise="l2", normalise_when="after", drop_dc=True)

PRESETS: dict[str, SpectralOptions] = {
    "dct": DCT,
    # As released: absolute value of the real part of the FFT, over its largest (June 2021, and
    # branch `dev`), and without the absolute value, min-max (branch `main`). The min-max of the
    # attention maps that precedes both is undone by what follows it, and so is left out.
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


class SpectralLoss(nn.Module):
    """Distance of normalised spectra of attention maps, summed over stages, per image.

    Args:
        start: the options that ``options`` changes.
        level_weights: see :class:`kdlib.losses.levels.LevelBalance`.
        options: fields of :class:`kdlib.losses.dct.SpectralOptions`.

    Raises:
        KdlibError: an unknown option or value, listing the valid ones.
    """

    def __init__(
        self,
        start: SpectralOptions = DCT,
        /,
        level_weights: str | Sequence[float] = "equal_weight",
        **options: Any,
    ) -> None:
        checked_options(options, (*OPTION_NAMES, "level_weights"), "the DCT loss")
        super().__init__()
        self.options = options_from(start, **options)
        self.balance = LevelBalance(level_weights)

    def forward(self, student: HasStages, teacher: HasStages, batch: Batch) -> Tensor:
        """(B,), unweighted."""
        pairs = paired_maps(student, teacher)
        return self.balance([spectral_distance(*pair, self.options) for pair in pairs])


def preset(name: str, **options: Any) -> SpectralLoss:
    """The loss of a preset, some of whose options may be changed.

    Raises:
        KdlibError: an unknown preset, option or value, listing the valid ones.
    """
    if name not in PRESETS:
        raise unknown("preset of the DCT loss", name, PRESETS)
    return SpectralLoss(PRESETS[name], **options)
