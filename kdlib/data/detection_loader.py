"""Images with objects made one at a time, by worker processes, and packed batch by batch.

Transforms draw from a stream that all threads of a process share, so that workers are processes. A
batch is one array of pixels and one of boxes: a file descriptor a batch, not one an image.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from kdlib.data.detection_augmentation import Sample, distorted, mirrored
from kdlib.data.objects import Objects
from kdlib.data.whole_photographs import WholePhotographs
from kdlib.errors import KdlibError
from kdlib.seeds import derive_seed


class Job(NamedTuple):
    """An image that is asked for: position, whether mirrored, data seed and epoch."""

    image: int
    flipped: bool
    seed: int
    epoch: int


class Packed(NamedTuple):
    """A batch: pixels of all images in a row, (3, h, w) of each, all boxes, labels, counts."""

    pixels: Tensor
    shapes: list[torch.Size]
    boxes: Tensor
    labels: Tensor
    counts: list[int]

    def moved(self, device: torch.device) -> "Packed":
        """The same on a device."""
        pixels, boxes, labels = (part.to(device) for part in (self.pixels, self.boxes, self.labels))
        return self._replace(pixels=pixels, boxes=boxes, labels=labels)

    def images(self) -> list[Tensor]:
        """The images (3, h, w) float32, 0 to 1."""
        parts = self.pixels.float().div_(255).split([shape.numel() for shape in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def targets(self) -> list[dict[str, Tensor]]:
        """Boxes and labels of each image."""
        pairs = zip(self.boxes.split(self.counts), self.labels.split(self.counts), strict=True)
        return [{"boxes": boxes, "labels": labels} for boxes, labels in pairs]


@dataclass(frozen=True)
class Maker(Dataset[Sample | KdlibError]):
    """Makes one image of a data set with its objects.

    Attributes:
        images: (N, 3, H, W) uint8, or photographs.
        objects: those that are trained on.
        names: the augmentation.
        fill: colour, 0 to 255, of what lies beyond an image.
    """

    images: Tensor | WholePhotographs
    objects: Objects
    names: tuple[str, ...]
    fill: tuple[int, ...]

    def __getitem__(self, job: Job) -> Sample | KdlibError:
        """A sample, or why there is none: a worker's error would come with its whole traceback."""
        try:
            return self._made(job)
        except KdlibError as error:
            return error

    def _made(self, job: Job) -> Sample:
        boxes, kinds, _ = self.objects.of(job.image)
        sample = Sample(self._picture(job.image), boxes, labels_of(kinds))
        if self.names:
            seed = derive_seed(job.seed, "augmentation", job.epoch, job.image)
            sample = distorted(sample, self.names, seed, self.fill)
        return mirrored(sample) if job.flipped else sample

    def _picture(self, index: int) -> Tensor:
        if isinstance(self.images, WholePhotographs):
            return torch.tensor(self.images.read(index)).permute(2, 0, 1)
        return self.images[index]


def labels_of(kinds: Tensor) -> Tensor:
    """The labels of kinds: torchvision's detectors count from 1, and 0 is the background."""
    return kinds + 1


def packed_batches(maker: Maker, jobs: list[list[Job]], workers: int) -> Iterator[Packed]:
    """Each batch of jobs, in order, made ahead by ``workers`` processes; 0: none, when asked for.

    Raises:
        KdlibError: an image cannot be made.
    """
    loader = DataLoader(
        maker,
        batch_sampler=jobs,
        num_workers=workers,
        collate_fn=pack,
        generator=torch.Generator(),  # else it would draw from the global stream
    )
    for made in loader:
        if isinstance(made, KdlibError):
            raise made
        yield made


def pack(samples: list[Sample | KdlibError]) -> Packed | KdlibError:
    """One batch, or the first error in it."""
    sound: list[Sample] = []
    for sample in samples:
        if isinstance(sample, KdlibError):
            return sample
        sound.append(sample)
    return Packed(
        torch.cat([sample.image.flatten() for sample in sound]),
        [sample.image.shape for sample in sound],
        torch.cat([sample.boxes for sample in sound]),
        torch.cat([sample.labels for sample in sound]),
        [len(sample.labels) for sample in sound],
    )
