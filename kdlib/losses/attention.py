"""Feature maps, checked and paired; attention maps; attention transfer (AT).

AT: Zagoruyko, Komodakis 2017, arXiv 1612.03928.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from itertools import combinations
from typing import Any, ParamSpec, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdlib.errors import KdlibError, shown, unknown

Mine = TypeVar("Mine")
Theirs = TypeVar("Theirs")
Given = ParamSpec("Given")


class HasStages(Protocol):
    """What the losses read of a network's output."""

    @property
    def stages(self) -> Sequence[Tensor]:
        """Feature maps (B, C, H, W), one per stage, fine to coarse."""
        ...


Features = Tensor | Sequence[Tensor] | HasStages
"""Feature maps (B, C, H, W) of the stages, fine to coarse; or of one stage; or an output."""


def stages_of(features: Features) -> Sequence[Tensor]:
    """The feature map of every stage, fine to coarse."""
    if isinstance(features, Tensor):
        return (features,)
    return getattr(features, "stages", cast("Sequence[Tensor]", features))


def aligned(mine: Sequence[Mine], theirs: Sequence[Theirs]) -> list[tuple[Mine, Theirs]]:
    """Stages in pairs, the deepest with the deepest; what one network has more of is left out.

    The deepest stages mean the same in any two classifiers; the finest do not.
    """
    count = min(len(mine), len(theirs))
    return list(zip(mine[-count:], theirs[-count:], strict=True))


def check_features(student: Features, teacher: Features) -> None:
    """Refuse features that a loss would mistake for others.

    Raises:
        KdlibError: no stage, not four dimensions, unequal batches, channels in the last dimension,
            or stages in opposite orders.
    """
    mine, theirs = stages_of(student), stages_of(teacher)
    for owner, stages in (("student", mine), ("teacher", theirs)):
        _check_shapes(owner, stages)
        if any(_turn(*pair) for pair in combinations(stages, 2)):
            raise _channels_last(owner, stages)
    if _growth(mine) * _growth(theirs) < 0:
        raise KdlibError("Stages are in opposite orders; give both networks' fine to coarse.")
    for pair in aligned(mine, theirs):
        check_batches(*pair)
        if _contradict(*pair):
            raise _channels_last("student or teacher", pair)


def check_batches(student: Tensor, teacher: Tensor) -> None:
    """Refuse unequally many images, which arithmetic might broadcast, by a KdlibError."""
    if len(student) != len(teacher):
        raise KdlibError(
            f"The student has {len(student)} images and the teacher {len(teacher)}; show both "
            "networks the same batch."
        )


def _check_shapes(owner: str, stages: Sequence[Tensor]) -> None:
    if not isinstance(stages, list | tuple) or not stages:
        raise KdlibError(
            f"The {owner}'s features are {shown(stages)}; give a list of feature maps "
            "(B, C, H, W), one per stage, fine to coarse."
        )
    for stage in stages:
        if stage.dim() != 4:
            raise KdlibError(
                f"A feature map of the {owner} has the shape {tuple(stage.shape)}; it must have "
                "four dimensions, (B, C, H, W). Reshape tokens (B, N, C) to maps first."
            )


def _growth(stages: Sequence[Tensor]) -> int:
    first, last = stages[0].shape, stages[-1].shape
    return last[2] * last[3] - first[2] * first[3]


def _turn(stage: Tensor, deeper: Tensor) -> bool:
    """Whether height and width go opposite ways: those of (B, C, H, W) never do.

    In (B, H, W, C) the supposed width is the channels, which grow where the rows get fewer.
    """
    return (deeper.shape[2] - stage.shape[2]) * (deeper.shape[3] - stage.shape[3]) < 0


def _contradict(mine: Tensor, theirs: Tensor) -> bool:
    """Whether the two can be maps of one image only if channels come last in one or both.

    Read as (B, C, H, W), one is more than twice as elongated as the other; and either both have as
    many channels as rows, or one has the other's height and width as its channels and height.
    """
    (a, b, c), (x, y, z) = mine.shape[1:], theirs.shape[1:]
    unlike = b * z > 2 * c * y or c * y > 2 * b * z
    return unlike and ((a == b and x == y) or (a, b) == (y, z) or (x, y) == (b, c))


def _channels_last(owner: str, stages: Sequence[Tensor]) -> KdlibError:
    shapes = ", ".join(str(tuple(stage.shape)) for stage in stages)
    return KdlibError(
        f"Features of the {owner} look like (B, H, W, C): {shapes}. Losses take (B, C, H, W); turn "
        "them by features.permute(0, 3, 1, 2)."
    )


def pool_to_common_size(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool (..., H, W) and (..., H', W') to the smaller height and width of the two."""
    size = min(first.shape[-2], second.shape[-2]), min(first.shape[-1], second.shape[-1])
    return pooled(first, size), pooled(second, size)


def pooled(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Average-pool (..., H, W) to ``size``; as it is where it has that size."""
    same = features.shape[-2:] == size
    return features if same else functional.adaptive_avg_pool2d(features, size)


def working_precision(values: Tensor) -> Tensor:
    """``values`` in float32, or as they are when float64 (which ``gradcheck`` needs)."""
    return values if values.dtype == torch.float64 else values.float()


def pooled_alike(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`pool_to_common_size` in working precision."""
    return pool_to_common_size(working_precision(first), working_precision(second))


SMALLEST = 1e-30
"""Below this a float32 reciprocal, or the gradient through it, could overflow."""


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


def mean_of(per_image: Callable[Given, Tensor]) -> Callable[Given, Tensor]:
    """The mean over the batch, a scalar, of a loss per image (B,)."""

    @wraps(per_image)
    def loss(*args: Given.args, **kwargs: Given.kwargs) -> Tensor:
        return per_image(*args, **kwargs).mean()

    loss.__name__ = per_image.__name__.replace("_per_image", "_loss")
    loss.__doc__ = f"Mean over the batch, a scalar, of this:\n\n    {per_image.__doc__}"
    return loss


def attention_map(features: Tensor, power: int = 2) -> Tensor:
    """Channel mean of ``|F|^power``: (B, C, H, W) -> (B, H, W), float32 (float64 stays)."""
    if power == 2:
        return _ChannelEnergy.apply(features)
    return working_precision(features).abs().pow(power).mean(dim=1)


class _ChannelEnergy(torch.autograd.Function):
    """``mean_c F^2`` and its gradient ``2 F g / C`` in one pass each.

    This reads every activation of every stage, so it is nearly all that attention methods cost.
    Autograd's own chain of square and mean takes three passes and, in bfloat16, two copies.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(features: Tensor) -> Tensor:
        if features.stride(1) == 1:
            # Channels are innermost (channels_last): a norm along them is vectorised and needs
            # no temporary. Across strided channels the same norm is ten times slower.
            dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
            norm = torch.linalg.vector_norm(features, dim=1, dtype=dtype)
            return norm.square_().div_(features.shape[1])
        return working_precision(features).square().mean(dim=1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (features,) = ctx.saved_tensors
        scale = (gradient * (2 / features.shape[1])).unsqueeze(1)
        # Not `features * scale.to(bfloat16)`: with few channels that kernel is six times slower.
        return (features * scale).to(features.dtype)


def attention_maps(stages: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """The attention map of every stage, fine to coarse."""
    return tuple(attention_map(features) for features in stages)


def maps_of(features: Features) -> tuple[Tensor, ...]:
    """Attention map of every stage; an output's own ``maps`` are taken as they are.

    A teacher's output has them, so that all students of a step share one computation.
    """
    maps = getattr(features, "maps", None)
    return attention_maps(stages_of(features)) if maps is None else tuple(maps)


def paired_maps(student: Features, teacher: Features) -> list[tuple[Tensor, Tensor]]:
    """Student's and teacher's map of each stage, the deepest with the deepest.

    No gradient reaches the teacher's.

    Raises:
        KdlibError: see :func:`kdlib.losses.attention.check_features`.
    """
    check_features(student, teacher)
    pairs = aligned(maps_of(student), maps_of(teacher))
    return [(mine, theirs.detach()) for mine, theirs in pairs]


# How the terms of the stages ("levels") are weighted against each other.
LEVEL_WEIGHTS = ("equal_weight", "equal_scale")
# The buffer has a fixed length so that a checkpoint loads before the first batch is seen.
MAX_LEVELS = 16
MOMENTUM = 0.01


class LevelBalance(nn.Module):
    """Weighted sum over levels of per-image terms.

    Args:
        level_weights: ``equal_weight`` (1 each), ``equal_scale`` (each level's term is divided
            by its running mean, so that every level contributes about 1), or one explicit
            weight per level. The running mean is the plain mean of all batches, until each
            new one would count less than ``MOMENTUM``.

    Raises:
        KdlibError: an unknown value, or weights that are negative or not numbers.
    """

    means: Tensor
    batches: Tensor

    def __init__(self, level_weights: str | Sequence[float] = "equal_weight") -> None:
        super().__init__()
        self.level_weights = _checked(level_weights)
        if self.level_weights == "equal_scale":
            self.register_buffer("means", torch.ones(MAX_LEVELS))
            self.register_buffer("batches", torch.zeros(()))

    def forward(self, terms: Sequence[Tensor]) -> Tensor:
        """One term (B,) per level, fine to coarse -> (B,).

        The running mean moves in training mode only, and includes the batch at hand.

        Raises:
            KdlibError: explicit weights that are not one per level.
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
            share = (1 / self.batches).clamp_min(MOMENTUM)
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
    if isinstance(level_weights, str) or not weights or not all(w >= 0 for w in weights):
        raise KdlibError(
            f"Invalid level_weights {level_weights!r}. Valid: {', '.join(LEVEL_WEIGHTS)}, or a "
            "list of non-negative numbers, one per stage from fine to coarse."
        )
    return weights


class MapLoss(nn.Module):
    """A distance of attention maps, summed over stages.

    ``distance`` is of two maps, (B, H, W) and (B, H', W') -> (B,). ``reduction`` is ``mean`` of the
    batch, or ``none``: one value per image. For ``level_weights`` see :class:`LevelBalance`.
    """

    def __init__(
        self,
        distance: Callable[[Tensor, Tensor], Tensor],
        reduction: str = "mean",
        level_weights: str | Sequence[float] = "equal_weight",
    ) -> None:
        super().__init__()
        if reduction not in ("mean", "none"):
            raise unknown("reduction", reduction, ("mean", "none"))
        self.distance, self.reduction = distance, reduction
        self.balance = LevelBalance(level_weights)

    def forward(self, student: Features, teacher: Features, batch: object = None) -> Tensor:
        """A scalar, or (B,), of feature maps (B, C, H, W), one per stage, fine to coarse.

        Channels and sizes may differ; of unequally many stages the deepest are compared. No
        gradient reaches the teacher. ``batch`` is not read: a run hands it to every loss. A
        KdlibError as of :func:`kdlib.losses.attention.check_features`.
        """
        pairs = paired_maps(student, teacher)
        per_image = self.balance([self.distance(*pair) for pair in pairs])
        return per_image.mean() if self.reduction == "mean" else per_image


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


class ATLoss(MapLoss):
    """Attention transfer: squared difference of unit-norm attention maps, summed over stages.

    Its usual weight is 1000. Plain AT grows with the inverse square of a map's pixel count, so its
    last stage outweighs the others; ``level_weights="equal_scale"`` balances them.
    """

    def __init__(
        self, reduction: str = "mean", *, level_weights: str | Sequence[float] = "equal_weight"
    ) -> None:
        super().__init__(at_loss_per_image, reduction, level_weights)


def at_loss(student: Features, teacher: Features) -> Tensor:
    """:class:`ATLoss` as a function: lists of feature maps (B, C, H, W) -> scalar."""
    pairs = paired_maps(student, teacher)
    return torch.stack([at_loss_per_image(*pair) for pair in pairs]).sum(dim=0).mean()
