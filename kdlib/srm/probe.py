"""The linear probe: what a network's frozen features are worth to a linear classifier."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn, optim
from torch.nn import functional

from kdlib.data.batches import Batches
from kdlib.data.image_data import ImageData
from kdlib.errors import KdlibError
from kdlib.evaluate import BATCH_SIZE
from kdlib.models.output import Output

DECAY = 1e-4
"""Weight of half the squared weights; enough for the fit to be unique."""
STEPS = 200


@torch.no_grad()
def outputs(
    network: nn.Module,
    data: ImageData,
    *,
    device: torch.device | str = "cpu",
    precision: str = "float32",
) -> Iterator[Output]:
    """The outputs for all images in order, batch by batch, in eval mode; the mode comes back."""
    mode = network.training
    network.eval()
    try:
        for batch in Batches(data, BATCH_SIZE, device=device).in_order():
            images = batch.images.contiguous(memory_format=torch.channels_last)
            with torch.autocast(images.device.type, torch.bfloat16, precision == "bfloat16"):
                answer = network(images)
            yield answer
    finally:
        network.train(mode)


def embeddings(network: nn.Module, data: ImageData, **place: Any) -> Tensor:
    """The pooled features (N, D) of all images: float32, on the CPU. See ``outputs``."""
    return torch.cat([answer.embedding.float().cpu() for answer in outputs(network, data, **place)])


def stage_pixels(
    network: nn.Module, data: ImageData, count: int, seed: int = 0, **place: Any
) -> tuple[Tensor, ...]:
    """Channel vectors (``count``, D) at random pixels of random images, of each stage.

    All of a stage's pixels, if it has no more than ``count``; float32, on the CPU.
    """
    answers = outputs(network, data, **place)
    stages = zip(*([stage.cpu() for stage in answer.stages] for answer in answers), strict=True)
    return tuple(_drawn(torch.cat(stage), count, seed) for stage in stages)


def _drawn(features: Tensor, count: int, seed: int) -> Tensor:
    pixels = features.float().movedim(1, -1).flatten(0, 2)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))
    return pixels[order[:count]]


def classifier_of(network: nn.Module) -> nn.Linear:
    """The layer that makes logits of the embedding: the last linear one of every network here.

    Raises:
        KdlibError: the network has no linear layer.
    """
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise KdlibError("The network has no linear layer, so there is no classifier to probe.")
    return layers[-1]


def fit_probe(embeddings: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Multinomial logistic regression on standardised features, by L-BFGS from zero.

    Embeddings (N, D) and labels (N,) give weight (K, D) and bias (K,) for the features as they
    are, in float32: always the same, for nothing is drawn and all images are one batch. It agrees
    with scikit-learn's, but that a class that does not occur has a row too, without weight.
    """
    features = embeddings.double()
    mean, std = features.mean(0), features.std(0, correction=0)
    # A feature that never varies tells nothing; a floor would blow its rounding noise up.
    scale = torch.where(std > 1e-6 * features.abs().amax(0), 1 / std, torch.zeros_like(std))
    weight, bias = _fit((features - mean) * scale, labels, classes)
    weight = weight * scale
    return weight.float(), (bias - weight @ mean).float()


def _fit(features: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    weight = features.new_zeros(classes, features.shape[1], requires_grad=True)
    bias = features.new_zeros(classes, requires_grad=True)
    optimiser = optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        logits = functional.linear(features, weight, bias)
        value = functional.cross_entropy(logits, labels) + DECAY / 2 * weight.square().sum()
        value.backward()
        return value

    optimiser.step(loss)
    return weight.detach(), bias.detach()


@torch.no_grad()
def install(network: nn.Module, weight: Tensor, bias: Tensor) -> None:
    """Make a probe (K, D), (K,) the classifier of a network."""
    layer = classifier_of(network)
    layer.weight.copy_(weight)
    layer.bias.copy_(bias)
