"""Batches on the device: whole data sets as uint8, augmented a batch at a time.

The order and the augmentation of an epoch are functions of the data seed and the epoch alone.
They are drawn for all images before the first batch, so neither the batch size nor the number
of students can shift them, and a resumed run meets the very same batches.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from kdlib.data.image_data import ImageData
from kdlib.errors import unknown
from kdlib.seeds import generator

AUGMENTATIONS = ("flip", "crop")
CROP_PADDING = 4


class Batch(NamedTuple):
    """Normalised images (B, 3, H, W), labels (B,) and positions in the data set (B,)."""

    images: Tensor
    labels: Tensor
    indices: Tensor


class Batches:
    """A data set on a device, handed out in batches.

    Args:
        data: the images; they are moved to ``device`` once.
        batch_size: images a batch; the last batch of an epoch may be smaller.
        augmentation: any of ``AUGMENTATIONS``; ``flip`` mirrors half of the images, ``crop``
            pads by four pixels with the mean colour and cuts a random window.
        device: where the images live and the batches are made.

    Raises:
        KdlibError: an augmentation that does not exist.
    """

    def __init__(
        self,
        data: ImageData,
        batch_size: int,
        augmentation: tuple[str, ...] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        for name in augmentation:
            if name not in AUGMENTATIONS:
                raise unknown("augmentation", name, AUGMENTATIONS)
        self.images = data.images.to(device)
        self.labels = data.labels.to(device)
        self.batch_size = batch_size
        self.augmentation = augmentation
        self._mean = torch.tensor(data.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(data.std, device=device).view(1, 3, 1, 1)

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-len(self.labels) // self.batch_size)

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """One epoch in random order, augmented."""
        count, device = len(self.labels), self.images.device
        order = torch.randperm(count, generator=generator(seed, "order", epoch)).to(device)
        stream = generator(seed, "augmentation", epoch)
        flips = (torch.rand(count, generator=stream) < 0.5).to(device)
        shifts = torch.randint(0, 2 * CROP_PADDING + 1, (count, 2), generator=stream).to(device)
        for indices in order.split(self.batch_size):
            images = self._normalise(self.images[indices])
            if "flip" in self.augmentation:
                images = torch.where(flips[indices].view(-1, 1, 1, 1), images.flip(-1), images)
            if "crop" in self.augmentation:
                images = _shifted(images, shifts[indices])
            yield Batch(images, self.labels[indices], indices)

    def in_order(self) -> Iterator[Batch]:
        """Every image once, in its place, not augmented."""
        for indices in torch.arange(len(self.labels), device=self.images.device).split(
            self.batch_size
        ):
            images = self._normalise(self.images[indices])
            yield Batch(images, self.labels[indices], indices)

    def _normalise(self, images: Tensor) -> Tensor:
        return (images.float() / 255 - self._mean) / self._std


def _shifted(images: Tensor, shifts: Tensor) -> Tensor:
    """The window at ``shifts`` (B, 2) of each zero-padded image (zero is the mean colour)."""
    size = images.shape[-2:]
    padded = functional.pad(images, [CROP_PADDING] * 4)
    rows = shifts[:, :1] + torch.arange(size[0], device=images.device)
    columns = shifts[:, 1:] + torch.arange(size[1], device=images.device)
    picture = torch.arange(len(images), device=images.device).view(-1, 1, 1)
    windows = padded.permute(0, 2, 3, 1)[picture, rows[:, :, None], columns[:, None, :]]
    return windows.permute(0, 3, 1, 2)
