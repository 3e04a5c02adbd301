"""Variational information distillation, VID (Ahn 2019, arXiv 1904.05835)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdlib.data.batches import Batch
from kdlib.distillers.base import TeacherOutput
from kdlib.distillers.pair import Pair
from kdlib.losses.numeric import for_layer, working_precision
from kdlib.losses.stages import aligned, pool_to_common_size
from kdlib.models.output import Output

FIRST_VARIANCE, SMALLEST_VARIANCE = 5.0, 1e-5


def gaussian_nll(mean: Tensor, variance: Tensor, teacher: Tensor) -> Tensor:
    """``mean (log var_c + (t - mu)^2 / var_c) / 2``: (B, C, H, W), (C,), (B, C, H', W') -> (B,).

    The negative log-density without its constant, averaged over elements.
    """
    mean, teacher = pool_to_common_size(working_precision(mean), working_precision(teacher))
    variance = variance.view(1, -1, 1, 1)
    terms = variance.log() + (teacher - mean).square() / variance
    return 0.5 * terms.flatten(1).mean(dim=1)


class Predictor(nn.Module):
    """The variational distribution of one stage: a mean by 1 x 1 convolutions, a learned variance.

    Args:
        student: channels of the student's stage.
        teacher: channels of the teacher's.
    """

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
    """How unlikely the teacher's features are, given the student's: summed over stages, per image.

    Args:
        pair: the networks.
    """

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.predictors = nn.ModuleList(Predictor(*channels) for channels in pair.channels)

    def forward(self, student: Output, teacher: TeacherOutput, batch: Batch) -> Tensor:
        """(B,), unweighted; can be negative."""
        stages = aligned(student.stages, teacher.stages)
        pairs = zip(self.predictors, stages, strict=True)
        return torch.stack([predict(*stage) for predict, stage in pairs]).sum(dim=0)
