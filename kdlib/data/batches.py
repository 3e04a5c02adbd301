"""Batches on the device: data sets as uint8, augmented a batch at a time.

A data set in memory is moved to the device once, if it leaves the device half of its free memory.
Photographs, and what is larger, go there batch by batch.

Order and augmentation of an epoch are functions of the data seed and the epoch alone, drawn for
all images before the first batch: neither the batch size nor the number of students or processes
can shift them, and a resumed run meets the very same batches.
"""

from collections.abc import Iterator, Sequence
from math import inf
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kdlib.data.image_data import IGNORED, ImageData
from kdlib.errors import KdlibError, unknown
from kdlib.seeds import derive_seed, generator
from kdlib.tasks import AUGMENTATIONS, JOINT, MIXING, MIXTURES
from kdlib.team import ALONE, Portion, Team

if TYPE_CHECKING:
    from kdlib.data.photographs import Photographs

CROP_PADDING = 4
ROTATIONS = 4
DEVICE_SHARE = 0.5  # of a GPU's free memory that a data set may take


class Mixed(NamedTuple):
    """Labels (B,) of the images that were mixed in, and the share, 0 to 1, that is not theirs."""

    labels: Tensor
    share: float


class Batch(NamedTuple):
    """Normalised images with their labels."""

    images: Tensor  # (B, 3, H, W) float32
    labels: Tensor  # (B,) int64; where pixels have classes (B, H, W), ``IGNORED`` if none counts
    indices: Tensor  # (B,) positions in the data set
    mixed: Mixed | None = None  # what was mixed into them, if anything was
    portion: Portion | None = None  # which part of a batch they are; ``None``: the whole


class Batches:
    """A data set on a device, handed out in batches; the last may be smaller, see :func:`parts_of`.

    Augmentation: ``flip`` mirrors half of the images, ``crop`` pads by four pixels with the mean
    colour and cuts a random window, ``random_crop`` cuts one out of a photograph; ``mixup`` and
    ``cutmix`` are :func:`mixture`, ``sla`` is :func:`with_rotations`. Masks move with their
    images. What does not fit the images is refused.

    Each process of a ``team`` has its part of every batch of an epoch, and in order every
    ``team.size``-th batch as a whole.
    """

    def __init__(
        self,
        data: ImageData,
        batch_size: int,
        augmentation: tuple[str, ...] = (),
        device: torch.device | str = "cpu",
        team: Team = ALONE,
    ) -> None:
        _check(augmentation, data)
        device, images = torch.device(device), cast("Tensor | Photographs", data.images)
        if isinstance(images, Tensor):
            if data.masks is not None:  # a fourth channel, so that what moves one moves the other
                images = torch.cat([images, data.masks.unsqueeze(1)], dim=1)
            free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else inf
            images = images.to(device) if images.nbytes <= DEVICE_SHARE * free else images
        self.images, self.labels, self.classes = images, data.labels.to(device), len(data.classes)
        self.batch_size, self.augmentation, self.team = batch_size, augmentation, team
        self._mean = torch.tensor(data.mean, device=device).view(1, 3, 1, 1)
        self._std = torch.tensor(data.std, device=device).view(1, 3, 1, 1)
        # A part that is mixed needs the image before its first one, which another process has.
        self._looks_back = team.size > 1 and not set(MIXTURES).isdisjoint(augmentation)

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
        places = None
        if "random_crop" in self.augmentation:
            places = cast("Photographs", self.images).random_places(stream)
        chance = np.random.default_rng(derive_seed(seed, "mixing", epoch))
        parts = parts_of(order, self.batch_size)
        own = [self.team.own(part, neighbour=self._looks_back) for part in parts]
        stored = self._stored([indices for indices, _ in own], places)
        for (indices, portion), pixels in zip(own, stored, strict=True):
            if "flip" in self.augmentation:  # of whole numbers: a quarter of the bytes
                pixels = torch.where(flips[indices].view(-1, 1, 1, 1), pixels.flip(-1), pixels)
            batch = self._batch(pixels, indices)._replace(portion=portion)
            if "crop" in self.augmentation:
                batch = batch._replace(images=_shifted(batch.images, shifts[indices]))
                if batch.labels.ndim > 1:
                    labels = _shifted(batch.labels[:, None], shifts[indices], IGNORED)
                    batch = batch._replace(labels=labels[:, 0])
            yield self._mixed(batch, chance)

    def in_order(self) -> Iterator[Batch]:
        """Every image once, in its place, not augmented; of several processes, in their turn."""
        order = torch.arange(len(self.labels), device=self.labels.device)
        parts = parts_of(order, self.batch_size)[self.team.rank :: self.team.size]
        return map(self._batch, self._stored(parts, None), parts)

    def _stored(self, parts: Sequence[Tensor], places: Tensor | None) -> Iterator[Tensor]:
        """Each part's images (B, 3, H, W) uint8 on the device; pixels' classes are channel 4."""
        images, device = self.images, self.labels.device
        if isinstance(images, Tensor):
            return (images[part.to(images.device)].to(device) for part in parts)
        found = images.batches([part.cpu() for part in parts], places)
        return (pixels.to(device) for pixels in found)

    def _batch(self, pixels: Tensor, indices: Tensor) -> Batch:
        images = pixels[:, :3].float().div_(255).sub_(self._mean).div_(self._std)
        labels = pixels[:, 3].long() if pixels.shape[1] > 3 else self.labels[indices]
        return Batch(images, labels, indices)

    def _mixed(self, batch: Batch, chance: np.random.Generator) -> Batch:
        """The batch with the mixture and the rotations that are asked for."""
        for name in set(MIXTURES) & set(self.augmentation):
            batch = mixture(batch, name, chance)
        if batch.mixed is not None and self._looks_back:
            images, labels, indices = (part[1:] for part in batch[:3])
            mixed = Mixed(batch.mixed.labels[1:], batch.mixed.share)
            batch = Batch(images, labels, indices, mixed, batch.portion)
        return with_rotations(batch, self.classes) if JOINT in self.augmentation else batch


def _check(augmentation: tuple[str, ...], data: ImageData) -> None:
    whole, mixing = isinstance(data.images, Tensor), set(MIXING) & set(augmentation)
    for name in augmentation:
        if name not in AUGMENTATIONS:
            raise unknown("augmentation", name, AUGMENTATIONS)
    if set(MIXTURES) <= mixing:
        raise KdlibError(f"Choose one of {' and '.join(MIXTURES)}: an image is mixed once.")
    if mixing and data.task == "segmentation":
        raise KdlibError(
            f"The augmentation '{min(mixing)}' changes the label of an image, and here pixels have "
            f"labels. Valid: {', '.join(name for name in AUGMENTATIONS if name not in MIXING)}."
        )
    if "random_crop" in augmentation and whole:
        raise KdlibError(
            "The augmentation 'random_crop' cuts a window out of a larger photograph, and these "
            "images are all of one size; use 'crop', which shifts them by up to four pixels."
        )
    if not (whole or hasattr(data.images, "batches")):
        raise KdlibError(
            "These photographs are each of a size of their own, for detectors; task 'crops' cuts "
            "their objects out for classifiers."
        )


def parts_of(order: Tensor, size: int) -> list[Tensor]:
    """Parts of ``size`` positions; the last may be smaller, but a single one joins that before it.

    For a batch norm of maps of one pixel needs two images at least.
    """
    parts = list(order.split(size))
    if size > 1 and len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def _shifted(images: Tensor, shifts: Tensor, margin: int = 0) -> Tensor:
    """The window at ``shifts`` (B, 2) of each padded image (zero is the mean colour)."""
    size = images.shape[-2:]
    padded = functional.pad(images, [CROP_PADDING] * 4, value=margin)
    rows = shifts[:, :1] + torch.arange(size[0], device=images.device)
    columns = shifts[:, 1:] + torch.arange(size[1], device=images.device)
    picture = torch.arange(len(images), device=images.device).view(-1, 1, 1)
    windows = padded.permute(0, 2, 3, 1)[picture, rows[:, :, None], columns[:, None, :]]
    return windows.permute(0, 3, 1, 2)


def mixture(batch: Batch, name: str, stream: np.random.Generator) -> Batch:
    """Each image mixed with the one before it: Mixup (1710.09412) or CutMix (1905.04899).

    One share a batch, as in both papers. Its order is random: neighbours are as good as any draw.
    """
    share = float(stream.beta(MIXTURES[name], MIXTURES[name]))
    others = batch.images.roll(1, 0)
    if name == "mixup":
        images = torch.lerp(others, batch.images, share)
    else:  # a box of ``1 - share`` of the others, its middle uniform; the share left, as it is cut
        size = np.array(others.shape[-2:])
        half = (size * np.sqrt(1 - share) / 2).astype(int)
        middle = stream.integers(size)
        (top, left), (bottom, right) = np.maximum(middle - half, 0), np.minimum(middle + half, size)
        images = batch.images.clone()
        images[..., top:bottom, left:right] = others[..., top:bottom, left:right]
        share = 1 - float((bottom - top) * (right - left) / size.prod())
    return batch._replace(images=images, mixed=Mixed(batch.labels.roll(1, 0), share))


def output_count(classes: int, augmentation: Sequence[str]) -> int:
    """Logits that a network needs: with ``sla`` one for each class in each rotation.

    Logit ``r * classes + k`` is class k turned by r right angles; upright ones come first.
    """
    return classes * (ROTATIONS if JOINT in augmentation else 1)


def with_rotations(batch: Batch, classes: int) -> Batch:
    """Every image upright, then every one turned by one right angle, and so on: (4 B, 3, H, W).

    Each rotation is a class of its own (SLA: Lee 2020, 1910.05872).
    """

    def joint(labels: Tensor) -> Tensor:
        return torch.cat([labels + turns * classes for turns in range(ROTATIONS)])

    images = torch.cat([batch.images.rot90(turns, (2, 3)) for turns in range(ROTATIONS)])
    mixed = batch.mixed and Mixed(joint(batch.mixed.labels), batch.mixed.share)
    labels, indices = joint(batch.labels), batch.indices.repeat(ROTATIONS)
    return batch._replace(images=images, labels=labels, indices=indices, mixed=mixed)
