"""ShuffleNetV2 for CIFAR (Ma 2018, arXiv 1807.11164).

The version of the distillation literature (Tian 2020, arXiv 1910.10699): torchvision's network of
width 1 behind a stem of one 1x1 convolution that keeps the image's size.
"""

from torch import nn
from torchvision.models import ShuffleNetV2
from torchvision.ops import Conv2dNormActivation

from kdlib.models.staged import StagedNetwork

UNITS = (4, 8, 4)
WIDTHS = (24, 116, 232, 464, 1024)


def cifar_shuffle_v2(classes: int) -> StagedNetwork:
    """Stages of 116, 232 and 1024 channels at 1/2, 1/4 and 1/8 of the image."""
    layers = ShuffleNetV2(UNITS, WIDTHS, classes)
    stages = layers.stage2, layers.stage3, nn.Sequential(layers.stage4, layers.conv5)
    return StagedNetwork(Conv2dNormActivation(3, WIDTHS[0], 1), stages, layers.fc)
