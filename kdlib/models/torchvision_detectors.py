"""Detectors of torchvision, by their own names, for any size of image.

``weights`` are those of the backbone, as in the published protocols. With them torchvision freezes
batch norm and the first layers, and SSDLite's backbone ends in twice the channels: a network that
began with weights takes up its checkpoint only if it is made with the same weights again.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from torch import nn
from torchvision import models as tv
from torchvision.models import detection
from torchvision.models.detection._utils import retrieve_out_channels
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.ssd import SSD, SSDHead

from kdlib.models.detectors import Detector
from kdlib.models.downloads import fetching

Channels: TypeAlias = Sequence[float] | None
SSD_SIZE = 300
SSD_UNPADDED, SSD_SMALLEST = 2, 268
"""Levels of SSD300 that take two pixels off their map, and the least size that leaves them one."""
LONGEST = 1333 / 800
"""Longest side of an image over its shortest side, at most: torchvision's bound."""


def ssd300_vgg16(
    classes: int,
    image_size: int = SSD_SIZE,
    mean: Channels = None,
    std: Channels = None,
    weights: str | None = None,
) -> Detector:
    """SSD on VGG-16 (Liu 2016, arXiv 1512.02325).

    ``weights`` "IMAGENET1K_FEATURES" (here the "DEFAULT") are the original's, which take images of
    0 to 255: the network's own ``mean`` and ``std`` are for them. For "IMAGENET1K_V1" give
    ImageNet's.

    At another size than 300 the anchors spread over the maps as they come out, and below 268 the
    two coarsest levels, whose maps would be empty, are left out.
    """
    name = "IMAGENET1K_FEATURES" if weights == "DEFAULT" else weights
    options = _channels(mean, std)
    network = _built(detection.ssd300_vgg16, tv.vgg16, classes, name, options)
    if image_size != SSD_SIZE:
        network = _resized_ssd300(network, classes, image_size)
    return Detector(network, classes)


def ssdlite320_mobilenet_v3_large(
    classes: int,
    image_size: int = 320,
    mean: Channels = None,
    std: Channels = None,
    weights: str | None = None,
) -> Detector:
    """SSDLite on MobileNetV3 (Howard 2019, arXiv 1905.02244); its anchors fit any size."""
    build, options = detection.ssdlite320_mobilenet_v3_large, _channels(mean, std)
    network = _built(build, tv.mobilenet_v3_large, classes, weights, options)
    transform = network.transform
    transform.fixed_size = (image_size, image_size)
    transform.min_size, transform.max_size = (image_size,), image_size
    return Detector(network, classes)


def with_pyramid(
    classes: int,
    build: Callable[..., nn.Module],
    backbone: Callable[..., nn.Module],
    image_size: int = 800,
    mean: Channels = None,
    std: Channels = None,
    weights: str | None = None,
) -> Detector:
    """RetinaNet (arXiv 1708.02002) or Faster R-CNN (arXiv 1506.01497) on a feature pyramid.

    ``image_size`` is the shorter side; the longer one is kept in proportion, up to 5/3 of it.
    Anchors have the sizes in pixels that they are published with, 32 to 512.
    """
    sizes = {"min_size": image_size, "max_size": round(image_size * LONGEST)}
    return Detector(
        _built(build, backbone, classes, weights, sizes | _channels(mean, std)), classes
    )


def _built(
    build: Callable[..., nn.Module],
    backbone: Callable[..., nn.Module],
    classes: int,
    weights: str | None,
    options: dict[str, Any],
) -> Any:
    with fetching(backbone, weights):
        return build(
            weights=None,
            weights_backbone=weights,
            num_classes=classes + 1,
            progress=False,
            **options,
        )


def _channels(mean: Channels, std: Channels) -> dict[str, list[float]]:
    given = {"image_mean": mean, "image_std": std}
    return {name: [*map(float, values)] for name, values in given.items() if values is not None}


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
