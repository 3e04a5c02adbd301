"""Batches on the device: data sets as uint8, augmented a batch at a time.

A data set in memory moves to the device once, if that leaves half of the device's memory free;
what is larger, and photographs, batch by batch. Order and augmentation of an epoch are functions of
the data seed and the epoch alone, drawn for all images at once: neither the batch size nor the
number of students or processes can shift them, and a resumed run meets the very same batches.
"""

from collections.abc import Iterator, Sequence
from math import inf
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kdlib.data.image_data import IGNORED, ImageData
from kdlib.errors import KdlibError, check_known
from kdlib.process_group import ALONE, ProcessGroup, Shard
from kdlib.seeds import derive_seed, generator
from kdlib.tasks import AUGMENTATIONS, JOINT, MIXING, OF_LABELLED_IMAGES

if TYPE_CHECKING:
    from kdlib.frskd.mixing import Mixed

CROP_PADDING = 4
RANDOM_WINDOWS: dict[str, tuple[int, ...]] = {"random_crop": (), "resized_crop": (4,)}
"""Of photographs, and how many random numbers place one, where it is not as many as is usual."""
DEVICE_SHARE = 0.5  # of a GPU's free memory that a data set may take


class Batch(NamedTuple):
    """Normalised images with their labels."""

    images: Tensor  # (B, 3, H, W) float32
    labels: Tensor  # (B,) int64; where pixels have classes (B, H, W), ``IGNORED`` if none counts
    indices: Tensor  # (B,) positions in the data set
    mixed: "Mixed | None" = None  # what was mixed into them, if anything was
    shard: Shard | None = None  # which part of a batch they are; ``None``: the whole
    mirrored: Tensor | None = None  # (B,) bool; ``None`` if they were changed in other ways too


class Batches:
    """A data set on a device, handed out in batches; the last may be smaller, see :func:`parts_of`.

    Augmentation: ``flip`` mirrors half of the images, ``crop`` pads by four pixels with the mean
    colour and cuts a random window (``black_crop`` pads with black, as the literature's benchmarks
    of CIFAR-100 do), ``random_crop`` cuts one out of a photograph (``resized_crop`` one of random
    size and shape, and resizes it); masks move with their images. ``mixup``, ``cutmix`` and ``sla``
    are in :mod:`kdlib.frskd.mixing`. What does not fit the images is refused. Each process of a
    ``world`` has its part of every batch of an epoch, and in order every ``world.size``-th batch as
    a whole.
    """

    def __init__(
        self,
        data: ImageData,
        batch_size: int,
        augmentation: tuple[str, ...] = (),
        device: torch.device | str = "cpu",
        world: ProcessGroup = ALONE,
    ) -> None:
        _check(augmentation, data)
        device, images = torch.device(device), data.images
        if isinstance(images, Tensor):
            if data.masks is not None:  # a fourth channel, so that what moves one moves the other
                images = torch.cat([images, data.masks.unsqueeze(1)], dim=1)
            images = images.permute(0, 2, 3, 1).contiguous()  # as convolutions are fastest
            free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else inf
            images = images.to(device) if images.nbytes <= DEVICE_SHARE * free else images
        self.images: Any = images  # a tensor (N, H, W, C), or photographs
        self.labels, self.classes = data.labels.to(device), len(data.classes)
        self.batch_size, self.augmentation, self.world = batch_size, augmentation, world
        self.mirrors = "flip" in augmentation
        self.has_views = set(augmentation) <= {"flip"}  # an image, or that and its mirror image
        self._moments = torch.tensor([data.mean, data.std]).to(device)

    def __len__(self) -> int:
        """Batches an epoch, of all processes together."""
        return len(parts_of(self.labels, self.batch_size))

    def epoch(self, seed: int, epoch: int) -> Iterator[Batch]:
        """One epoch in random order, augmented; labels may then be mixed or joint ones."""
        count, device = len(self.labels), self.labels.device
        order = torch.randperm(count, generator=generator(seed, "order", epoch)).to(device)
        stream = generator(seed, "augmentation", epoch)
        flips = (torch.rand(count, generator=stream) < 0.5).to(device)
        shifts = torch.randint(0, 2 * CROP_PADDING + 1, (count, 2), generator=stream).to(device)
        cuts = [RANDOM_WINDOWS[name] for name in self.augmentation if name in RANDOM_WINDOWS]
        places = self.images.random_places(stream, *cuts[0]) if cuts else None
        chance = np.random.default_rng(derive_seed(seed, "mixing", epoch))
        mixing = set(MIXING) & set(self.augmentation)
        mixed = resolve_name("kdlib.frskd.mixing:mixed") if mixing else None
        # A part that is mixed needs the image before its first one, which another process has.
        looks_back = self.world.size > 1 and bool(mixing - {JOINT})
        parts = parts_of(order, self.batch_size)
        own = [self.world.own(part, neighbour=looks_back) for part in parts]
        stored = self._stored([indices for indices, _ in own], places)
        for (indices, shard), pixels in zip(own, stored, strict=True):
            if self.mirrors:  # image by image: pixel by pixel is five times as slow
                both = torch.cat([pixels, pixels.flip(2)])
                chosen = torch.arange(len(pixels), device=device) + len(pixels) * flips[indices]
                pixels = both.index_select(0, chosen)
            if "black_crop" in self.augmentation:
                pixels = _shifted(pixels.permute(0, 3, 1, 2), shifts[indices]).permute(0, 2, 3, 1)
            views = (flips & self.mirrors)[indices] if self.has_views else None
            batch = self._batch(pixels, indices)._replace(shard=shard, mirrored=views)
            if "crop" in self.augmentation:
                batch = batch._replace(images=_shifted(batch.images, shifts[indices]))
                if batch.labels.ndim > 1:
                    labels = _shifted(batch.labels[:, None], shifts[indices], IGNORED)
                    batch = batch._replace(labels=labels[:, 0])
            if mixed is not None:
                batch = mixed(batch, chance, self.augmentation, self.classes, looks_back)
            yield batch

    def in_order(self) -> Iterator[Batch]:
        """Every image once, in its place, not augmented; of several processes, in their turn."""
        order = torch.arange(len(self.labels), device=self.labels.device)
        parts = parts_of(order, self.batch_size)[self.world.rank :: self.world.size]
        return map(self._batch, self._stored(parts, None), parts)

    def _stored(self, parts: Sequence[Tensor], places: Tensor | None) -> Iterator[Tensor]:
        """Each part's images (B, H, W, 3) uint8 on the device; pixels' classes are channel 4."""
        images, device = self.images, self.labels.device
        if isinstance(images, Tensor):
            return (images.index_select(0, part.to(images.device)).to(device) for part in parts)
        found = images.batches([part.cpu() for part in parts], places)
        return (pixels.to(device).permute(0, 2, 3, 1) for pixels in found)

    def _batch(self, pixels: Tensor, indices: Tensor) -> Batch:
        images = pixels[..., :3].float().div_(255)
        # Of each pixel, as an operation of three numbers at a time takes ten times as long.
        mean, std = self._moments[:, None, None].expand(2, *images.shape[1:]).contiguous()
        images = images.sub_(mean).div_(std).permute(0, 3, 1, 2)
        labels = pixels[..., 3].long() if pixels.shape[-1] > 3 else self.labels[indices]
        return Batch(images, labels, indices)


def _check(augmentation: tuple[str, ...], data: ImageData) -> None:
    whole, mixing = isinstance(data.images, Tensor), set(MIXING) & set(augmentation)
    for name in augmentation:
        check_known("augmentation", name, AUGMENTATIONS)
    if mixing:
        resolve_name("kdlib.frskd.mixing:check")(mixing, data.task)
    if whole and (windows := set(RANDOM_WINDOWS) & set(augmentation)):
        raise KdlibError(
            f"The augmentation '{min(windows)}' cuts a window out of a larger photograph, and "
            "these images are all of one size; use 'crop', which shifts them by up to four pixels."
        )
    if data.task == "segmentation" and (alone := set(OF_LABELLED_IMAGES) & set(augmentation)):
        raise KdlibError(
            f"The augmentation '{min(alone)}' moves no masks, and here pixels have labels; use "
            "'crop' of images of one size, 'random_crop' of photographs."
        )
    if not (whole or hasattr(data.images, "batches")):
        raise KdlibError(
            "These photographs are each of a size of their own, for detectors; task 'crops' cuts "
            "their objects out for classifiers."
        )


def parts_of(order: Tensor, size: int) -> list[Tensor]:
    """Parts of ``size`` positions; the last may be smaller, but one alone joins that before it."""
    parts = list(order.split(size))
    if size > 1 and len(parts) > 1 and len(parts[-1]) == 1:  # too few for a batch norm
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def _shifted(images: Tensor, shifts: Tensor, margin: int = 0) -> Tensor:
    """The window at ``shifts`` (B, 2) of each padded image (0: mean colour, or black of pixels)."""
    padded = functional.pad(images, [CROP_PADDING] * 4, value=margin)
    windows = padded.unfold(2, images.shape[2], 1).unfold(3, images.shape[3], 1)
    places = torch.arange(len(images), device=images.device)
    return windows[places, :, shifts[:, 0], shifts[:, 1]]
