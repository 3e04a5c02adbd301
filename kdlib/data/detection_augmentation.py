"""Augmentation for detectors: torchvision's transforms of an image and its boxes together.

Each image has a random stream of its own, so that neither its place in a batch nor the process
that makes it matters.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2

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
