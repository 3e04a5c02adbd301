"""What every network returns, the shape that most share, and what a network costs."""

import time
from collections.abc import Callable, Iterable
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


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


REPEATS = 10
ENOUGH_S = 10.0
"""After so many seconds a latency is not measured again: a processor takes minutes over ten times
64 photographs through ResNet-152."""


def count_parameters(network: nn.Module) -> int:
    """Number of learnable parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


@torch.no_grad()
def answer_to_zeros(network: nn.Module, image_size: int) -> Any:
    """What a network returns for a black image of ``image_size`` pixels, in eval mode."""
    was_training, device = network.training, next(network.parameters()).device
    answer = network.eval()(torch.zeros(1, 3, image_size, image_size, device=device))
    network.train(was_training)
    return answer


def output_shapes(network: nn.Module, image_size: int) -> Shapes:
    """Sizes of what a network returns for square images of ``image_size`` pixels."""
    output = answer_to_zeros(network, image_size)
    stages = tuple((stage.shape[1], stage.shape[2], stage.shape[3]) for stage in output.stages)
    return Shapes(stages, output.embedding.shape[1])


def flops(network: nn.Module, image_size: int) -> int:
    """Floating-point operations of one image's forward (a multiply-add counts as two).

    Convolutions and matrix products are counted; norms, activations and sums are not.
    """
    with FlopCounterMode(display=False) as counter:
        answer_to_zeros(network, image_size)
    return counter.get_total_flops()


def measure_cost(network: nn.Module, image_size: int, device: torch.device) -> dict[str, Any]:
    """Parameters, FLOPs of one image, and median latency in milliseconds at batch 1 and 64."""
    network.eval()
    batches = [torch.randn(b, 3, image_size, image_size, device=device) for b in (1, 64)]
    return {
        "parameters": count_parameters(network),
        "flops": flops(network, image_size),
        "latency_ms": {str(len(images)): latency(partial(network, images)) for images in batches},
    }


@torch.no_grad()
def latency(answer: Callable[[], object]) -> float:
    """Median milliseconds of what a network is asked, after a first time that is not counted."""
    seconds: list[float] = []
    while len(seconds) <= REPEATS and (len(seconds) < 2 or sum(seconds) < ENOUGH_S):
        start = time.perf_counter()
        answer()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return round(1000 * median(seconds[1:]), 3)
