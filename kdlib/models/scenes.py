"""A small network of another kind than the Scenes teacher: MobileNetV2's blocks.

Inverted residuals of depthwise convolutions (Sandler 2018, arXiv 1801.04381), at the resolutions
of the other Scenes networks and with about as many parameters as ``scenes_medium``.
"""

from torch import nn
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.ops import Conv2dNormActivation

from kdlib.models.cifar import initialise
from kdlib.models.output import StagedNetwork

EMBEDDING = 128


def scenes_mobile(classes: int) -> StagedNetwork:
    """Stages of 16, 32 and 128 channels at 1/4, 1/8 and 1/16 of the image.

    Its blocks end in a convolution without activation, so the first two stages have both signs.
    The resolution is halved by pooling, because a strided depthwise convolution's gradient is
    slow in bfloat16 on a CPU: with it a step takes five times as long as ``scenes_medium``'s.
    """
    stem = nn.Sequential(_convolution(3, 16, 3, 2), _convolution(16, 16, 3, 2))
    stages = (
        _block(16, 16, expansion=2),
        nn.Sequential(_half_size(), _block(16, 32, expansion=4)),
        nn.Sequential(
            _half_size(),
            _block(32, 64, expansion=6),
            _block(64, 64, expansion=4),
            _convolution(64, EMBEDDING, 1, 1),
        ),
    )
    network = StagedNetwork(stem, stages, nn.Linear(EMBEDDING, classes))
    initialise(network)
    return network


def _convolution(inputs: int, outputs: int, size: int, stride: int) -> Conv2dNormActivation:
    return Conv2dNormActivation(inputs, outputs, size, stride, activation_layer=nn.ReLU6)


def _block(inputs: int, outputs: int, expansion: int) -> InvertedResidual:
    return InvertedResidual(inputs, outputs, 1, expansion)


def _half_size() -> nn.AvgPool2d:
    return nn.AvgPool2d(2, ceil_mode=True)  # an image of any size keeps at least one pixel
