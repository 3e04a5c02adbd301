"""Batches for detectors: images and the objects in them, flipped or distorted together.

As in :mod:`kdlib.data.batches`, order and augmentation are functions of the data seed, the epoch
and the image alone: neither the batch size nor the number of workers can shift them, and a resumed
run meets the very same batches.

Kinds count from 0; torchvision's detectors have the background as their label 0. So a label is a
kind + 1, and it is made here and nowhere else.
"""

from collections.abc import Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor

from kdlib.data.image_data import ImageData
from kdlib.data.objects import Objects
from kdlib.errors import KdlibError, unknown
from kdlib.seeds import generator

AUGMENTATIONS = ("flip",)


class DetectionBatch(NamedTuple):
    """Images with their objects.

    Attributes:
        images: (3, h, w) float32 each, 0 to 1, on the device; detectors normalise them.
        targets: of each image ``boxes`` (n, 4) float32 and ``labels`` (n,) int64, the kinds + 1;
            crowds are left out, and n may be 0.
        indices: (B,) int64, positions in the data set.
    """

    images: list[Tensor]
    targets: list[dict[str, Tensor]]
    indices: Tensor


class DetectionBatches:
    """Images with objects, handed out in batches."""

    def __init__(
        self,
        data: ImageData,
        batch_size: int,
        augmentation: tuple[str, ...] = (),
        device: torch.device | str = "cpu",
        workers: int | None = None,
    ) -> None:
        if data.objects is None:
            raise KdlibError("This data has no objects; load it with task='detection'.")
        for name in augmentation:
            if name not in AUGMENTATIONS:
                raise unknown("augmentation of detectors", name, AUGMENTATIONS)
        self.images = cast("Tensor", data.images).to(device)
        self.labels = data.labels.to(device)
        self.batch_size, self.augmentation = batch_size, augmentation
        self._targets = _Targets(data.objects.counted(), torch.device(device))

    def __len__(self) -> int:
        """Batches an epoch."""
        return -(-len(self.labels) // self.batch_size)

    def epoch(self, seed: int, epoch: int) -> Iterator[DetectionBatch]:
        """One epoch in random order, augmented."""
        count = len(self.labels)
        order = torch.randperm(count, generator=generator(seed, "order", epoch))
        flips = torch.rand(count, generator=generator(seed, "augmentation", epoch)) < 0.5
        flips &= torch.tensor("flip" in self.augmentation)
        return self._of_memory(order, flips)

    def in_order(self) -> Iterator[DetectionBatch]:
        """Every image once, in its place, not augmented."""
        count = len(self.labels)
        return self._of_memory(torch.arange(count), torch.zeros(count, dtype=torch.bool))

    def _of_memory(self, order: Tensor, flips: Tensor) -> Iterator[DetectionBatch]:
        """Batches of images of one size, a batch at a time."""
        device = self.labels.device
        for part in order.split(self.batch_size):
            indices, mirrored = part.to(device), flips[part].to(device)
            pixels = self.images[indices]
            pixels = torch.where(mirrored.view(-1, 1, 1, 1), pixels.flip(-1), pixels)
            targets = self._targets.of(part, mirrored, pixels.shape[-1])
            yield DetectionBatch(list(pixels.float().div_(255)), targets, indices)


class _Targets:
    """The objects of images in memory, looked up a batch at a time."""

    def __init__(self, objects: Objects, device: torch.device) -> None:
        self.boxes, self.labels = objects.boxes.to(device), (objects.kinds + 1).to(device)
        self.starts, self.counts = objects.starts, objects.counts

    def of(self, part: Tensor, mirrored: Tensor, width: int) -> list[dict[str, Tensor]]:
        """The targets of the images at positions ``part`` (B,)."""
        counts, device = self.counts[part], self.boxes.device
        before = counts.cumsum(0) - counts
        rows = torch.arange(int(counts.sum())) + (self.starts[part] - before).repeat_interleave(
            counts
        )
        rows, flipped = rows.to(device), mirrored.repeat_interleave(counts.to(device))
        boxes, labels = self.boxes[rows], self.labels[rows]
        boxes = torch.where(flipped[:, None], mirrored_boxes(boxes, width), boxes)
        lengths = counts.tolist()
        pairs = zip(boxes.split(lengths), labels.split(lengths), strict=True)
        return [{"boxes": own, "labels": kinds} for own, kinds in pairs]


def mirrored_boxes(boxes: Tensor, width: int) -> Tensor:
    """Boxes (n, 4) in the mirror image of an image that is ``width`` pixels wide."""
    x1, y1, x2, y2 = boxes.unbind(1)
    return torch.stack([width - x2, y1, width - x1, y2], dim=1)
