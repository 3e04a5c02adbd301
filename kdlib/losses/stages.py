"""Which stage of one network answers to which of another, and at which size they are compared."""

from collections.abc import Sequence
from typing import TypeVar

from torch import Tensor
from torch.nn import functional

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
