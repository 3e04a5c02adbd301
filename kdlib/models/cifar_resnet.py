"""The CIFAR-style residual networks of the distillation literature.

ResNet-8 to ResNet-110 (He 2016, arXiv 1512.03385, section 4.2; shortcuts with a projection) and
the 4 times wider ResNet-8x4 and ResNet-32x4 with a stem of 32 channels (Tian 2020, arXiv
1910.10699). The Scenes networks have the same three stages at a quarter to a
sixteenth of the image's size, so that a laptop trains them in a minute.
"""

from torch import nn

from kdlib.models.residual import BasicBlock, conv3x3, initialise
from kdlib.models.staged import StagedNetwork

CIFAR_WIDTHS = (16, 16, 32, 64)
WIDE_WIDTHS = (32, 64, 128, 256)


class ThreeStageResNet(StagedNetwork):
    """Stem, three stages of basic blocks, each at half the resolution of the last, a classifier.

    Args:
        classes: number of classes K.
        blocks: basic blocks in each stage.
        widths: channels of the stem and of the three stages.
        strides: of the stem and of the three stages.
    """

    def __init__(
        self,
        classes: int,
        blocks: int,
        widths: tuple[int, int, int, int] = CIFAR_WIDTHS,
        strides: tuple[int, int, int, int] = (1, 1, 2, 2),
    ) -> None:
        stem = nn.Sequential(
            conv3x3(3, widths[0], strides[0]), nn.BatchNorm2d(widths[0]), nn.ReLU(inplace=True)
        )
        stages = [
            _stage(inputs, outputs, blocks, stride)
            for inputs, outputs, stride in zip(widths, widths[1:], strides[1:], strict=False)
        ]
        super().__init__(stem, stages, nn.Linear(widths[-1], classes))
        initialise(self)


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs) for _ in range(blocks - 1)))


def cifar_resnet(classes: int, depth: int) -> ThreeStageResNet:
    """ResNet of ``depth`` = 6 n + 2 layers and 16, 32, 64 channels."""
    return ThreeStageResNet(classes, (depth - 2) // 6)


def wide_cifar_resnet(classes: int, depth: int) -> ThreeStageResNet:
    """ResNet of ``depth`` = 6 n + 2 layers and 64, 128, 256 channels (``x4``)."""
    return ThreeStageResNet(classes, (depth - 2) // 6, WIDE_WIDTHS)
