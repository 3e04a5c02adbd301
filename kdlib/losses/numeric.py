"""Numerical care that the losses share: working precision, division that never yields NaN."""

import math

import torch
from torch import Tensor, nn

# A map whose variation is below this many units in the last place of its norm is flat: what is
# left of it after its mean is removed is rounding noise, and dividing by it would amplify that.
FLAT_ULPS = 16
# Below this a float32 reciprocal, or the gradient through it, could overflow.
SMALLEST = 1e-30


def working_precision(values: Tensor) -> Tensor:
    """``values`` in float32, or as they are when float64 (which ``gradcheck`` needs)."""
    return values if values.dtype == torch.float64 else values.float()


def flatness_floor(maps: Tensor) -> Tensor:
    """Size (B, 1, 1) under which the variation of a map (B, H, W) is rounding noise."""
    norms = torch.linalg.vector_norm(maps.detach().flatten(1), dim=1)
    return (norms * (FLAT_ULPS * torch.finfo(maps.dtype).eps)).clamp_min(SMALLEST)[:, None, None]


def divide(values: Tensor, size: Tensor, floor: Tensor | float = SMALLEST) -> Tensor:
    """``values / size``; zero, with zero gradient, where ``size`` does not exceed ``floor``."""
    # A product with the few reciprocals, because the backward pass of a quotient takes four
    # passes over ``values`` and that of a product two.
    return values * size.masked_fill(size <= floor, math.inf).reciprocal()


def for_layer(layer: nn.Module, features: Tensor) -> Tensor:
    """``features`` as ``layer`` takes them: autocast converts by itself, else its own precision."""
    if torch.is_autocast_enabled(features.device.type):
        return features
    return features.to(next(layer.parameters()).dtype)
