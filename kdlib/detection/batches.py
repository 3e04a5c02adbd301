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
from kdlib.detection.data import Objects, WholePhotographs
from kdlib.errors import KdlibError, unknown
from kdlib.seeds import derive_seed, generator
from kdlib.team import ALONE, Portion, Team

# Augmentation for detectors: torchvision's transforms of an image and its boxes together.
DISTORTIONS = ("photometric", "zoom_out", "iou_crop", "scale_jitter")
AUGMENTATIONS = ("flip", *DISTORTIONS)


class Sample(NamedTuple):
    """An image (3, h, w) uint8, boxes (n, 4) float32 and labels (n,) int64 of its objects."""

    image: Tensor
    boxes: Tensor
    labels: Tensor


def distorted(sample: Sample, names: tuple[str, ...], seed: int, fill: tuple[int, ...]) -> Sample:
    """The transforms of SSD's training in torchvision's references, those that are asked for.

    Args:
        sample: what is transformed.
        names: any of ``DISTORTIONS``; applied in their order there.
        seed: of the image's own random stream.
        fill: colour, 0 to 255, of what lies beyond the image.
    """
    changed = {
        "image": tv_tensors.Image(sample.image),
        "boxes": tv_tensors.BoundingBoxes(
            sample.boxes, format="XYXY", canvas_size=sample.image.shape[-2:]
        ),
        "labels": sample.labels,
    }
    with _own_stream(seed):
        for name in DISTORTIONS:
            if name in names:
                changed = _transform(name, changed["image"].shape[-2:], fill)(changed)
    image, boxes = changed["image"].as_subclass(Tensor), changed["boxes"].as_subclass(Tensor)
    return Sample(image, boxes, changed["labels"])


def _transform(name: str, shape: tuple[int, int], fill: tuple[int, ...]) -> v2.Transform:
    """A crop may cut an object off: what is left of no pixel is dropped, the rest is clipped."""
    if name == "photometric":
        return v2.RandomPhotometricDistort()
    if name == "zoom_out":
        return v2.RandomZoomOut(fill=list(fill))
    if name == "iou_crop":
        return v2.Compose([v2.RandomIoUCrop(), v2.SanitizeBoundingBoxes()])
    window = v2.RandomCrop(shape, pad_if_needed=True, fill=list(fill))
    return v2.Compose([v2.ScaleJitter(shape), window, v2.SanitizeBoundingBoxes()])


def mirrored(sample: Sample) -> Sample:
    """The mirror image, with its boxes."""
    boxes = mirrored_boxes(sample.boxes, sample.image.shape[-1])
    return sample._replace(image=sample.image.flip(-1), boxes=boxes)


def mirrored_boxes(boxes: Tensor, width: int) -> Tensor:
    """Boxes (n, 4) in the mirror image of an image that is ``width`` pixels wide."""
    x1, y1, x2, y2 = boxes.unbind(1)
    return torch.stack([width - x2, y1, width - x1, y2], dim=1)


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


# Images with objects made one at a time, by worker processes, and packed batch by batch.
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


class DetectionBatch(NamedTuple):
    """Images with their objects.

    Attributes:
        images: (3, h, w) float32 each, 0 to 1, on the device; detectors normalise them.
        targets: of each image ``boxes`` (n, 4) float32 and ``labels`` (n,) int64, the kinds + 1;
            crowds are left out, and n may be 0.
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
        batch_size: images a batch; the last batch of an epoch may be smaller.
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
        self._maker = _maker(data, augmentation)
        self.labels = data.labels.to(device)
        self.batch_size, self.augmentation, self.team = batch_size, augmentation, team
        self._workers = _checked_workers(workers, self._maker)
        self._at_once = _AtOnce(self._maker, torch.device(device)) if self._is_plain() else None

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
        made = self._batches([part for part, _ in own], flips, self._maker, seed, epoch)
        for batch, (_, portion) in zip(made, own, strict=True):
            yield batch._replace(portion=portion)

    def in_order(self) -> Iterator[DetectionBatch]:
        """Every image once, in its place, not augmented; of several processes, in their turn."""
        count = len(self.labels)
        order, flips = torch.arange(count), torch.zeros(count, dtype=torch.bool)
        parts = self.team.turns(parts_of(order, self.batch_size))
        return self._batches(parts, flips, replace(self._maker, names=()))

    def _is_plain(self) -> bool:
        return isinstance(self._maker.images, Tensor) and not self._maker.names

    def _batches(
        self,
        parts: Sequence[Tensor],
        flips: Tensor,
        maker: Maker,
        seed: int = 0,
        epoch: int = 0,
    ) -> Iterator[DetectionBatch]:
        if self._at_once is not None:
            images = self._at_once
            return (images.batch(part, flips[part]) for part in parts)
        return self._made(maker, parts, flips, seed, epoch)

    def _made(
        self, maker: Maker, parts: Sequence[Tensor], flips: Tensor, seed: int, epoch: int
    ) -> Iterator[DetectionBatch]:
        device = self.labels.device
        jobs = [[Job(i, bool(flips[i]), seed, epoch) for i in part.tolist()] for part in parts]
        for part, packed in zip(parts, packed_batches(maker, jobs, self._workers), strict=True):
            moved = packed.moved(device)
            yield DetectionBatch(moved.images(), moved.targets(), part.to(device))


class _AtOnce:
    """Images of one size and their objects on a device, handed out a batch at a time."""

    def __init__(self, maker: Maker, device: torch.device) -> None:
        assert isinstance(maker.images, Tensor)
        self.images, self.device = on_device(maker.images, device), device
        self.boxes = maker.objects.boxes.to(device)
        self.labels = labels_of(maker.objects.kinds).to(device)
        self.starts, self.counts = maker.objects.starts, maker.objects.counts

    def batch(self, part: Tensor, flips: Tensor) -> DetectionBatch:
        """The images at positions ``part`` (B,), mirrored where ``flips`` (B,)."""
        pixels = self.images[part.to(self.images.device)].to(self.device)
        flips = flips.to(self.device)
        pixels = torch.where(flips.view(-1, 1, 1, 1), pixels.flip(-1), pixels)
        targets = self._targets(part, flips, pixels.shape[-1])
        return DetectionBatch(list(pixels.float().div_(255)), targets, part.to(self.device))

    def _targets(self, part: Tensor, flips: Tensor, width: int) -> list[dict[str, Tensor]]:
        counts = self.counts[part]
        rows = _ranges(self.starts[part], counts).to(self.device)
        flipped = flips.repeat_interleave(counts.to(self.device)).unsqueeze(1)
        boxes, labels = self.boxes[rows], self.labels[rows]
        boxes = torch.where(flipped, mirrored_boxes(boxes, width), boxes)
        lengths = counts.tolist()
        pairs = zip(boxes.split(lengths), labels.split(lengths), strict=True)
        return [{"boxes": own, "labels": kinds} for own, kinds in pairs]


def _ranges(starts: Tensor, counts: Tensor) -> Tensor:
    """``counts`` (B,) whole numbers from each of ``starts`` (B,), one range after the other."""
    before = counts.cumsum(0) - counts
    return torch.arange(int(counts.sum())) + (starts - before).repeat_interleave(counts)


def _maker(data: ImageData, augmentation: tuple[str, ...]) -> Maker:
    if data.objects is None or isinstance(data.images, Photographs):
        raise KdlibError("Detectors need images with objects: load them with task 'detection'.")
    for name in augmentation:
        if name not in AUGMENTATIONS:
            raise unknown("augmentation for detectors", name, AUGMENTATIONS)
    fill = tuple(round(255 * value) for value in data.mean)
    names = tuple(name for name in DISTORTIONS if name in augmentation)
    return Maker(data.images, data.objects.counted(), names, fill)


def _checked_workers(workers: int | None, maker: Maker) -> int:
    if workers is None:
        return 0 if isinstance(maker.images, Tensor) else worker_count()
    if workers < 0:
        raise KdlibError(f"workers is {workers}; it must be a whole number from 0, or None.")
    return workers
