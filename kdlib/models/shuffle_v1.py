"""ShuffleNet with three groups for CIFAR (Zhang 2018, arXiv 1707.01083).

The version of the distillation literature (Tian 2020, arXiv 1910.10699): a stem of one 1x1
convolution that keeps the image's size, and a ReLU after the depthwise convolution too.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import Conv2dNormActivation

from kdlib.models.staged import StagedNetwork

GROUPS = 3
WIDTHS = (24, 240, 480, 960)
UNITS = (4, 8, 4)


class ShuffleUnit(nn.Module):
    """Grouped 1x1, channel shuffle, depthwise 3x3, grouped 1x1, joined to a shortcut (figure 2).

    Args:
        inputs: channels coming in.
        outputs: channels going out.
        stride: 1 adds the shortcut; 2 halves the resolution and appends the pooled shortcut,
            so that the convolutions make only the ``outputs - inputs`` new channels.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        made = outputs - inputs if stride == 2 else outputs
        middle = made // 4
        groups = 1 if inputs == WIDTHS[0] else GROUPS  # so few channels are not grouped
        self.convolutions = nn.Sequential(
            Conv2dNormActivation(inputs, middle, 1, groups=groups),
            nn.ChannelShuffle(groups),
            Conv2dNormActivation(middle, middle, 3, stride, groups=middle),
            Conv2dNormActivation(middle, made, 1, groups=GROUPS, activation_layer=None),
        )
        self.pool = nn.AvgPool2d(3, 2, padding=1) if stride == 2 else None

    def forward(self, features: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride), after the last ReLU."""
        made = self.convolutions(features)
        if self.pool is None:
            return functional.relu(made + features, inplace=True)
        return functional.relu(torch.cat([made, self.pool(features)], 1), inplace=True)


def cifar_shuffle_v1(classes: int) -> StagedNetwork:
    """Stages of 240, 480 and 960 channels at 1/2, 1/4 and 1/8 of the image."""
    sizes = zip(WIDTHS, WIDTHS[1:], UNITS, strict=False)
    stages = [_stage(inputs, outputs, units) for inputs, outputs, units in sizes]
    stem = Conv2dNormActivation(3, WIDTHS[0], 1)
    return StagedNetwork(stem, stages, nn.Linear(WIDTHS[-1], classes))


def _stage(inputs: int, outputs: int, units: int) -> nn.Sequential:
    first = ShuffleUnit(inputs, outputs, stride=2)
    return nn.Sequential(first, *(ShuffleUnit(outputs, outputs) for _ in range(units - 1)))
