"""What every network returns, and the shape that most share: a stem, stages, a classifier."""

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor, nn


class Output(NamedTuple):
    """The answer of a network to a batch of B images.

    Attributes:
        logits: (B, K), before any softmax; (B, K, H, W) of a segmentation network.
        stages: feature maps (B, C, H, W), one a resolution, fine to coarse, each after the
            last activation of its resolution.
        embedding: (B, D), the pooled features that the classifier reads.
    """

    logits: Tensor
    stages: tuple[Tensor, ...]
    embedding: Tensor


class Shapes(NamedTuple):
    """Sizes of an output: (C, H, W) of each stage, and D of the embedding."""

    stages: tuple[tuple[int, int, int], ...]
    embedding: int


class StagedBackbone(nn.Module):
    """Runs a stem (``nn.Identity()`` for none) and its stages, one a resolution, fine to coarse."""

    def __init__(self, stem: nn.Module, stages: Iterable[nn.Module]) -> None:
        super().__init__()
        self.stem, self.stages = stem, nn.ModuleList(stages)

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W), normalised -> the features (B, C, h, w) of every stage."""
        features, maps = self.stem(images), []
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        return tuple(maps)

    def forward(self, images: Tensor) -> tuple[Tensor, ...] | Output:
        """As ``maps``."""
        return self.maps(images)


class StagedNetwork(StagedBackbone):
    """Classifies the mean of the last stage's features: a linear layer to K logits."""

    def __init__(self, stem: nn.Module, stages: Iterable[nn.Module], classifier: nn.Linear) -> None:
        super().__init__(stem, stages)
        self.classifier = classifier

    def forward(self, images: Tensor) -> Output:
        """Images (B, 3, H, W), normalised -> logits, every stage's features, embedding."""
        stages = self.maps(images)
        embedding = stages[-1].mean((2, 3))
        return Output(self.classifier(embedding), stages, embedding)
