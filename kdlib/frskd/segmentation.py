"""Networks that give each pixel a class: a backbone, a BiFPN on its stages, a head.

There is one pyramid: those that EfficientDet (Tan 2020, arXiv 1911.09070) stacks upon it are
FRSKD's self-teacher, which is not deployed (Ji 2021, arXiv 2103.08273). So the ``stages`` of the
output are the levels of that first pyramid.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex
from torchvision import models as tv
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.transforms.v2 import functional
from torchvision.tv_tensors import Image as Picture
from torchvision.tv_tensors import Mask

from kdlib.data.image_data import IGNORED, ImageData
from kdlib.data.photographs import (
    MEAN,
    PLACE_BITS,
    STD,
    UNREADABLE,
    Listing,
    Photographs,
    Pixels,
    middle,
    placed,
)
from kdlib.data.roots import checked_root, checked_size, fingerprint
from kdlib.data.voc import CLASSES, MASKS, PARTS, listed, published
from kdlib.errors import KdlibError
from kdlib.frskd.self_teacher import BiFPN, PixelHead, reduced
from kdlib.models.cifar import ThreeStageResNet, initialise
from kdlib.models.output import Output, StagedBackbone
from kdlib.models.torchvision import pretrained
from kdlib.seeds import generator
from kdlib.team import ALONE, Team

# Photographs with the class of each pixel: read, mirrored, scaled and cut together.
SCALES = (0.5, 2.0)
"""Of random windows: each photograph is enlarged by a factor between these first, as is usual for
Pascal VOC (Chen 2017, arXiv 1706.05587)."""


@dataclass(frozen=True)
class AnnotatedPhotographs(Photographs):
    """Photographs of which ``read`` returns red, green, blue and class: (H, W, 4).

    Without a random place a window shows the whole photograph, in the middle: as it is where it
    fits into ``full_size`` pixels a side (and ``image_size`` is that), else as much smaller.

    Attributes:
        full_size: pixels a side of a window that shows photographs at their own resolution.
        margin: colour (0 to 255) beyond the photograph.
    """

    full_size: int
    margin: tuple[int, int, int]
    annotated: ClassVar[bool] = True
    drawn: ClassVar[int] = 3

    def _cut(self, window: Pixels, position: int, place: list[int] | None) -> None:
        pixels = torch.from_numpy(self.read(int(self.positions[position]))).permute(2, 0, 1)
        picture, mask = Picture(pixels[:3]), Mask(pixels[3:])
        scale = self.image_size / max(self.full_size, *picture.shape[-2:])
        scale *= 1.0 if place is None else _random_scale(place[2])
        sides = [max(1, round(side * scale)) for side in picture.shape[-2:]]
        for values, fill, channels in ((picture, self.margin, [0, 1, 2]), (mask, IGNORED, [3])):
            enlarged = functional.resize(values, sides, antialias=True)
            cut = _window(enlarged, self.image_size, fill, place)
            window[..., channels] = cut.permute(1, 2, 0).numpy()


def _random_scale(draw: int) -> float:
    low, high = SCALES
    return low * (high / low) ** (draw / (1 << PLACE_BITS))


def _window(values: Tensor, side: int, fill: object, place: list[int] | None) -> Tensor:
    """(C, side, side) of (C, H, W), padded by ``fill`` where that is smaller."""
    lacking = [max(0, side - length) for length in values.shape[-2:]]
    above, before = middle(lacking)
    below, behind = lacking[0] - above, lacking[1] - before
    padded = functional.pad(values, [before, above, behind, below], fill=fill)
    room = [length - side for length in padded.shape[-2:]]
    top, left = middle(room) if place is None else placed(room, place[:2])
    return functional.crop(padded, top, left, side, side)


def read_annotated(picture: Path, mask: Path, classes: int) -> Pixels:
    """A photograph with its mask as the fourth channel: (H, W, 4) uint8.

    Args:
        picture: the photograph.
        mask: an image with a palette or grey levels, whose values are classes.
        classes: number of them; the mask's other values must be ``IGNORED``.

    Raises:
        KdlibError: a file that is missing, truncated or no image; a mask in colours, of another
            size than its photograph, or with a value that is no class.
    """
    pixels, marks = _opened(picture, "RGB"), _opened(mask, None)
    if marks.shape != pixels.shape[:2]:
        raise KdlibError(
            f"{mask} is of shape {marks.shape}, but {picture} of {pixels.shape[:2]}. A mask has "
            "one value a pixel (a palette or grey levels, no colours) and its photograph's size."
        )
    strange = sorted({*np.unique(marks).tolist()} - {*range(classes), IGNORED})
    if strange:
        raise KdlibError(
            f"{mask} has the values {', '.join(map(str, strange[:5]))}; valid: 0 to {classes - 1}, "
            f"and {IGNORED} for pixels that do not count. Get the file again."
        )
    return np.dstack([pixels, marks.astype(np.uint8)])


def _opened(path: Path, mode: str | None) -> Pixels:
    try:
        with Image.open(path) as opened:
            return np.asarray(opened.convert(mode) if mode else opened)
    except UNREADABLE as error:
        raise KdlibError(f"{path} cannot be read as an image ({error}). Get it again.") from error


# Pascal VOC's segmentation.
FULL_SIZE = 512
MARGIN = (124, 116, 104)
"""Colour beyond a photograph: the mean of ImageNet's, which normalisation turns into nearly 0."""


def load_voc(
    split: str,
    *,
    size: int | None = None,
    image_size: int = FULL_SIZE,
    data_root: Path | None = None,
    **composition: int,
) -> ImageData:
    """Pascal VOC 2007 and 2012: photographs, each pixel one of 20 things or background.

    Args:
        split: ``train`` or ``test``.
        size: only so many, of a random order that is always the same.
        image_size: pixels a side of a window; 512 shows photographs at their own resolution.
        data_root: folder that holds ``VOCdevkit``; ``None`` reads ``KDLIB_DATA``.
        composition: options of composed data sets, which mean nothing here.

    Raises:
        KdlibError: a list, a photograph or a mask is missing; when they are read, one is damaged.
    """
    checked_size(image_size)
    listing = list_voc(split, checked_root(data_root))
    facts, count = listing.facts(), len(listing.names) // 2
    order = torch.randperm(count, generator=generator(0, "voc", "order"))[:size]
    names = hashlib.sha256(repr(listing.names).encode()).hexdigest()

    def read(position: int) -> Pixels:
        picture, mask = (Path(listing.path(place)) for place in (position, position + count))
        return read_annotated(picture, mask, len(CLASSES))

    return ImageData(
        images=AnnotatedPhotographs(read, order.numpy(), image_size, FULL_SIZE, MARGIN),
        labels=torch.zeros(len(order), dtype=torch.int64),
        classes=CLASSES,
        mean=MEAN,
        std=STD,
        fingerprint=fingerprint(("voc", names, image_size), (torch.from_numpy(facts[:, 0]), order)),
    )


def list_voc(split: str, root: Path) -> Listing:
    """The photographs of a split and, after them all, their masks in the same order.

    Raises:
        KdlibError: a list is missing or empty.
    """
    tested = published(MASKS, "2007", "test", root).images if split == "train" else []
    taken, pictures, masks = {Path(name).stem for name in tested}, [], []
    for year, part in PARTS[split]:
        part_of = published(MASKS, year, part, root)
        for picture, mask in zip(part_of.images, part_of.masks, strict=True):
            number = Path(picture).stem.removeprefix("2007_")
            if number not in taken:
                taken.add(number)
                pictures.append(picture)
                masks.append(mask)
    return listed(MASKS, root, pictures, masks)


EFFICIENT_STAGES = {"2": "p2", "3": "p3", "5": "p4", "7": "p5"}
EFFICIENT_CHANNELS = (24, 40, 112, 320)
"""Of EfficientNet-B0 and -B1 alike, at 1/4, 1/8, 1/16 and 1/32 of the image."""
COARSER = 2
"""Levels above the backbone's own, P6 and P7."""
HEAD_DEPTH = 3


class Segmenter(nn.Module):
    """A backbone, one BiFPN, and a :class:`PixelHead`.

    Args:
        backbone: from images (B, 3, H, W) to maps (B, C, h, w), fine to coarse.
        channels: C of each of these.
        classes: number of classes K.
        width: channels of all levels of the pyramid.
        depth: separable convolutions in a node of the pyramid.
        head_depth: those of the head.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: Sequence[int],
        classes: int,
        *,
        width: int,
        depth: int = 1,
        head_depth: int = 1,
    ) -> None:
        super().__init__()
        self.pyramid = BiFPN(channels, (width,) * len(channels), depth)
        self.head = PixelHead(width, classes, head_depth)
        initialise(self)
        self.backbone = backbone  # after the others: it has its own, perhaps trained, weights

    def forward(self, images: Tensor) -> Output:
        """Images (B, 3, H, W), normalised -> logits (B, K, H, W), the pyramid's levels, pooled."""
        levels = self.pyramid(self.backbone(images))
        logits = self.head(levels, (images.shape[-2], images.shape[-1]))
        return Output(logits, levels, levels[-1].mean((2, 3)))


class EfficientBackbone(nn.Module):
    """Stages of torchvision's EfficientNet at 1/4 to 1/32, and two coarser levels by pooling."""

    def __init__(self, network: tv.EfficientNet) -> None:
        super().__init__()
        self.network = create_feature_extractor(network.features, return_nodes=EFFICIENT_STAGES)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) -> P2 to P7: (B, C, h, w), each half the size of the one before."""
        levels = list(self.network(images).values())
        for _ in range(COARSER):
            height, width = levels[-1].shape[-2:]
            levels.append(reduced(levels[-1], (-(-height // 2), -(-width // 2))))
        return tuple(levels)


def scenes_segmenter(classes: int, widths: tuple[int, int, int, int], width: int) -> Segmenter:
    """The stages of a Scenes classifier at 1/4 to 1/16 of the image, with a pyramid."""
    backbone = ThreeStageResNet(classes, 1, widths, (2, 2, 2, 2))
    return Segmenter(StagedBackbone(backbone), widths[1:], classes, width=width)


def efficientdet(
    classes: int, build: Callable[..., tv.EfficientNet], width: int, weights: str | None = None
) -> Segmenter:
    """EfficientDet for pixels: ``weights`` are torchvision's, of the backbone alone."""
    backbone = EfficientBackbone(pretrained(build, weights))
    channels = (*EFFICIENT_CHANNELS, *[EFFICIENT_CHANNELS[-1]] * COARSER)
    return Segmenter(backbone, channels, classes, width=width, head_depth=HEAD_DEPTH)


efficientdet_d0 = partial(efficientdet, build=tv.efficientnet_b0, width=64)
efficientdet_d1 = partial(efficientdet, build=tv.efficientnet_b1, width=88)


# How well pixels are classified: IoU of each class and their mean, by torchmetrics.
class SegmentationMarks:
    """What is known of one network's masks, batch after batch: a table of confusions.

    Args:
        classes: number of classes K.
        team: the processes that each add a part of the batches; results are of all of them.
    """

    def __init__(self, classes: int, team: Team = ALONE) -> None:
        # Checking arguments would look for the different values of every mask, which takes longer
        # than counting them; ``add`` checks what could be wrong.
        options: dict[str, Any] = {
            "ignore_index": IGNORED,
            "validate_args": False,
            "sync_on_compute": team.size > 1,
            "dist_sync_fn": lambda counts, group: team.gathered(counts),
        }
        self.metrics = MetricCollection(
            {
                "confusion": MulticlassConfusionMatrix(classes, **options),
                "miou": MulticlassJaccardIndex(classes, average="macro", **options),
                "per_class": MulticlassJaccardIndex(classes, average="none", **options),
            },
            compute_groups=[["confusion", "miou", "per_class"]],  # counted once for all three
        )
        self.classes = classes

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: logits (B, K, H, W), labels (B, H, W).

        Raises:
            KdlibError: a label that has no logit.
        """
        largest = int(labels.where(labels != IGNORED, 0).max())
        if largest >= self.classes or logits.shape[1] != self.classes:
            raise KdlibError(
                f"Masks of {self.classes} classes, the largest {largest}, do not fit logits of "
                f"{logits.shape[1]}; evaluate with the classes that the network was made for."
            )
        self.metrics.update(logits.argmax(1).cpu(), labels.cpu())

    def results(self) -> dict[str, Any]:
        """Fractions over all pixels that count.

        Returns:
            ``miou``, the mean over the classes that occur in the truth or in the answers;
            ``pixel_accuracy``; ``per_class``, the IoU of each class, ``None`` where it occurs in
            neither.

        Raises:
            KdlibError: no pixel counts.
        """
        found = self.metrics.compute()
        confusion = found["confusion"]
        if confusion.sum() == 0:
            raise KdlibError(
                f"No pixel of these masks counts (all are {IGNORED}); evaluate at least one mask "
                "with a pixel that does."
            )
        occurs = (confusion.sum(0) + confusion.sum(1) > 0).tolist()
        values = zip(found["per_class"].tolist(), occurs, strict=True)
        return {
            "miou": found["miou"].item(),
            "pixel_accuracy": (confusion.diag().sum() / confusion.sum()).item(),
            "per_class": [iou if occurring else None for iou, occurring in values],
        }
