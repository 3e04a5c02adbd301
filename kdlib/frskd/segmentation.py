"""Segmentation: scenes with masks, networks (BiFPNs and a head on a backbone), and their IoU.

The ``stages`` of the output are the levels of the last pyramid. FRSKD's self-teacher stacks further
ones upon them, which are not deployed (Ji 2021, arXiv 2103.08273).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdlib.data.image_data import IGNORED, ImageData, fingerprint
from kdlib.data.scenes import Composition, Scenes, load_scenes
from kdlib.errors import KdlibError
from kdlib.frskd.self_teacher import BiFPN, PixelHead, reduced
from kdlib.models.cifar import Widths, basic_resnet, initialise
from kdlib.models.output import Output, StagedBackbone
from kdlib.process_group import ALONE, ProcessGroup

EFFICIENT_STAGES = {"2": "p2", "3": "p3", "5": "p4", "7": "p5"}
EFFICIENT_CHANNELS = (24, 40, 112, 320, 320, 320)
"""Of EfficientNet-B0 and -B1 alike at 1/4 to 1/32 of the image; of P6 and P7, made by pooling."""


def kinds_seen(scenes: Scenes) -> Tensor:
    """(B, H, W) uint8: 1 + the kind of the object that is seen at a pixel; 0: background."""
    found = functional.pad(scenes.objects + 1, (1, 0))
    return found.gather(1, scenes.owners.flatten(1).long()).view_as(scenes.owners).byte()


def load_scene_masks(found: Callable[..., Composition], split: str, **options: Any) -> ImageData:
    """As :func:`kdlib.data.scenes.load_scenes`, but pixels have classes: kinds, or background."""
    composition = found(split, **options)
    arrays = composition.cached("-masks", lambda batch: {"masks": kinds_seen(batch).numpy()})
    masks, classes = torch.from_numpy(arrays["masks"]), ("background", *composition.bank.kinds)
    data = load_scenes(found, split, **options)
    labels, digest = torch.zeros_like(data.labels), fingerprint(("masks", data.fingerprint))
    return ImageData(data.images, labels, classes, data.mean, data.std, digest, masks=masks)


class Segmenter(nn.Module):
    """A backbone with maps of such ``channels``, fine to coarse; BiFPNs; a :class:`PixelHead`.

    ``layers`` are the pyramids, one upon the other, and ``depth`` is that of the head.
    """

    def __init__(
        self,
        backbone: nn.Module,
        channels: Sequence[int],
        classes: int,
        width: int,
        *,
        layers: int = 1,
        depth: int = 1,
    ) -> None:
        super().__init__()
        widths = (width,) * len(channels)
        inputs = [channels, *[widths] * (layers - 1)]
        self.pyramid = nn.Sequential(*(BiFPN(one, widths, depth=1) for one in inputs))
        self.head = PixelHead(width, classes, depth)
        initialise(self)
        self.backbone = backbone  # after the others: it has its own, perhaps trained, weights

    def forward(self, images: Tensor) -> Output:
        """Images (B, 3, H, W), normalised -> logits (B, K, H, W), the pyramid's levels, pooled."""
        levels = self.pyramid(self.backbone(images))
        logits = self.head(levels, (images.shape[-2], images.shape[-1]))
        return Output(logits, levels, levels[-1].mean((2, 3)))


def scenes_segmenter(classes: int, widths: Widths, width: int) -> Segmenter:
    """The stages of a Scenes classifier at 1/4 to 1/16 of the image, with a pyramid."""
    network = basic_resnet(classes, widths)
    return Segmenter(StagedBackbone(network.stem, network.stages), widths[1:], classes, width)


class EfficientBackbone(nn.Module):
    """Stages of torchvision's EfficientNet at 1/4 to 1/32, and two coarser levels by pooling."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        from torchvision.models.feature_extraction import create_feature_extractor

        self.network = create_feature_extractor(network.features, EFFICIENT_STAGES)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) -> P2 to P7: (B, C, h, w), each half the size of the one before."""
        levels = list(self.network(images).values())
        while len(levels) < len(EFFICIENT_CHANNELS):
            levels.append(reduced(levels[-1]))
        return tuple(levels)


def efficientdet(
    classes: int, backbone: str, width: int, layers: int, weights: str | None = None
) -> Segmenter:
    """EfficientDet (Tan 2020, arXiv 1911.09070) for pixels: as many ``layers`` of BiFPN as there.

    ``weights`` are torchvision's, of the backbone alone.
    """
    from torchvision import models

    from kdlib.models.torchvision import pretrained

    network = EfficientBackbone(pretrained(getattr(models, backbone), weights))
    return Segmenter(network, EFFICIENT_CHANNELS, classes, width, layers=layers, depth=3)


class SegmentationMarks:
    """How well masks of K classes fit the batches of all processes: IoU from a confusion table."""

    def __init__(self, classes: int, world: ProcessGroup = ALONE) -> None:
        self.classes, self.world = classes, world
        self.confusion = torch.zeros(classes, classes, dtype=torch.int64)

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count logits (B, K, H, W) for labels (B, H, W); a ``KdlibError`` if a label has none."""
        truth, predicted = (values.flatten().cpu() for values in (labels, logits.argmax(1)))
        counted = truth != IGNORED
        largest = int(truth.where(counted, 0).max())
        if largest >= self.classes or logits.shape[1] != self.classes:
            raise KdlibError(
                f"Masks of {self.classes} classes, the largest {largest}, do not fit logits of "
                f"{logits.shape[1]}; evaluate with the classes that the network was made for."
            )
        cells = truth[counted].long() * self.classes + predicted[counted]
        self.confusion += cells.bincount(minlength=self.classes**2).view_as(self.confusion)

    def results(self) -> dict[str, Any]:
        """Fractions over all pixels that count; a ``KdlibError`` if none does.

        ``miou``, the mean over the classes that occur in the truth or in the answers;
        ``pixel_accuracy``; ``per_class``, the IoU of each, ``None`` where it occurs in neither.
        """
        confusion = torch.stack(self.world.gathered(self.confusion)).sum(0)
        if confusion.sum() == 0:
            raise KdlibError(
                f"No pixel of these masks counts (all are {IGNORED}); evaluate at least one mask "
                "with a pixel that does."
            )
        counts = confusion.float()
        both = counts.diag()
        either = counts.sum(0) + counts.sum(1) - both
        iou = torch.where(either > 0, both / either, 0)
        pairs = zip(iou.tolist(), (either > 0).tolist(), strict=True)
        return {
            "miou": (iou / (either > 0).sum()).sum().item(),
            "pixel_accuracy": (confusion.diag().sum() / confusion.sum()).item(),
            "per_class": [value if occurs else None for value, occurs in pairs],
        }
