"""Detectors by name: small ones that train on Scenes in minutes, and torchvision's own.

All take the number of classes, ``image_size`` (the side in pixels to which images are resized), and
``mean`` and ``std`` of each channel, which normalise them.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from math import inf, isfinite
from typing import Any, TypeAlias

from torch import Tensor, nn
from torchvision import models as tv
from torchvision.models import detection
from torchvision.models.detection import RetinaNet
from torchvision.models.detection._utils import retrieve_out_channels
from torchvision.models.detection.anchor_utils import AnchorGenerator, DefaultBoxGenerator
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.ssd import SSD, SSDHead
from torchvision.ops import FeaturePyramidNetwork

from kdlib.detection.detector import Detector
from kdlib.errors import KdlibError
from kdlib.models.cifar import basic_resnet
from kdlib.models.output import StagedBackbone
from kdlib.models.torchvision import pretrained

Channels: TypeAlias = Sequence[float] | None
Widths: TypeAlias = tuple[int, int, int, int]
SMALLEST = 32  # pixels of a side: the coarsest map of most backbones is a 32nd of the image


def _checked(image_size: int, mean: Channels, std: Channels) -> tuple[int, dict[str, Any]]:
    """The size, and ``image_mean`` and ``image_std`` as torchvision takes them; None: its own."""
    if not isinstance(image_size, int) or image_size < SMALLEST:
        raise KdlibError(
            f"image_size of a detector is {image_size!r}; give whole pixels, at least {SMALLEST}."
        )
    channels = {}
    for name, values, least in (("mean", mean, -inf), ("std", std, 0)):
        if values is not None:
            numbers = channels[f"image_{name}"] = [*map(float, values)]
            if len(numbers) != 3 or not all(isfinite(one) and one > least for one in numbers):
                kind = "numbers" if name == "mean" else "positive numbers"
                text = f"{name} of a detector is {numbers}; give three {kind}, one per channel."
                raise KdlibError(text)
    return image_size, channels


# torchvision's heads on our own stages, for the objects of Scenes.
COARSE = 2  # stages that are read: at 1/8 and at 1/16 of the image
SSD_SCALES, SSD_RATIO = (0.28, 0.34, 0.4), 1.3
RETINA_SCALES, RETINA_RATIOS = (0.27, 0.33), (0.75, 1.33)
SELECTION = {"score_thresh": 0.01, "detections_per_img": 30}
HALF, QUARTER = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


class CoarseStages(nn.Module):
    """The coarse stages of a Scenes classifier, with a pyramid of so many channels, if any."""

    def __init__(self, widths: Widths, pyramid: int = 0) -> None:
        super().__init__()
        network = basic_resnet(1, widths)
        self.stages = StagedBackbone(network.stem, network.stages)
        channels = list(widths[-COARSE:])
        self.pyramid = FeaturePyramidNetwork(channels, pyramid) if pyramid else nn.Identity()
        self.out_channels = pyramid or channels

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Images (B, 3, H, W) -> features (B, C, h, w) at 1/8 and 1/16, by "0" and "1"."""
        stages = self.stages(images)[-COARSE:]
        return self.pyramid(OrderedDict((str(i), stage) for i, stage in enumerate(stages)))


def scenes_ssd(
    classes: int,
    widths: Widths,
    image_size: int = 64,
    mean: Channels = HALF,
    std: Channels = QUARTER,
) -> Detector:
    """SSD with four anchors per position (Liu 2016, arXiv 1512.02325)."""
    side, channels = _checked(image_size, mean, std)
    network = SSD(
        CoarseStages(widths),
        DefaultBoxGenerator([[SSD_RATIO]] * COARSE, scales=list(SSD_SCALES)),
        (side, side),
        classes + 1,
        topk_candidates=100,
        **channels,
        **SELECTION,
    )
    return Detector(network, classes)


def scenes_retinanet(
    classes: int,
    widths: Widths,
    pyramid: int,
    image_size: int = 64,
    mean: Channels = HALF,
    std: Channels = QUARTER,
) -> Detector:
    """RetinaNet with two anchors per position and batch norm in its heads (arXiv 1708.02002)."""
    side, channels = _checked(image_size, mean, std)
    sizes = tuple((scale * side,) for scale in RETINA_SCALES)
    head = RetinaNetHead(pyramid, len(RETINA_RATIOS), classes + 1, norm_layer=nn.BatchNorm2d)
    network = RetinaNet(
        CoarseStages(widths, pyramid),
        classes + 1,
        min_size=side,
        max_size=side,
        anchor_generator=AnchorGenerator(sizes, (RETINA_RATIOS,) * COARSE),
        head=head,
        topk_candidates=200,
        **channels,
        **SELECTION,
    )
    return Detector(network, classes)


# Detectors of torchvision, for any size of image.
SOURCES = {
    "ssd300_vgg16": ("vgg16", 300),
    "ssdlite320_mobilenet_v3_large": ("mobilenet_v3_large", 320),
    "retinanet_resnet50_fpn": ("resnet50", 800),
    "fasterrcnn_mobilenet_v3_large_fpn": ("mobilenet_v3_large", 800),
    "fasterrcnn_resnet50_fpn": ("resnet50", 800),
}
"""The backbone of each, and the side in pixels of its images."""
SSD_UNPADDED, SSD_SMALLEST = 2, 268
"""Levels of SSD300 that take two pixels off their map, and the least size that leaves them one."""
LONGEST = 1333 / 800
"""Longest side of an image over its shortest side, at most: torchvision's bound."""


def torchvision_detector(
    classes: int,
    network: str,
    image_size: int | None = None,
    mean: Channels = None,
    std: Channels = None,
    weights: str | None = None,
) -> Detector:
    """One of torchvision's detectors; ``weights`` are those of its backbone.

    - SSD300 (arXiv 1512.02325). Its "DEFAULT" ``weights``, "IMAGENET1K_FEATURES", are the
      original's: the network's own ``mean`` and ``std`` are for them; for "IMAGENET1K_V1" give
      ImageNet's. At another size than 300 the anchors spread over the maps as they come out; below
      268 the two coarsest, which would be empty, are left out.
    - SSDLite (arXiv 1905.02244): its anchors fit any size.
    - RetinaNet (arXiv 1708.02002) and Faster R-CNN (arXiv 1506.01497) on a feature pyramid:
      ``image_size`` is the shorter side; the longer one is kept in proportion, up to 5/3 of it.
      Anchors have the sizes in pixels that they are published with, 32 to 512.
    """
    backbone, own = SOURCES[network]
    side, options = _checked(image_size or own, mean, std)
    if network == "ssd300_vgg16" and weights == "DEFAULT":
        weights = "IMAGENET1K_FEATURES"
    if network.endswith("fpn"):
        options |= {"min_size": side, "max_size": round(side * LONGEST)}
    head = {"num_classes": classes + 1, "weights": None, "weights_backbone": weights}
    build = partial(getattr(detection, network), **head, progress=False, **options)
    built = pretrained(getattr(tv, backbone), weights, build)
    if network == "ssd300_vgg16" and side != own:
        built = _resized_ssd300(built, classes, side)
    if network == "ssdlite320_mobilenet_v3_large":
        built.transform.fixed_size = (side, side)
        built.transform.min_size, built.transform.max_size = (side,), side
    return Detector(built, classes)


def _resized_ssd300(network: Any, classes: int, size: int) -> SSD:
    """SSD300's backbone under anchors and heads for another size of image."""
    backbone, old = network.backbone, network.anchor_generator
    if size < SSD_SMALLEST:
        backbone.extra = backbone.extra[:-SSD_UNPADDED]
    levels = 1 + len(backbone.extra)
    anchors = DefaultBoxGenerator(old.aspect_ratios[:levels], scales=old.scales[: levels + 1])
    channels = retrieve_out_channels(backbone, (size, size))
    head = SSDHead(channels, anchors.num_anchors_per_location(), classes + 1)
    mean, std = network.transform.image_mean, network.transform.image_std
    return SSD(backbone, anchors, (size, size), classes + 1, mean, std, head=head)
