"""Batches for detectors: images and the objects in them, mirrored or distorted together.

As in :mod:`kdlib.data.batches`, order and augmentation are functions of the data seed, the epoch
and the image alone: neither the batch size nor the number of workers can shift them, and a resumed
run meets the very same batches.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from kdlib.data.batches import parts_of
from kdlib.data.image_data import ImageData
from kdlib.data.photographs import Photographs, worker_count
from kdlib.detection.objects import Objects, WholePhotographs, picture_at
from kdlib.errors import KdlibError, unknown
from kdlib.process_group import ALONE, ProcessGroup, Shard
from kdlib.seeds import derive_seed, generator

DISTORTIONS = ("photometric", "zoom_out", "iou_crop", "scale_jitter")
AUGMENTATIONS = ("flip", *DISTORTIONS)
XYXY = tv_tensors.BoundingBoxFormat.XYXY


class DetectionBatch(NamedTuple):
    """Images with their objects, crowds left out; an image may have none."""

    images: list[Tensor]  # (3, h, w) float32 each, 0 to 1; detectors normalise them
    targets: list[dict[str, Tensor]]  # boxes (n, 4) float32, labels (n,) int64: the kinds + 1
    indices: Tensor  # (B,) int64, positions in the data set
    shard: Shard | None = None  # of the whole batch; None where they are the whole


class DetectionBatches:
    """Images with objects, handed out in batches on a device; see also ``kdlib.data.batches``.

    Of ``AUGMENTATIONS``, ``flip`` mirrors half of the images; the others are torchvision's:
    ``photometric`` changes light and colours, ``zoom_out`` puts the image on a canvas of up to four
    times its size, ``iou_crop`` cuts a window that shows objects in part, ``scale_jitter`` scales
    by 0.1 to 2 and cuts or fills to the size before. ``workers`` processes make images: by default
    ``worker_count()`` of photographs, none of images in memory. A ``KdlibError`` for data without
    objects, an unknown augmentation or a negative number of workers.
    """

    def __init__(
        self,
        data: ImageData,
        batch_size: int,
        augmentation: tuple[str, ...] = (),
        device: torch.device | str = "cpu",
        workers: int | None = None,
        world: ProcessGroup = ALONE,
    ) -> None:
        self._images, self.labels = _checked(data, augmentation), data.labels.to(device)
        self.batch_size, self.augmentation, self.world = batch_size, augmentation, world
        own = 0 if isinstance(data.images, Tensor) else worker_count()
        self._workers = own if workers is None else workers
        if self._workers < 0:
            raise KdlibError(f"workers is {workers}; it must be a whole number from 0, or None.")

    def __len__(self) -> int:
        """Batches an epoch, of all processes together."""
        return len(parts_of(self.labels, self.batch_size))

    def epoch(self, seed: int, epoch: int) -> Iterator[DetectionBatch]:
        """One epoch in random order, augmented."""
        count = len(self.labels)
        order = torch.randperm(count, generator=generator(seed, "order", epoch))
        flips = torch.rand(count, generator=generator(seed, "augmentation", epoch)) < 0.5
        flips &= torch.tensor("flip" in self.augmentation)
        own = [self.world.own(part) for part in parts_of(order, self.batch_size)]
        images = replace(self._images, flips=flips, stream=(seed, epoch))
        made = self._batches([part for part, _ in own], images)
        for batch, (_, shard) in zip(made, own, strict=True):
            yield batch._replace(shard=shard)

    def in_order(self) -> Iterator[DetectionBatch]:
        """Every image once, in its place, not augmented; of several processes, in their turn."""
        parts = parts_of(torch.arange(len(self.labels)), self.batch_size)
        parts = parts[self.world.rank :: self.world.size]
        return self._batches(parts, replace(self._images, names=()))

    def _batches(self, parts: Sequence[Tensor], images: "_Images") -> Iterator[DetectionBatch]:
        loader = DataLoader(
            images,
            batch_sampler=[part.tolist() for part in parts],
            num_workers=self._workers,
            collate_fn=_as_it_is,
            generator=torch.Generator(),  # else it would draw from the global stream
        )
        for part, packed in zip(parts, loader, strict=True):
            if isinstance(packed, KdlibError):
                raise packed
            yield packed.batch(part, self.labels.device)


def _as_it_is(packed: Any) -> Any:
    return packed


def _checked(data: ImageData, augmentation: tuple[str, ...]) -> "_Images":
    if data.objects is None or isinstance(data.images, Photographs):
        raise KdlibError("Detectors need images with objects: load them with task 'detection'.")
    for name in augmentation:
        if name not in AUGMENTATIONS:
            raise unknown("augmentation for detectors", name, AUGMENTATIONS)
    fill = [round(255 * value) for value in data.mean]
    names = tuple(name for name in DISTORTIONS if name in augmentation)
    flips = torch.zeros(len(data), dtype=torch.bool)
    return _Images(data.images, data.objects.counted(), names, fill, flips)


class _Packed(NamedTuple):
    """A batch in few tensors, as worker processes hand it over."""

    pixels: Tensor  # of all images in a row, uint8
    shapes: list[torch.Size]  # (3, h, w) of each
    boxes: Tensor
    labels: Tensor
    counts: list[int]

    def batch(self, indices: Tensor, device: torch.device) -> DetectionBatch:
        """The images apart again, on a device."""
        pixels = self.pixels.to(device).float().div_(255)
        parts = pixels.split([shape.numel() for shape in self.shapes])
        images = [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]
        objects = (every.to(device).split(self.counts) for every in (self.boxes, self.labels))
        targets = [{"boxes": own, "labels": kinds} for own, kinds in zip(*objects, strict=True)]
        return DetectionBatch(images, targets, indices.to(device))


@dataclass(frozen=True)
class _Images(Dataset[_Packed | KdlibError]):
    """Makes batches of images with their objects, mirrored and distorted."""

    images: Tensor | WholePhotographs
    objects: Objects
    names: tuple[str, ...]  # of ``DISTORTIONS``
    fill: list[int]  # colour, 0 to 255, of what lies beyond an image
    flips: Tensor  # (N,) bool: which are mirrored
    stream: tuple[int, int] = (0, 0)  # data seed and epoch, of the distortions' random numbers

    def __getitems__(self, indices: list[int]) -> _Packed | KdlibError:
        """A batch, or why there is none: a worker's error would come with its whole traceback."""
        try:
            images, boxes, labels = zip(*map(self._one, indices), strict=True)
        except KdlibError as error:
            return error
        pixels, shapes = [image.flatten() for image in images], [image.shape for image in images]
        counts = [len(own) for own in labels]
        return _Packed(torch.cat(pixels), shapes, torch.cat(boxes), torch.cat(labels), counts)

    def _one(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """An image (3, h, w) uint8, boxes (n, 4) and labels (n,) of its objects."""
        boxes, kinds, _ = self.objects.of(index)
        image, labels = picture_at(self.images, index), kinds + 1
        if self.names:
            seed, epoch = self.stream
            with _own_stream(derive_seed(seed, "augmentation", epoch, index)):
                image, boxes, labels = _distorted(image, boxes, labels, self.names, self.fill)
        if self.flips[index]:
            image, sides = image.flip(-1), image.shape[-2:]
            boxes = v2.functional.horizontal_flip_bounding_boxes(boxes, XYXY, sides)
        return image, boxes, labels


def _distorted(
    image: Tensor, boxes: Tensor, labels: Tensor, names: tuple[str, ...], fill: list[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """The transforms of SSD's training in torchvision's references, those that are asked for."""
    placed = tv_tensors.BoundingBoxes(boxes, format=XYXY, canvas_size=image.shape[-2:])
    changed = {"image": tv_tensors.Image(image), "boxes": placed, "labels": labels}
    for name in names:
        changed = _transform(name, changed["image"].shape[-2:], fill)(changed)
    plain = (changed[part].as_subclass(Tensor) for part in ("image", "boxes"))
    return (*plain, changed["labels"])


def _transform(name: str, shape: tuple[int, int], fill: list[int]) -> v2.Transform:
    """A crop may cut an object off: what is left of no pixel is dropped, the rest is clipped."""
    if name == "photometric":
        return v2.RandomPhotometricDistort()
    if name == "zoom_out":
        return v2.RandomZoomOut(fill=fill)
    if name == "iou_crop":
        return v2.Compose([v2.RandomIoUCrop(), v2.SanitizeBoundingBoxes()])
    window = v2.RandomCrop(shape, pad_if_needed=True, fill=fill)
    return v2.Compose([v2.ScaleJitter(shape), window, v2.SanitizeBoundingBoxes()])


@contextmanager
def _own_stream(seed: int) -> Iterator[None]:
    """Torch's global CPU stream, which transforms draw from, seeded and then put back.

    One thread, because the mean of an image depends in its last digit on how many add it up.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)
