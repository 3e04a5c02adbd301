"""Augmentations that change what an image is labelled: Mixup, CutMix, rotations as classes (SLA).

They act on whole batches, after flips and crops, and so alike on whatever learns from a batch: a
student, its self-teacher, a teacher that is asked about it. Which method they mean something with
is checked where a method is made, in ``kdlib/distillers``.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdlib.errors import KdlibError

if TYPE_CHECKING:
    from kdlib.data.batches import Batch

MIXTURES = {"mixup": 0.2, "cutmix": 1.0}
"""Both parameters of the Beta distribution of the share, as FRSKD's paper has them."""
ROTATIONS = 4
JOINT = "sla"
MIXING = (*MIXTURES, JOINT)


class Mixed(NamedTuple):
    """What is mixed into the images of a batch.

    Attributes:
        labels: (B,) of the images that were mixed in.
        share: of the images that the batch's own labels belong to, 0 to 1.
    """

    labels: Tensor
    share: float


def check_mixing(names: Sequence[str]) -> None:
    """Refuse two mixtures at once: each has a share of its own."""
    if set(MIXTURES) <= set(names):
        raise KdlibError(f"Choose one of {' and '.join(MIXTURES)}: an image is mixed once.")


def output_count(classes: int, augmentation: Sequence[str]) -> int:
    """Logits that a network needs: with ``sla`` one for each class in each rotation.

    Logit ``r * classes + k`` stands for class k turned by r right angles, so that the first
    ``classes`` of them are those of upright images.
    """
    return classes * (ROTATIONS if JOINT in augmentation else 1)


def relabelled(
    batch: "Batch", augmentation: Sequence[str], classes: int, stream: np.random.Generator
) -> "Batch":
    """The batch with the mixture and the rotations that ``augmentation`` names, if any."""
    for name in MIXTURES:
        if name in augmentation:
            batch = mixture(batch, name, stream)
    return with_rotations(batch, classes) if JOINT in augmentation else batch


def mixture(batch: "Batch", name: str, stream: np.random.Generator) -> "Batch":
    """Each image mixed with the one before it: Mixup (1710.09412) or CutMix (1905.04899).

    One share a batch, as in both papers. A batch is in random order, so its neighbours are as
    good a draw as any.
    """
    share = float(stream.beta(MIXTURES[name], MIXTURES[name]))
    others = batch.images.roll(1, 0)
    if name == "mixup":
        images = torch.lerp(others, batch.images, share)
    else:
        images, share = _pasted(batch.images, others, share, stream)
    return batch._replace(images=images, mixed=Mixed(batch.labels.roll(1, 0), share))


def _pasted(
    images: Tensor, others: Tensor, share: float, stream: np.random.Generator
) -> tuple[Tensor, float]:
    """A box of ``1 - share`` of the image taken from the others; the share that is left.

    The box's middle is uniform; what lies outside of the image is cut off, and counted so.
    """
    size = np.array(images.shape[-2:])
    half = (size * np.sqrt(1 - share) / 2).astype(int)
    middle = stream.integers(size)
    (top, left), (bottom, right) = np.maximum(middle - half, 0), np.minimum(middle + half, size)
    pasted = images.clone()
    pasted[..., top:bottom, left:right] = others[..., top:bottom, left:right]
    return pasted, 1 - float((bottom - top) * (right - left) / size.prod())


def with_rotations(batch: "Batch", classes: int) -> "Batch":
    """Every image in its four rotations, each a class of its own (SLA: Lee 2020, 1910.05872).

    B images become 4 B: all upright, then all turned by one right angle, and so on.
    """
    images = torch.cat([batch.images.rot90(turns, (2, 3)) for turns in range(ROTATIONS)])
    mixed = batch.mixed
    if mixed is not None:
        mixed = mixed._replace(labels=_joint(mixed.labels, classes))
    indices = batch.indices.repeat(ROTATIONS)
    labels = _joint(batch.labels, classes)
    return batch._replace(images=images, labels=labels, indices=indices, mixed=mixed)


def _joint(labels: Tensor, classes: int) -> Tensor:
    return torch.cat([labels + turns * classes for turns in range(ROTATIONS)])
