"""What every network returns."""

from typing import NamedTuple

from torch import Tensor


class Output(NamedTuple):
    """The answer of a network to a batch of B images.

    Attributes:
        logits: (B, K), before any softmax; (B, K, H, W) of a network that gives pixels classes.
        stages: feature maps (B, C, H, W), one a resolution, fine to coarse, each after the
            last activation of its resolution.
        embedding: (B, D), the pooled features that the classifier reads.
    """

    logits: Tensor
    stages: tuple[Tensor, ...]
    embedding: Tensor


class Shapes(NamedTuple):
    """Sizes of an output.

    Attributes:
        stages: (C, H, W) of each stage.
        embedding: D.
    """

    stages: tuple[tuple[int, int, int], ...]
    embedding: int
