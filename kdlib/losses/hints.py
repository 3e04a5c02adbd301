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


def regressor(student: tuple[int, int, int], teacher: tuple[int, int, int]) -> nn.Sequential:
    """Convolution, batch norm, ReLU, from a stage (C, H, W) to another's channels and size.

    1 x 1; 3 x 3 of stride 2 to half the size; transposed, 4 x 4 of stride 2, to twice the size.
    """
    (inputs, *mine), (outputs, *theirs) = student, teacher
    if mine != theirs and [-(-side // 2) for side in mine] == theirs:
        return conv_norm(inputs, outputs, 3, 2, bias=True)
    layers = conv_norm(inputs, outputs, 1, bias=True)
    if [2 * side for side in mine] == theirs:
        layers[0] = nn.ConvTranspose2d(inputs, outputs, 4, 2, 1)
    return layers


class HintLoss(nn.Module):
    """FitNets: squared difference of the (later) middle stage, behind a :func:`regressor`.

    As released with Tian 2020 (arXiv 1910.10699): learned with the task, where Romero 2015 (arXiv
    1412.6550, Eq. 3) fits it first. Sizes that differ by another factor than 2 are pooled.
    """

    def __init__(self, pair: NetworkPair) -> None:
        super().__init__()
        stages = aligned(pair.student.stages, pair.teacher.stages)
        self.middle = len(stages) // 2
        self.regressor = regressor(*stages[self.middle])

    def forward(self, student: Output, teacher: Output, batch: object) -> Tensor:
        """(B,), unweighted."""
        mine, theirs = aligned(student.stages, teacher.stages)[self.middle]
        return feature_mse(self.regressor(for_layer(self.regressor, mine)), theirs)


FIRST_VARIANCE, SMALLEST_VARIANCE = 5.0, 1e-5


def gaussian_nll(mean: Tensor, variance: Tensor, teacher: Tensor) -> Tensor:
    """``mean (log var_c + (t - mu)^2 / var_c) / 2``: (B, C, H, W), (C,), (B, C, H, W) -> (B,)."""
    variance = variance.view(1, -1, 1, 1)
    terms = variance.log() + (teacher - mean).square() / variance
    return 0.5 * terms.flatten(1).mean(dim=1)


class Predictor(nn.Module):
    """From a student's stage to a normal distribution of the teacher's, by their channels."""

    def __init__(self, student: int, teacher: int) -> None:
        super().__init__()
        widths = student, teacher, teacher
        first, second, third = (nn.Conv2d(width, teacher, 1, bias=False) for width in widths)
        self.mean = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), third)
        raw = math.log(math.expm1(FIRST_VARIANCE - SMALLEST_VARIANCE))
        self.raw_variance = nn.Parameter(torch.full((teacher,), raw))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Negative log-likelihood (B,) of the teacher's features given the student's."""
        mine, theirs = pool_to_common_size(working_precision(student), working_precision(teacher))
        mean = working_precision(self.mean(for_layer(self.mean, mine)))
        variance = functional.softplus(working_precision(self.raw_variance)) + SMALLEST_VARIANCE
        return gaussian_nll(mean, variance, theirs)


class VariationalLoss(nn.Module):
    """VID (Ahn 2019, arXiv 1904.05835): negative log-likelihoods of stages, summed.

    As released with Tian 2020: without the constant of the density; the larger features are pooled
    before the convolutions, which have no biases.
    """

    def __init__(self, pair: NetworkPair) -> None:
        super().__init__()
        self.predictors = nn.ModuleList(Predictor(*channels) for channels in pair.channels)

    def forward(self, student: Output, teacher: Output, batch: object) -> Tensor:
        """(B,), unweighted; can be negative."""
        pairs = zip(self.predictors, aligned(student.stages, teacher.stages), strict=True)
        return torch.stack([predict(*stages) for predict, stages in pairs]).sum(dim=0)


class Embedding(nn.Module):
    """An image's inner products with its batch, zeros up to ``batch_size``, on the unit sphere."""

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size, width = batch_size, max(1, batch_size // 4)
        widen, narrow = nn.Linear(batch_size, 2 * width), nn.Linear(2 * width, width)
        self.layers = nn.Sequential(widen, nn.ReLU(), narrow)

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, a quarter of ``batch_size``)."""
        flat = working_precision(features).flatten(1)
        with torch.autocast(flat.device.type, enabled=False):
            products = functional.pad(flat @ flat.T, (0, self.batch_size - len(flat)))
        embedded = self.layers(for_layer(self.layers, products))
        return functional.normalize(working_precision(embedded), dim=1)


def projection(inputs: int, outputs: int) -> nn.Sequential:
    """1 x 1, 3 x 3 and 1 x 1 convolutions, the middle twice as wide as the ``outputs``."""
    middle = 2 * outputs
    last = nn.Conv2d(middle, outputs, 1, bias=False)
    return nn.Sequential(*conv_norm(inputs, middle, 1), *conv_norm(middle, middle), last)


class SemanticLoss(nn.Module):
    """SemCKD (Chen 2021, arXiv 2012.03236); as released its similarities are inner products."""

    def __init__(self, pair: NetworkPair) -> None:
        super().__init__()
        mine, theirs = pair.student.stages, pair.teacher.stages
        self.queries = nn.ModuleList(Embedding(pair.batch_size) for _ in mine)
        self.keys = nn.ModuleList(Embedding(pair.batch_size) for _ in theirs)
        pairs = product(mine, theirs)
        self.projections = nn.ModuleList(projection(one[0], other[0]) for one, other in pairs)

    def shares(self, student: Output, teacher: Output) -> Tensor:
        """Attention of each of the student's stages to the teacher's: (B, S, S'), sums of 1."""
        queries, keys = (
            torch.stack([embed(stage) for embed, stage in zip(layers, stages, strict=True)], dim=1)
            for layers, stages in ((self.queries, student.stages), (self.keys, teacher.stages))
        )
        return functional.softmax(queries @ keys.transpose(1, 2), dim=2)

    def forward(self, student: Output, teacher: Output, batch: object) -> Tensor:
        """(B,), unweighted: the mean over the student's stages."""
        pairs, distances = product(student.stages, teacher.stages), []
        for layers, pair in zip(self.projections, pairs, strict=True):
            mine, theirs = pool_to_common_size(*pair)  # before the projection, which costs less
            distances.append(feature_mse(layers(for_layer(layers, mine)), theirs))
        shares = self.shares(student, teacher).flatten(1)
        return (shares * torch.stack(distances, dim=1)).sum(dim=1) / len(student.stages)
