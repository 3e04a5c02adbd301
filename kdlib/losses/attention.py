"""Feature maps, checked and paired; attention maps; attention transfer (AT)."""

import math
from collections.abc import Callable, Sequence
from functools import wraps
from itertools import combinations
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdlib.errors import KdlibError, check_known, shown

Stage = TypeVar("Stage")
Given = ParamSpec("Given")
Features = Tensor | Sequence[Tensor] | Any
"""Feature maps (B, C, H, W) of the stages, fine to coarse; or of one stage; or an output."""
Distance = Callable[[Tensor, Tensor], Tensor]  # (B, H, W), (B, H', W') -> (B,)
Levels = str | Sequence[float]


def stages_of(features: Features) -> Sequence[Tensor]:
    """The feature map of every stage, fine to coarse."""
    if isinstance(features, Tensor):
        return (features,)
    return getattr(features, "stages", features)


def aligned(mine: Sequence[Stage], theirs: Sequence[Stage]) -> list[tuple[Stage, Stage]]:
    """Stages in pairs, the deepest with the deepest: those mean the same in any two networks."""
    count = min(len(mine), len(theirs))
    return list(zip(mine[-count:], theirs[-count:], strict=True))


def check_features(student: Features, teacher: Features) -> None:
    """Refuse, by a KdlibError, features that a loss would mistake for others."""
    mine, theirs = checked_stages("student", student), checked_stages("teacher", teacher)
    for pair in aligned(mine, theirs):
        check_batches(*pair)
        # Channels come last if both maps, read as (B, C, H, W), have as many channels as rows, or
        # one the other's rows and columns there, and one is twice as elongated as the other; or if
        # those of as many channels as rows are both four times as wide.
        (a, b, c), (x, y, z) = (one.shape[1:] for one in pair)
        alike = a == b and x == y
        moved = alike or (a, b) == (y, z) or (x, y) == (b, c)
        apart = b * z > 2 * c * y or c * y > 2 * b * z
        if (moved and apart) or (alike and c >= 4 * b and z >= 4 * y):
            raise channels_last("student or teacher", pair)


def check_batches(one: Tensor, other: Tensor) -> None:
    """Refuse unequally many images, which arithmetic might broadcast, by a KdlibError."""
    if len(one) != len(other):
        says = f"{len(one)} images are compared with {len(other)}"
        raise KdlibError(f"{says}: show student and teacher the same batch.")


def checked_stages(owner: str, features: Features) -> Sequence[Tensor]:
    """The stages of a network; a KdlibError for what are no feature maps from fine to coarse."""
    stages = stages_of(features)
    if not isinstance(stages, list | tuple) or not stages:
        raise KdlibError(
            f"The {owner}'s features are {shown(stages)}; give a list of feature maps "
            "(B, C, H, W), one per stage, fine to coarse."
        )
    for stage in stages:
        check_map(owner, stage)
    for one, other in combinations(stages, 2):
        check_batches(one, other)
        # Height and width never go opposite ways, but rows and channels of (B, H, W, C) do.
        if (other.shape[2] - one.shape[2]) * (other.shape[3] - one.shape[3]) < 0:
            raise channels_last(owner, stages)
    sizes = [stage.shape[2] * stage.shape[3] for stage in stages]
    if sizes != sorted(sizes, reverse=True):
        raise KdlibError(f"Stages of the {owner} grow: {shapes(stages)}; give them fine to coarse.")
    return stages


def check_map(owner: str, features: Tensor) -> None:
    """Refuse, by a KdlibError, what is no feature map (B, C, H, W)."""
    if not isinstance(features, Tensor) or features.dim() != 4 or 0 in features.shape:
        shape = tuple(getattr(features, "shape", ())) or shown(features)
        raise KdlibError(
            f"A feature map of the {owner} is {shape}; it must be a tensor of four dimensions, "
            "(B, C, H, W). Reshape tokens (B, N, C) to maps first."
        )


def shapes(stages: Sequence[Tensor]) -> str:
    """Shapes of feature maps as an error tells them."""
    return ", ".join(str(tuple(stage.shape)) for stage in stages)


def channels_last(owner: str, stages: Sequence[Tensor]) -> KdlibError:
    """The error for features whose channels come last."""
    return KdlibError(
        f"Features of the {owner} look like (B, H, W, C): {shapes(stages)}. Losses take (B, C, H, "
        "W); turn them by features.permute(0, 3, 1, 2)."
    )


def pool_to_common_size(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Average-pool (..., H, W) and (..., H', W') to the smaller height and width of the two."""
    size = min(first.shape[-2], second.shape[-2]), min(first.shape[-1], second.shape[-1])
    pool = functional.adaptive_avg_pool2d
    one, other = (maps if maps.shape[-2:] == size else pool(maps, size) for maps in (first, second))
    return one, other


def working_precision(values: Tensor) -> Tensor:
    """``values`` in float32, or as they are when float64 (which ``gradcheck`` needs)."""
    return values if values.dtype == torch.float64 else values.float()


SMALLEST = 1e-30  # below this a float32 reciprocal, or the gradient through it, could overflow


def divide(values: Tensor, size: Tensor, floor: Tensor | float = SMALLEST) -> Tensor:
    """``values / size``; zero, with zero gradient, where ``size`` does not exceed ``floor``."""
    # The backward pass of a quotient takes four passes over ``values``, that of a product two.
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
    check_map("network", features)
    if power == 2:
        return _ChannelEnergy.apply(features)
    return working_precision(features).abs().pow(power).mean(dim=1)


class _ChannelEnergy(torch.autograd.Function):
    """``mean_c F^2`` and its gradient ``2 F g / C``, each in one pass over every activation.

    It is nearly all that attention methods cost; autograd's own square and mean take three passes.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(features: Tensor) -> Tensor:
        if features.stride(1) != 1:
            return working_precision(features).square().mean(dim=1)
        # In channels_last a norm is vectorised and needs no temporary; else it is slower ten times.
        dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
        norm = torch.linalg.vector_norm(features, dim=1, dtype=dtype)
        return norm.square_().div_(features.shape[1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (features,) = ctx.saved_tensors
        scale = (gradient * (2 / features.shape[1])).unsqueeze(1)
        # Not `features * scale.to(bfloat16)`: with few channels that kernel is six times slower.
        return (features * scale).to(features.dtype)


def attention_maps(features: Features) -> tuple[Tensor, ...]:
    """The attention map (B, H, W) of every stage; a teacher's output has them, computed once."""
    maps = getattr(features, "maps", None)
    return tuple(map(attention_map, stages_of(features))) if maps is None else maps


def paired_maps(student: Features, teacher: Features) -> list[tuple[Tensor, Tensor]]:
    """Attention maps of each pair of stages, as ``aligned``; no gradient reaches the teacher's."""
    if not hasattr(teacher, "maps"):  # of whose features a KeptTeacher may have no more than these
        check_features(student, teacher)
    pairs = aligned(attention_maps(student), attention_maps(teacher))
    if all(mine.shape[1] == mine.shape[2] == 1 for mine, _ in pairs):
        raise KdlibError("Maps of one pixel show no attention; give stages before they are pooled.")
    return [(mine, theirs.detach()) for mine, theirs in pairs]


class LevelBalance(nn.Module):
    """Weighted sum over stages ("levels") of per-image terms.

    ``level_weights`` is ``equal_weight`` (1 each), ``equal_scale`` (each term is divided by its
    running mean: the mean of all batches until a new one would count less than 1 %), or one weight
    per level.
    """

    def __init__(self, level_weights: Levels = "equal_weight") -> None:
        super().__init__()
        named = level_weights in ("equal_weight", "equal_scale")
        weights = level_weights if isinstance(level_weights, list | tuple) else [math.nan]
        numbers = all(isinstance(weight, int | float) and weight >= 0 for weight in weights)
        if not (named or (weights and numbers)):
            raise KdlibError(
                f"Invalid level_weights {level_weights!r}. Valid: equal_weight, equal_scale, or a "
                "list of non-negative numbers, one per stage from fine to coarse."
            )
        self.level_weights = level_weights if named else [float(weight) for weight in weights]
        if level_weights == "equal_scale":
            # Of a fixed length, so that a checkpoint loads before the first batch is seen.
            self.means = nn.Buffer(torch.ones(16))
            self.batches = nn.Buffer(torch.zeros(()))

    def forward(self, terms: Sequence[Tensor]) -> Tensor:
        """One term (B,) per level, fine to coarse -> (B,)."""
        stacked = torch.stack(tuple(terms))
        if self.level_weights == "equal_weight":
            return stacked.sum(dim=0)
        if self.level_weights == "equal_scale":
            return (stacked / self._running_means(stacked)).sum(dim=0)
        if len(self.level_weights) != len(terms):
            raise KdlibError(
                f"{len(self.level_weights)} level_weights for {len(terms)} stages; give one each."
            )
        # Not a matrix product: autocast would make it one of bfloat16.
        return (stacked.new_tensor(self.level_weights)[:, None] * stacked).sum(dim=0)

    def _running_means(self, terms: Tensor) -> Tensor:
        """(levels, 1), the batch at hand included; they move in training mode only."""
        means = self.means[: len(terms)]
        if self.training:
            self.batches.add_(1)
            share = (1 / self.batches).clamp_min(0.01)
            means.lerp_(terms.detach().mean(dim=1).to(means.dtype), share)
        # A level whose mean is 0 has had no difference to weigh: its terms are 0 as well.
        return means.clone().masked_fill(means == 0, 1)[:, None]


class MapLoss(nn.Module):
    """A distance of attention maps, (B, H, W) and (B, H', W') -> (B,), summed over stages.

    ``reduction`` is ``mean`` (of the batch) or ``none``; ``level_weights``: :class:`LevelBalance`.
    """

    pairs = staticmethod(paired_maps)

    def __init__(
        self, distance: Distance, reduction: str = "mean", level_weights: Levels = "equal_weight"
    ) -> None:
        super().__init__()
        check_known("reduction", reduction, ("mean", "none"))
        self.distance, self.reduction = distance, reduction
        self.balance = LevelBalance(level_weights)

    def forward(self, student: Features, teacher: Features, batch: object = None) -> Tensor:
        """A scalar, or (B,), of feature maps (B, C, H, W), one per stage, fine to coarse."""
        per_image = self.balance([self.distance(*pair) for pair in self.pairs(student, teacher)])
        return per_image.mean() if self.reduction == "mean" else per_image


def at_loss_per_image(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """``mean (A_s / ‖A_s‖ - A_t / ‖A_t‖)^2`` of two maps: (B, H, W), (B, H', W') -> (B,).

    The larger map is pooled to the smaller. A zero map stays zero and gets no gradient. The mean
    over pixels follows the authors' experiments (usual weight: 1000), not equation 2's norm.
    Source: Zagoruyko, Komodakis 2017, arXiv 1612.03928.
    """
    maps = pool_to_common_size(working_precision(student_map), working_precision(teacher_map))
    norms = [torch.linalg.vector_norm(one.flatten(1), dim=1, keepdim=True) for one in maps]
    student, teacher = (divide(one.flatten(1), n) for one, n in zip(maps, norms, strict=True))
    return (student - teacher).square().mean(dim=1)


class ATLoss(MapLoss):
    """Attention transfer, :func:`at_loss_per_image` summed over stages; its usual weight is 1000.

    Where sizes differ, the larger features are pooled before their map is made, as released. Plain
    AT grows with the inverse square of a map's pixel count, so its last stage outweighs the others;
    ``level_weights="equal_scale"`` balances them.
    """

    def __init__(self, reduction: str = "mean", *, level_weights: Levels = "equal_weight") -> None:
        super().__init__(at_loss_per_image, reduction, level_weights)

    @staticmethod
    def pairs(student: Features, teacher: Features) -> list[tuple[Tensor, Tensor]]:
        """As :func:`paired_maps`; where sizes differ, of the larger features pooled."""
        pairs = paired_maps(student, teacher)
        for index, (one, other) in enumerate(pairs):
            if one.shape[1:] != other.shape[1:]:
                both = aligned(stages_of(student), stages_of(teacher))[index]
                mine, theirs = pool_to_common_size(*map(working_precision, both))
                pairs[index] = attention_map(mine), attention_map(theirs).detach()
        return pairs


def at_loss(student: Features, teacher: Features) -> Tensor:
    """:class:`ATLoss` as a function: lists of feature maps (B, C, H, W) -> scalar."""
    return ATLoss()(student, teacher)
