"""What every network returns."""

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor, nn


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


# The shape that most networks share: a stem, stages of falling resolution, a classifier.
class StagedNetwork(nn.Module):
    """Runs the stages one after the other and classifies the mean of the last one's features.

    Args:
        stem: what comes before the first stage (``nn.Identity()`` for nothing).
        stages: one module a resolution, fine to coarse.
        classifier: from the last stage's channels to K logits.
    """

    def __init__(self, stem: nn.Module, stages: Iterable[nn.Module], classifier: nn.Linear) -> None:
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.classifier = classifier

    def forward(self, images: Tensor) -> Output:
        """Images (B, 3, H, W), normalised -> logits, every stage's features, embedding."""
        features, stages = self.stem(images), []
        for stage in self.stages:
            features = stage(features)
            stages.append(features)
        embedding = features.mean((2, 3))
        return Output(self.classifier(embedding), tuple(stages), embedding)


class StagedBackbone(nn.Module):
    """The stages of one of our classifiers, all or the first ``count``, without its classifier."""

    def __init__(self, network: StagedNetwork, count: int | None = None) -> None:
        super().__init__()
        self.stem, self.stages = network.stem, network.stages[:count]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) -> the stages' features, fine to coarse."""
        features, stages = self.stem(images), []
        for stage in self.stages:
            features = stage(features)
            stages.append(features)
        return tuple(stages)
