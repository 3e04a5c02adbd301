"""What a network makes of all images of a data set, batch after batch."""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from kdlib.data.batches import Batches
from kdlib.data.image_data import ImageData
from kdlib.evaluate import BATCH_SIZE
from kdlib.models.output import Output


@torch.no_grad()
def outputs(
    network: nn.Module,
    data: ImageData,
    *,
    device: torch.device | str = "cpu",
    precision: str = "float32",
) -> Iterator[Output]:
    """The outputs for all images in order, not augmented, in eval mode; the mode comes back."""
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


def embeddings(
    network: nn.Module,
    data: ImageData,
    *,
    device: torch.device | str = "cpu",
    precision: str = "float32",
) -> Tensor:
    """The pooled features (N, D) of all images: float32, on the CPU."""
    found = outputs(network, data, device=device, precision=precision)
    return torch.cat([answer.embedding.float().cpu() for answer in found])


def stage_pixels(
    network: nn.Module,
    data: ImageData,
    count: int,
    seed: int = 0,
    *,
    device: torch.device | str = "cpu",
    precision: str = "float32",
) -> tuple[Tensor, ...]:
    """Channel vectors (``count``, D) at random pixels of random images, of each stage.

    All of a stage's pixels, if it has no more than ``count``; float32, on the CPU.
    """
    answers = outputs(network, data, device=device, precision=precision)
    stages = zip(*([stage.cpu() for stage in answer.stages] for answer in answers), strict=True)
    return tuple(_drawn(torch.cat(stage), count, seed) for stage in stages)


def _drawn(features: Tensor, count: int, seed: int) -> Tensor:
    pixels = features.float().movedim(1, -1).flatten(0, 2)
    order = torch.randperm(len(pixels), generator=torch.Generator().manual_seed(seed))
    return pixels[order[:count]]
