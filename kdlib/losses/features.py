"""Feature maps as the losses take them: checked, in pairs, at one size, in float32."""

import math
from collections.abc import Callable, Sequence
from functools import wraps
from itertools import combinations
from typing import ParamSpec, Protocol, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdlib.errors import KdlibError, shown

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
