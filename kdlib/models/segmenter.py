"""Networks that give each pixel a class: a backbone, a BiFPN on its stages, a head.

There is one pyramid: those that EfficientDet (Tan 2020, arXiv 1911.09070) stacks upon it are
FRSKD's self-teacher, which is not deployed (Ji 2021, arXiv 2103.08273). So the ``stages`` of the
output are the levels of that first pyramid.
"""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor, nn
from torchvision import models as tv
from torchvision.models.feature_extraction import create_feature_extractor

from kdlib.models.cifar_resnet import ThreeStageResNet
from kdlib.models.output import Output
from kdlib.models.pixel_teacher import PixelHead
from kdlib.models.residual import initialise
from kdlib.models.self_teacher import BiFPN, reduced
from kdlib.models.staged import StagedNetwork
from kdlib.models.tapped import pretrained

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


class StagedBackbone(nn.Module):
    """The stages of one of our classifiers, all or the first ``count``, without its classifier."""

    def __init__(self, network: StagedNetwork, count: int | None = None) -> None:
        super().__init__()
        self.stem, self.stages = network.stem, network.stages[:count]

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W) -> the stages' features, fine to coarse."""
        features, stages = self.stem(images), []
        for stage in self.stages:
            features = stage(features)
            stages.append(features)
        return tuple(stages)


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
