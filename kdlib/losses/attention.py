"""Attention maps, and attention transfer (AT): Zagoruyko, Komodakis 2017, arXiv 1612.03928."""

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from kdlib.errors import KdlibError, checked_options

if TYPE_CHECKING:
    from kdlib.data.batches import Batch


# How the terms of the stages ("levels") are weighted against each other.
LEVEL_WEIGHTS = ("equal_weight", "equal_scale")
# The buffer has a fixed length so that a checkpoint loads before the first batch is seen.
MAX_LEVELS = 16


class LevelBalance(nn.Module):
    """Weighted sum over levels of per-image terms.

    Args:
        level_weights: ``equal_weight`` (1 each), ``equal_scale`` (each level's term is divided
            by its running mean, so that every level contributes about 1), or one explicit
            weight a level.
        momentum: share of a new batch in the running mean, once that has seen
            ``1 / momentum`` batches; until then it is the plain mean of all batches.

    Raises:
        KdlibError: an unknown value, or weights that are negative or not numbers.
    """

    means: Tensor
    batches: Tensor

    def __init__(
        self, level_weights: str | Sequence[float] = "equal_weight", momentum: float = 0.01
    ) -> None:
        super().__init__()
        self.level_weights = _checked(level_weights)
        self.momentum = momentum
        if self.level_weights == "equal_scale":
            self.register_buffer("means", torch.ones(MAX_LEVELS))
            self.register_buffer("batches", torch.zeros(()))

    def forward(self, terms: Sequence[Tensor]) -> Tensor:
        """One term (B,) a level, fine to coarse -> (B,).

        The running mean moves in training mode only, and includes the batch at hand.

        Raises:
            KdlibError: explicit weights that are not one a level.
        """
        stacked = torch.stack(tuple(terms))
        if self.level_weights == "equal_scale":
            return self._equal_scale(stacked)
        if self.level_weights == "equal_weight":
            return stacked.sum(dim=0)
        if len(self.level_weights) != len(terms):
            raise KdlibError(
                f"{len(self.level_weights)} level_weights for {len(terms)} stages; give one each."
            )
        # Not a matrix product: autocast would make it one of bfloat16.
        return (stacked.new_tensor(self.level_weights)[:, None] * stacked).sum(dim=0)

    def _equal_scale(self, terms: Tensor) -> Tensor:
        means = self.means[: len(terms)]
        if self.training:
            self.batches += 1
            share = (1 / self.batches).clamp_min(self.momentum)
            means.lerp_(terms.detach().mean(dim=1).to(means.dtype), share)
        # A level whose mean is 0 has had no difference to weigh: its terms are 0 as well.
        return (terms / means.clone().masked_fill(means == 0, 1)[:, None]).sum(dim=0)


def _checked(level_weights: str | Sequence[float]) -> str | tuple[float, ...]:
    if level_weights in LEVEL_WEIGHTS:
        return level_weights
    try:
        weights = tuple(float(weight) for weight in level_weights)
    except (TypeError, ValueError):
        weights = ()
    if isinstance(level_weights, str) or not weights or min(weights) < 0:
        raise KdlibError(
            f"Invalid level_weights {level_weights!r}. Valid: {', '.join(LEVEL_WEIGHTS)}, or a "
            "list of non-negative numbers, one a stage from fine to coarse."
        )
    return weights


# Numerical care that the losses share: working precision, division that never yields NaN.
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


# Which stage of one network answers to which of another, and at which size they are compared.
Mine = TypeVar("Mine")
Theirs = TypeVar("Theirs")


def aligned(mine: Sequence[Mine], theirs: Sequence[Theirs]) -> list[tuple[Mine, Theirs]]:
    """Stages in pairs, the deepest with the deepest; what one network has more of is left out.

    The deepest stages mean the same in any two classifiers; the finest do not.
    """
    count = min(len(mine), len(theirs))
    return list(zip(mine[-count:], theirs[-count:], strict=True))


def pool_to_common_size(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool (..., H, W) and (..., H', W') to the smaller height and width of the two."""
    size = min(first.shape[-2], second.shape[-2]), min(first.shape[-1], second.shape[-1])
    return pooled(first, size), pooled(second, size)


def pooled(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Average-pool (..., H, W) to ``size``; as it is where it has that size."""
    same = features.shape[-2:] == size
    return features if same else functional.adaptive_avg_pool2d(features, size)


class HasStages(Protocol):
    """What the losses need of a network's output: stage features (B, C, H, W), fine to coarse."""

    @property
    def stages(self) -> tuple[Tensor, ...]:
        """Features of each resolution."""
        ...


def attention_map(features: Tensor, power: int = 2) -> Tensor:
    """Channel mean of ``|F|^power``: (B, C, H, W) -> (B, H, W), float32 (float64 stays)."""
    if power == 2:
        return _ChannelEnergy.apply(features)
    return working_precision(features).abs().pow(power).mean(dim=1)


def attention_maps(stages: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """The attention map of every stage, fine to coarse."""
    return tuple(attention_map(features) for features in stages)


def maps_of(output: HasStages) -> tuple[Tensor, ...]:
    """Attention maps of a network's output; those it carries as ``maps`` are not recomputed.

    A teacher's output carries them, so that all students of a step share one computation.
    """
    maps = getattr(output, "maps", None)
    return attention_maps(output.stages) if maps is None else tuple(maps)


def paired_maps(student: HasStages, teacher: HasStages) -> list[tuple[Tensor, Tensor]]:
    """Student's and teacher's map of each stage; the teacher's are cut off from its graph."""
    pairs = aligned(maps_of(student), maps_of(teacher))
    return [(mine, theirs.detach()) for mine, theirs in pairs]


def at_loss_per_image(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean squared difference of two maps of unit L2 norm: (B, H, W), (B, H', W') -> (B,).

    Maps of unequal size: the larger is pooled to the smaller. A zero map stays zero and gets no
    gradient. Follows the mean over pixels of the authors' experiments, whose usual weight is
    1000, rather than the norm of equation 2.
    """
    student, teacher = map(_unit_norm, pool_to_common_size(student_map, teacher_map))
    return (student - teacher).square().mean(dim=1)


def _unit_norm(maps: Tensor) -> Tensor:
    vectors = working_precision(maps).flatten(1)
    return divide(vectors, torch.linalg.vector_norm(vectors, dim=1, keepdim=True))


class _ChannelEnergy(torch.autograd.Function):
    """``mean_c F^2`` and its gradient ``2 F g / C`` in one pass each.

    This reads every activation of every stage, so it is nearly all that attention methods cost.
    Autograd's own chain of square and mean takes three passes and, in bfloat16, two copies.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ctx.save_for_backward(features)
        if features.stride(1) == 1:
            # Channels are innermost (channels_last): a norm along them is vectorised and needs
            # no temporary. Across strided channels the same norm is ten times slower.
            dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
            norm = torch.linalg.vector_norm(features, dim=1, dtype=dtype)
            return norm.square_().div_(features.shape[1])
        return working_precision(features).square().mean(dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (features,) = ctx.saved_tensors
        scale = (gradient * (2 / features.shape[1])).unsqueeze(1)
        # Not `features * scale.to(bfloat16)`: with few channels that kernel is six times slower.
        return (features * scale).to(features.dtype)


# Attention transfer (Zagoruyko, Komodakis 2017, arXiv 1612.03928).
class AttentionLoss(nn.Module):
    """Squared difference of unit-norm attention maps, summed over stages, per image.

    With ``level_weights="equal_scale"`` this is the control ``at_equal_scale``: plain AT grows
    with the inverse square of a map's pixel count, so its last stage outweighs the others.

    Raises:
        KdlibError: an unknown option, or invalid ``level_weights``.
    """

    def __init__(
        self, level_weights: str | Sequence[float] = "equal_weight", **others: object
    ) -> None:
        checked_options(others, ("level_weights",), "attention transfer")
        super().__init__()
        self.balance = LevelBalance(level_weights)

    def forward(self, student: HasStages, teacher: HasStages, batch: "Batch") -> Tensor:
        """(B,), unweighted."""
        pairs = paired_maps(student, teacher)
        return self.balance([at_loss_per_image(mine, theirs) for mine, theirs in pairs])
