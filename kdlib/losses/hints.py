"""Features compared behind learned layers: FitNets, VID, SemCKD."""

import math
from itertools import product

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdlib.losses.attention import aligned, for_layer, pool_to_common_size, working_precision
from kdlib.models.cifar import conv_norm
from kdlib.models.output import NetworkPair, Output


def feature_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of features: (B, C, H, W), (B, C, H', W') -> (B,).

    The larger are pooled to the smaller. To the mean, in place of the half sum of Romero 2015,
    belongs the usual weight of 100.
    """
    mine, theirs = pool_to_common_size(working_precision(student), working_precision(teacher))
    return (mine - theirs).square().flatten(1).mean(dim=1)


class HintLoss(nn.Module):
    """FitNets: squared difference of the (later) middle stage, behind a 1 x 1 convolution.

    Learned with the task, as in later benchmarks; Romero 2015 (arXiv 1412.6550) fits it first.
    """

    def __init__(self, pair: NetworkPair) -> None:
        super().__init__()
        self.middle = len(pair.channels) // 2
        self.regressor = nn.Conv2d(*pair.channels[self.middle], kernel_size=1)

    def forward(self, student: Output, teacher: Output, batch: object) -> Tensor:
        """(B,), unweighted."""
        mine, theirs = aligned(student.stages, teacher.stages)[self.middle]
        return feature_mse(self.regressor(for_layer(self.regressor, mine)), theirs)


FIRST_VARIANCE, SMALLEST_VARIANCE = 5.0, 1e-5


def gaussian_nll(mean: Tensor, variance: Tensor, teacher: Tensor) -> Tensor:
    """``mean (log var_c + (t - mu)^2 / var_c) / 2``: (B, C, H, W), (C,), (B, C, H', W') -> (B,)."""
    mean, teacher = pool_to_common_size(working_precision(mean), working_precision(teacher))
    variance = variance.view(1, -1, 1, 1)
    terms = variance.log() + (teacher - mean).square() / variance
    return 0.5 * terms.flatten(1).mean(dim=1)


class Predictor(nn.Module):
    """From a student's stage to a normal distribution of the teacher's, by their channels."""

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        first, second, third = (nn.Conv2d(c, teacher, 1) for c in (student, teacher, teacher))
        self.mean = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)
        raw = math.log(math.expm1(FIRST_VARIANCE - SMALLEST_VARIANCE))
        self.raw_variance = nn.Parameter(torch.full((teacher,), raw))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Negative log-likelihood (B,) of the teacher's features given the student's."""
        variance = functional.softplus(self.raw_variance.float()) + SMALLEST_VARIANCE
        return gaussian_nll(self.mean(for_layer(self.mean, student)), variance, teacher)


class VariationalLoss(nn.Module):
    """VID (Ahn 2019, arXiv 1904.05835): the stages' negative log-likelihood, summed, per image."""

    def __init__(self, pair: NetworkPair) -> None:
        super().__init__()
        self.predictors = nn.ModuleList(Predictor(*channels) for channels in pair.channels)

    def forward(self, student: Output, teacher: Output, batch: object) -> Tensor:
        """(B,), unweighted; can be negative."""
        pairs = zip(self.predictors, aligned(student.stages, teacher.stages), strict=True)
        return torch.stack([predict(*stages) for predict, stages in pairs]).sum(dim=0)


class Embedding(nn.Module):
    """An image's similarities to its batch, zeros up to ``batch_size``, on the unit sphere."""

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size
        widen, narrow = nn.Linear(batch_size, 2 * batch_size), nn.Linear(2 * batch_size, batch_size)
        self.layers = nn.Sequential(widen, nn.ReLU(), narrow)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, batch_size)."""
        flat = functional.normalize(working_precision(features).flatten(1), dim=1)
        with torch.autocast(flat.device.type, enabled=False):
            similarities = functional.pad(flat @ flat.T, (0, self.batch_size - len(flat)))
        embedded = self.layers(for_layer(self.layers, similarities))
        return functional.normalize(working_precision(embedded), dim=1)


class SemanticLoss(nn.Module):
    """SemCKD (Chen 2021, arXiv 2012.03236): stages' squared differences, by learned attention."""

    def __init__(self, pair: NetworkPair) -> None:
        super().__init__()
        mine, theirs = pair.student.stages, pair.teacher.stages
        self.queries = nn.ModuleList(Embedding(pair.batch_size) for _ in mine)
        self.keys = nn.ModuleList(Embedding(pair.batch_size) for _ in theirs)
        self.projections = nn.ModuleList(  # whose middle is narrow by a choice of this project
            nn.Sequential(*conv_norm(c, c, 1), *conv_norm(c, c), nn.Conv2d(c, other[0], 1))
            for (c, *_), other in product(mine, theirs)
        )

    def forward(self, student: Output, teacher: Output, batch: object) -> Tensor:
        """(B,), unweighted: the mean over the student's stages."""
        queries, keys = (
            torch.stack([embed(stage) for embed, stage in zip(layers, stages, strict=True)], dim=1)
            for layers, stages in ((self.queries, student.stages), (self.keys, teacher.stages))
        )
        shares = functional.softmax(queries @ keys.transpose(1, 2), dim=2)  # (B, S, S')
        pairs, distances = product(student.stages, teacher.stages), []
        for layers, pair in zip(self.projections, pairs, strict=True):
            mine, theirs = pool_to_common_size(*pair)  # before the projection, which costs less
            distances.append(feature_mse(layers(for_layer(layers, mine)), theirs))
        return (shares.flatten(1) * torch.stack(distances, dim=1)).sum(dim=1) / len(student.stages)
