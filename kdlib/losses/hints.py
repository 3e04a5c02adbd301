"""Hints: features compared behind learned layers, by FitNets and VID; and Overhaul's distance."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdlib.losses.attention import aligned, for_layer, pooled_alike

if TYPE_CHECKING:
    from kdlib.data.batches import Batch
    from kdlib.losses.attention import HasStages
    from kdlib.losses.pair import Pair


def feature_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of features: (B, C, H, W), (B, C, H', W') -> (B,).

    The larger features are average-pooled to the size of the smaller. The mean over elements, in
    place of the paper's half sum, is what the usual weight of 100 belongs to.
    """
    mine, theirs = pooled_alike(student, teacher)
    return (mine - theirs).square().flatten(1).mean(dim=1)


class HintLoss(nn.Module):
    """FitNets: squared difference of the middle stage, through a 1 x 1 convolution, per image.

    The later middle one of an even number of stages. Romero 2015 (arXiv 1412.6550) fits the hint
    first and distils the logits afterwards; as in later benchmarks, both are learned together here.
    """

    def __init__(self, pair: "Pair") -> None:
        super().__init__()
        self.middle = len(pair.channels) // 2
        self.regressor = nn.Conv2d(*pair.channels[self.middle], kernel_size=1)

    def forward(self, student: "HasStages", teacher: "HasStages", batch: "Batch") -> Tensor:
        """(B,), unweighted."""
        mine, theirs = aligned(student.stages, teacher.stages)[self.middle]
        return feature_mse(self.regressor(for_layer(self.regressor, mine)), theirs)


FIRST_VARIANCE, SMALLEST_VARIANCE = 5.0, 1e-5


def gaussian_nll(mean: Tensor, variance: Tensor, teacher: Tensor) -> Tensor:
    """``mean (log var_c + (t - mu)^2 / var_c) / 2``: (B, C, H, W), (C,), (B, C, H', W') -> (B,).

    The negative log-density without its constant, averaged over elements.
    """
    mean, teacher = pooled_alike(mean, teacher)
    variance = variance.view(1, -1, 1, 1)
    terms = variance.log() + (teacher - mean).square() / variance
    return 0.5 * terms.flatten(1).mean(dim=1)


class Predictor(nn.Module):
    """From a student's stage to a normal distribution of the teacher's, by their channels."""

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        self.mean = nn.Sequential(
            nn.Conv2d(student, teacher, 1), nn.ReLU(),
            nn.Conv2d(teacher, teacher, 1), nn.ReLU(),
            nn.Conv2d(teacher, teacher, 1),
        )  # fmt: skip
        first = math.log(math.expm1(FIRST_VARIANCE - SMALLEST_VARIANCE))
        self.raw_variance = nn.Parameter(torch.full((teacher,), first))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Negative log-likelihood (B,) of the teacher's features given the student's."""
        variance = functional.softplus(self.raw_variance.float()) + SMALLEST_VARIANCE
        return gaussian_nll(self.mean(for_layer(self.mean, student)), variance, teacher)


class VariationalLoss(nn.Module):
    """VID: how unlikely the teacher's stages are, given the student's; their sum, per image.

    Source: Ahn 2019, arXiv 1904.05835.
    """

    def __init__(self, pair: "Pair") -> None:
        super().__init__()
        self.predictors = nn.ModuleList(Predictor(*channels) for channels in pair.channels)

    def forward(self, student: "HasStages", teacher: "HasStages", batch: "Batch") -> Tensor:
        """(B,), unweighted; can be negative."""
        pairs = zip(self.predictors, aligned(student.stages, teacher.stages), strict=True)
        return torch.stack([predict(*stages) for predict, stages in pairs]).sum(dim=0)


def negative_margins(features: Tensor) -> Tensor:
    """Mean of each channel's negative values: (B, C, H, W) -> (C,), 0 where it has none.

    The paper's expected value of a negative response, over the batch at hand: a teacher that is
    being trained has no other.
    """
    negative = features < 0
    total = torch.where(negative, features, 0).sum((0, 2, 3))
    return total / negative.sum((0, 2, 3)).clamp_min(1)


def overhaul_per_image(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean partial squared difference to the teacher's margin ReLU: (B, C, H, W) twice -> (B,).

    Where the teacher's value is not positive, a student's that is lower still counts nothing:
    an activation would hide the difference. The larger maps are pooled to the smaller; the mean
    over elements stands in place of the paper's sum. Source: Heo 2019, arXiv 1904.01866,
    section 3.1 and equation 5.
    """
    mine, theirs = pooled_alike(student, teacher)
    target = torch.maximum(theirs, negative_margins(theirs)[None, :, None, None])
    hidden = (mine <= target) & (target <= 0)
    return torch.where(hidden, 0, (mine - target).square()).flatten(1).mean(dim=1)
