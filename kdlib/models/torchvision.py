"""torchvision's networks: unmodified with their stages tapped, or with a stem for small images."""

import os
from collections.abc import Sequence
from functools import partial
from pickle import UnpicklingError
from typing import Any, cast
from unittest.mock import patch
from urllib.error import URLError

from torch import Tensor, hub, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.ops import Conv2dNormActivation

from kdlib.errors import KdlibError, check_known
from kdlib.models.cifar import conv3x3, conv_norm, initialise
from kdlib.models.output import Output, StagedNetwork


def pretrained(network: Any, weights: str | None, build: Any = None) -> Any:
    """Build a ``network`` of torchvision, or what has it as its backbone, with named ``weights``.

    torchvision's files are pickles, and a file that is there is taken without a look at its hash:
    here they are read as weights alone, and no code in them is run.
    """
    valid = models.get_model_weights(network).__members__
    if weights is not None:
        check_known(f"weights of {network.__name__}", weights, valid)
    cache = f"{hub.get_dir()}/checkpoints"
    try:
        with patch.dict(os.environ, TORCH_FORCE_WEIGHTS_ONLY_LOAD="1"):
            return build() if build else network(weights=weights)
    except URLError as error:
        url = valid[str(weights)].url
        text = f"Cannot download the weights '{weights}' ({error.reason}): put {url} in {cache}."
        raise KdlibError(text) from error
    except (UnpicklingError, EOFError) as error:
        text = f"{cache} holds a file that is no weights '{weights}'; move it away, and run again."
        raise KdlibError(text) from error


class TappedNetwork(nn.Module):
    """A classifier of ``torchvision.models`` with its nodes of the names ``stages`` returned too.

    The layer ``logits`` is replaced where it is not of K classes; ``weights`` are torchvision's.
    """

    def __init__(
        self, classes: int, network: str, stages: Any, logits: str, weights: str | None = None
    ) -> None:
        super().__init__()
        whole = pretrained(getattr(models, network), weights)
        layer = cast("nn.Linear", whole.get_submodule(logits))
        if layer.out_features != classes:
            whole.set_submodule(logits, nn.Linear(layer.in_features, classes))
        self.network = create_feature_extractor(whole, [*stages, "flatten", logits])

    def forward(self, images: Tensor) -> Output:
        """Images (B, 3, H, W), normalised -> logits, stages, embedding."""
        *stages, embedding, logits = self.network(images).values()
        return Output(logits, tuple(stages), embedding)


def resnet_cifar(classes: int, block: str, counts: Sequence[int]) -> StagedNetwork:
    """ImageNet's layout (He 2016, arXiv 1512.03385) after a 3x3 convolution: stages at 1 to 1/8."""
    layers = models.ResNet(getattr(models.resnet, block), counts, classes)
    stem = nn.Sequential(conv3x3(3, 64), layers.bn1, layers.relu)
    stages = layers.layer1, layers.layer2, layers.layer3, layers.layer4
    return initialise(StagedNetwork(stem, stages, layers.fc))


def mobilenet_v2_cifar(classes: int) -> StagedNetwork:
    """MobileNetV2, half as wide (arXiv 1801.04381): stages at 1/2 to 1/16, of both signs.

    As in Tian 2020 (arXiv 1910.10699) its first block expands too, and ReLU takes ReLU6's place.
    """
    # Channels at full width, blocks, and stride of the first.
    blocks = (24, 2, 1), (32, 3, 2), (64, 4, 2), (96, 3, 1), (160, 3, 2), (320, 1, 1)
    expanded = [[1, 16, 1, 1], *([6, *block] for block in blocks)]
    network = models.MobileNetV2(classes, 0.5, expanded, round_nearest=1, dropout=0)
    layers = network.features
    layers.get_submodule("1.conv").insert(0, initialise(conv_norm(16, 16, 1)))
    for block in [one for one in network.modules() if isinstance(one, Conv2dNormActivation)]:
        block[-1] = nn.ReLU(inplace=True)
    stages = layers[1:4], layers[4:7], layers[7:14], layers[14:18]
    return StagedNetwork(layers[0], stages, cast("nn.Linear", network.classifier[-1]), layers[18])


def shuffle_v2_cifar(classes: int) -> StagedNetwork:
    """ShuffleNetV2 (Ma 2018, arXiv 1807.11164), stages of 116, 232, 464 channels at 1/2 to 1/8."""
    layers = models.ShuffleNetV2([4, 8, 4], [24, 116, 232, 464, 1024], classes)
    stages = layers.stage2, layers.stage3, layers.stage4
    return StagedNetwork(conv_norm(3, 24, 1), stages, layers.fc, layers.conv5)


def scenes_mobile(classes: int) -> StagedNetwork:
    """MobileNetV2's blocks (arXiv 1801.04381), in all about as large as scenes_medium."""
    convolution = partial(conv_norm, activation=nn.ReLU6)
    stem = nn.Sequential(convolution(3, 16, 3, 2), convolution(16, 16, 3, 2))
    # A strided depthwise convolution is slow in bfloat16 on a CPU. A pixel at least is left.
    half_size = nn.AvgPool2d(2, ceil_mode=True)
    first, second = InvertedResidual(16, 16, 1, 2), InvertedResidual(16, 32, 1, 4)
    third = InvertedResidual(32, 64, 1, 6), InvertedResidual(64, 64, 1, 4), convolution(64, 128, 1)
    stages = first, nn.Sequential(half_size, second), nn.Sequential(half_size, *third)
    return initialise(StagedNetwork(stem, stages, nn.Linear(128, classes)))
