"""Losses as pure functions of tensors, one idea a file."""

from kdlib.losses.attention import (
    LevelBalance,
    at_loss_per_image,
    attention_map,
    attention_maps,
    maps_of,
    paired_maps,
)
from kdlib.losses.dct import (
    SpectralOptions,
    dct_2d,
    dct_matrix,
    frequency_mask,
    options_from,
    real_fft_2d,
    spectral_distance,
    spectrum,
)
from kdlib.losses.hints import margin_relu, negative_margins, overhaul_per_image
from kdlib.losses.logits import cross_entropy_per_image, kd_loss, kd_per_image

__all__ = [
    "LevelBalance",
    "SpectralOptions",
    "at_loss_per_image",
    "attention_map",
    "attention_maps",
    "cross_entropy_per_image",
    "dct_2d",
    "dct_matrix",
    "frequency_mask",
    "kd_loss",
    "kd_per_image",
    "maps_of",
    "margin_relu",
    "negative_margins",
    "options_from",
    "overhaul_per_image",
    "paired_maps",
    "real_fft_2d",
    "spectral_distance",
    "spectrum",
]
