"""Augmentations that change what an image is labelled, as FRSKD's paper combines them with it."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdlib.data.batches import Batch
from kdlib.errors import KdlibError
from kdlib.tasks import AUGMENTATIONS, JOINT, MIXING, ROTATIONS

MIXTURES = {"mixup": 0.2, "cutmix": 1.0}
"""Both parameters of the Beta distribution of the share, as FRSKD's paper has them."""


class Mixed(NamedTuple):
    """Labels (B,) of the images that were mixed in, and the share, 0 to 1, that is not theirs."""

    labels: Tensor
    share: float


def check(names: set[str], task: str) -> None:
    """Refuse two mixtures at once, and any where pixels have labels."""
    if set(MIXTURES) <= names:
        raise KdlibError(f"Choose one of {' and '.join(MIXTURES)}: an image is mixed once.")
    if task == "segmentation":
        raise KdlibError(
            f"The augmentation '{min(names)}' changes the label of an image, and here pixels have "
            f"labels. Valid: {', '.join(name for name in AUGMENTATIONS if name not in MIXING)}."
        )


def mixed(
    batch: Batch,
    stream: np.random.Generator,
    names: tuple[str, ...],
    classes: int,
    looks_back: bool,
) -> Batch:
    """The batch with the mixture and the rotations that are asked for.

    With ``looks_back`` its first image is another process's, only there to be mixed into the next.
    """
    for name in set(MIXTURES) & set(names):
        batch = mixture(batch, name, stream)
    if batch.mixed is not None and looks_back:
        images, labels, indices = (part[1:] for part in batch[:3])
        before = Mixed(batch.mixed.labels[1:], batch.mixed.share)
        batch = Batch(images, labels, indices, before, batch.shard)
    return with_rotations(batch, classes) if JOINT in names else batch


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
