"""Batches for detectors: images and the objects in them, mirrored or distorted together.

As in :mod:`kdlib.data.batches`, order and augmentation are functions of the data seed, the epoch
and the image alone: neither the batch size nor the number of workers can shift them, and a resumed
run meets the very same batches.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from kdlib.data.batches import on_device, parts_of
from kdlib.data.image_data import ImageData
from kdlib.data.photographs import Photographs, worker_count
from kdlib.detection.objects import Objects, WholePhotographs, picture_at
from kdlib.errors import KdlibError, unknown
from kdlib.seeds import derive_seed, generator
from kdlib.team import ALONE, Portion, Team

DISTORTIONS = ("photometric", "zoom_out", "iou_crop", "scale_jitter")
AUGMENTATIONS = ("flip", *DISTORTIONS)


class DetectionBatch(NamedTuple):
    """Images with their objects.

    Attributes:
        images: (3, h, w) float32 each, 0 to 1, on the device; detectors normalise them.
        targets: of each image ``boxes`` (n, 4) float32 and ``labels`` (n,) int64, the kinds + 1,
            since torchvision's 0 is the background; crowds are left out, and n may be 0.
        indices: (B,) int64, positions in the data set.
        portion: which part of a batch they are; ``None`` where they are the whole.
    """

    images: list[Tensor]
    targets: list[dict[str, Tensor]]
    indices: Tensor
    portion: Portion | None = None


class DetectionBatches:
    """Images with objects, handed out in batches.

    Images of one size that are at most mirrored are made a whole batch at a time, on the device;
    all others one at a time, by worker processes where they are photographs.

    Args:
        data: images with objects.
        batch_size: images per batch; the last batch of an epoch may be smaller.
        augmentation: any of ``AUGMENTATIONS``. ``flip`` mirrors half of the images; the others are
            torchvision's: ``photometric`` changes light and colours, ``zoom_out`` puts the image
            on a canvas of up to four times its size, ``iou_crop`` cuts a window that shows objects
            in part, ``scale_jitter`` scales by 0.1 to 2 and cuts or fills to the size before.
        device: where the batches are made.
        workers: processes that make images; ``None`` for ``worker_count()`` with photographs and
            for none with images in memory.
        team: the processes that share the work, see :class:`kdlib.data.batches.Batches`.

    Raises:
        KdlibError: the data has no objects, an augmentation does not exist, or the number of
            workers is negative.
    """

    def __init__(
        self,
        data: ImageData,
        batch_size: int,
        augmentation: tuple[str, ...] = (),
        device: torch.device | str = "cpu",
        workers: int | None = None,
        team: Team = ALONE,
    ) -> None:
        self._samples = _samples(data, augmentation)
        self.labels = data.labels.to(device)
        self.batch_size, self.augmentation, self.team = batch_size, augmentation, team
        self._workers = _checked_workers(workers, self._samples)
        self._at_once: _AtOnce | None = None
        if isinstance(self._samples.images, Tensor) and not self._samples.names:
            pixels = on_device(self._samples.images, torch.device(device))
            self._at_once = _AtOnce(pixels, self._samples.objects, torch.device(device))

    def __len__(self) -> int:
        """Batches an epoch, of all processes together."""
        return len(parts_of(self.labels, self.batch_size))

    def epoch(self, seed: int, epoch: int) -> Iterator[DetectionBatch]:
        """One epoch in random order, augmented."""
        count = len(self.labels)
        order = torch.randperm(count, generator=generator(seed, "order", epoch))
        flips = torch.rand(count, generator=generator(seed, "augmentation", epoch)) < 0.5
        flips &= torch.tensor("flip" in self.augmentation)
        own = [self.team.own(part) for part in parts_of(order, self.batch_size)]
        made = self._batches([part for part, _ in own], flips, self._samples, seed, epoch)
        for batch, (_, portion) in zip(made, own, strict=True):
            yield batch._replace(portion=portion)

    def in_order(self) -> Iterator[DetectionBatch]:
        """Every image once, in its place, not augmented; of several processes, in their turn."""
        count = len(self.labels)
        parts = self.team.turns(parts_of(torch.arange(count), self.batch_size))
        plain = replace(self._samples, names=())
        return self._batches(parts, torch.zeros(count, dtype=torch.bool), plain)

    def _batches(
        self,
        parts: Sequence[Tensor],
        flips: Tensor,
        samples: "_Samples",
        seed: int = 0,
        epoch: int = 0,
    ) -> Iterator[DetectionBatch]:
        if self._at_once is not None:
            yield from (self._at_once.batch(part, flips[part]) for part in parts)
            return
        device = self.labels.device
        jobs = [[_Job(i, bool(flips[i]), seed, epoch) for i in part.tolist()] for part in parts]
        for part, packed in zip(parts, _made(samples, jobs, self._workers), strict=True):
            pixels = packed.pixels.to(device).float().div_(255)
            each = pixels.split([shape.numel() for shape in packed.shapes])
            images = [one.view(shape) for one, shape in zip(each, packed.shapes, strict=True)]
            targets = _targets(packed.boxes.to(device), packed.labels.to(device), packed.counts)
            yield DetectionBatch(images, targets, part.to(device))


def _targets(boxes: Tensor, labels: Tensor, counts: list[int]) -> list[dict[str, Tensor]]:
    pairs = zip(boxes.split(counts), labels.split(counts), strict=True)
    return [{"boxes": own, "labels": kinds} for own, kinds in pairs]


def _samples(data: ImageData, augmentation: tuple[str, ...]) -> "_Samples":
    if data.objects is None or isinstance(data.images, Photographs):
        raise KdlibError("Detectors need images with objects: load them with task 'detection'.")
    for name in augmentation:
        if name not in AUGMENTATIONS:
            raise unknown("augmentation for detectors", name, AUGMENTATIONS)
    fill = [round(255 * value) for value in data.mean]
    names = tuple(name for name in DISTORTIONS if name in augmentation)
    return _Samples(data.images, data.objects.counted(), names, fill)


def _checked_workers(workers: int | None, samples: "_Samples") -> int:
    if workers is None:
        return 0 if isinstance(samples.images, Tensor) else worker_count()
    if workers < 0:
        raise KdlibError(f"workers is {workers}; it must be a whole number from 0, or None.")
    return workers


def mirrored_boxes(boxes: Tensor, width: int) -> Tensor:
    """Boxes (n, 4) in the mirror image of an image that is ``width`` pixels wide."""
    x1, y1, x2, y2 = boxes.unbind(1)
    return torch.stack([width - x2, y1, width - x1, y2], dim=1)


class _AtOnce:
    """Images (N, 3, H, W) and their objects on a device, handed out a whole batch at a time."""

    def __init__(self, images: Tensor, objects: Objects, device: torch.device) -> None:
        self.images, self.device = images, device
        self.boxes, self.labels = objects.boxes.to(device), (objects.kinds + 1).to(device)
        self.starts, self.counts = objects.starts, objects.counts

    def batch(self, part: Tensor, flips: Tensor) -> DetectionBatch:
        """The images at positions ``part`` (B,), mirrored where ``flips`` (B,)."""
        pixels = self.images[part.to(self.images.device)].to(self.device)
        flips, counts = flips.to(self.device), self.counts[part]
        pixels = torch.where(flips.view(-1, 1, 1, 1), pixels.flip(-1), pixels)
        shifts = self.starts[part] - (counts.cumsum(0) - counts)
        rows = torch.arange(int(counts.sum())) + shifts.repeat_interleave(counts)
        flipped = flips.repeat_interleave(counts.to(self.device)).unsqueeze(1)
        boxes, labels = self.boxes[rows.to(self.device)], self.labels[rows.to(self.device)]
        boxes = torch.where(flipped, mirrored_boxes(boxes, pixels.shape[-1]), boxes)
        targets = _targets(boxes, labels, counts.tolist())
        return DetectionBatch(list(pixels.float().div_(255)), targets, part.to(self.device))


# Images made one at a time, by worker processes, and packed batch by batch.
class _Job(NamedTuple):
    """An image that is asked for: position, whether mirrored, data seed and epoch."""

    image: int
    flipped: bool
    seed: int
    epoch: int


class _Sample(NamedTuple):
    """An image (3, h, w) uint8, boxes (n, 4) float32 and labels (n,) int64 of its objects."""

    image: Tensor
    boxes: Tensor
    labels: Tensor


class _Packed(NamedTuple):
    """A batch: pixels of all images in a row, (3, h, w) of each, all boxes, labels, counts."""

    pixels: Tensor
    shapes: list[torch.Size]
    boxes: Tensor
    labels: Tensor
    counts: list[int]


@dataclass(frozen=True)
class _Samples(Dataset[_Sample | KdlibError]):
    """Makes one image of a data set with its objects.

    Attributes:
        images: (N, 3, H, W) uint8, or photographs.
        objects: those that are trained on.
        names: of ``DISTORTIONS``.
        fill: colour, 0 to 255, of what lies beyond an image.
    """

    images: Tensor | WholePhotographs
    objects: Objects
    names: tuple[str, ...]
    fill: list[int]

    def __getitem__(self, job: _Job) -> _Sample | KdlibError:
        """A sample, or why there is none: a worker's error would come with its whole traceback."""
        boxes, kinds, _ = self.objects.of(job.image)
        try:
            sample = _Sample(picture_at(self.images, job.image), boxes, kinds + 1)
        except KdlibError as error:
            return error
        if self.names:
            with _own_stream(derive_seed(job.seed, "augmentation", job.epoch, job.image)):
                sample = _distorted(sample, self.names, self.fill)
        if not job.flipped:
            return sample
        image, boxes, labels = sample
        return _Sample(image.flip(-1), mirrored_boxes(boxes, image.shape[-1]), labels)


def _made(samples: _Samples, jobs: list[list[_Job]], workers: int) -> Iterator[_Packed]:
    """Each batch of jobs, in order, made ahead by ``workers`` processes; 0: none, when asked for.

    Raises:
        KdlibError: an image cannot be made.
    """
    loader = DataLoader(
        samples,
        batch_sampler=jobs,
        num_workers=workers,
        collate_fn=_packed,
        generator=torch.Generator(),  # else it would draw from the global stream
    )
    for made in loader:
        if isinstance(made, KdlibError):
            raise made
        yield made


def _packed(samples: list[_Sample | KdlibError]) -> _Packed | KdlibError:
    """One batch, or the first error in it."""
    for sample in samples:
        if isinstance(sample, KdlibError):
            return sample
    images, boxes, labels = zip(*samples, strict=True)
    return _Packed(
        torch.cat([image.flatten() for image in images]),
        [image.shape for image in images],
        torch.cat(boxes),
        torch.cat(labels),
        [len(own) for own in labels],
    )


def _distorted(sample: _Sample, names: tuple[str, ...], fill: list[int]) -> _Sample:
    """The transforms of SSD's training in torchvision's references, those that are asked for."""
    shape = sample.image.shape[-2:]
    changed = {
        "image": tv_tensors.Image(sample.image),
        "boxes": tv_tensors.BoundingBoxes(sample.boxes, format="XYXY", canvas_size=shape),
        "labels": sample.labels,
    }
    for name in names:
        changed = _transform(name, changed["image"].shape[-2:], fill)(changed)
    image, boxes = changed["image"].as_subclass(Tensor), changed["boxes"].as_subclass(Tensor)
    return _Sample(image, boxes, changed["labels"])


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
