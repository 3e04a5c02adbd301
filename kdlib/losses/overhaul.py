"""Overhaul feature distillation (Heo 2019, arXiv 1904.01866): pre-activation maps with margins."""

import torch
from torch import Tensor

from kdlib.losses.numeric import working_precision
from kdlib.losses.stages import pool_to_common_size


def negative_margins(features: Tensor) -> Tensor:
    """Mean of each channel's negative values: (B, C, H, W) -> (C,), 0 where it has none.

    The paper's expected value of a negative response, taken over the batch at hand: a teacher
    that is being trained has no other.
    """
    negative = features < 0
    total = torch.where(negative, features, 0).sum((0, 2, 3))
    return total / negative.sum((0, 2, 3)).clamp_min(1)


def margin_relu(features: Tensor, margins: Tensor) -> Tensor:
    """``max(F, m_c)``: (B, C, H, W) with margins (C,), none above 0 (section 3.1)."""
    return torch.maximum(features, margins[None, :, None, None])


def overhaul_per_image(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean partial squared difference to the teacher's margin ReLU: (B, C, H, W) twice -> (B,).

    Where the teacher's value is not positive, a student's that is lower still counts nothing:
    an activation would hide the difference (equation 5). The larger maps are pooled to the
    smaller; the mean over elements stands in place of the paper's sum.
    """
    mine, theirs = pool_to_common_size(working_precision(student), working_precision(teacher))
    target = margin_relu(theirs, negative_margins(theirs))
    hidden = (mine <= target) & (target <= 0)
    return torch.where(hidden, 0, (mine - target).square()).flatten(1).mean(dim=1)
