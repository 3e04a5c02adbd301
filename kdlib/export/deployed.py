"""A network as it is deployed: pixels in, logits out."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from kdlib.data.batches import Batches
from kdlib.data.image_data import ImageData

Colours = tuple[float, float, float]


class Deployed(nn.Module):
    """A network with the normalisation of its images inside, and nothing but logits outside.

    Pixels are uint8, as every decoder gives them: a quarter of the bytes of floats, and no doubt
    whether they go to 1 or to 255.

    Args:
        network: normalised images (B, 3, H, W) to an ``Output``.
        mean: of each channel, 0 to 1.
        std: standard deviation of each channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module, mean: Colours, std: Colours) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """RGB images (B, 3, H, W), uint8 -> logits (B, K), or (B, K, H, W) of pixels; float32."""
        pixels = images.float().div(255)
        return self.network(pixels.sub(self.mean).div(self.std)).logits


def pixel_batches(data: ImageData, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All images in order, not normalised: (B, 3, H, W) uint8, with labels (B,) or (B, H, W)."""
    plain = replace(data, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    for batch in Batches(plain, size).in_order():
        yield batch.images.mul(255).round().to(torch.uint8).contiguous(), batch.labels


def first_images(data: ImageData, count: int) -> Tensor:
    """``count`` images (count, 3, H, W) uint8, from the first one again where data are fewer."""
    few = data.first(count)
    images, _ = next(pixel_batches(few, len(few)))
    return images[torch.arange(count) % len(few)]
