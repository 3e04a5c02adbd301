"""The CIFAR-style residual networks of the distillation literature.

ResNet-8 to ResNet-110 (He 2016, arXiv 1512.03385, section 4.2; shortcuts with a projection) and
the 4 times wider ResNet-8x4 and ResNet-32x4 with a stem of 32 channels (Tian 2020, arXiv
1910.10699). The Scenes networks have the same three stages at a quarter to a
sixteenth of the image's size, so that a laptop trains them in a minute.
"""

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import MobileNetV2, ResNet, ShuffleNetV2
from torchvision.models.resnet import BasicBlock as ext_BasicBlock
from torchvision.models.resnet import Bottleneck
from torchvision.ops import Conv2dNormActivation

from kdlib.models.output import Output, StagedNetwork

# MobileNetV2 of half the width for CIFAR (Sandler 2018, arXiv 1801.04381).
# Expansion, channels at full width, blocks, stride of the first block.
BLOCKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def mobilenet_v2_cifar(classes: int) -> StagedNetwork:
    """Stages of 12, 16, 48 and 1280 channels at 1/2, 1/4, 1/8 and 1/16 of the image.

    Its blocks end in a convolution without activation, so the first three stages have both signs.
    """
    network = MobileNetV2(
        classes, width_mult=0.5, inverted_residual_setting=BLOCKS, round_nearest=1, dropout=0
    )
    layers = network.features
    stages = layers[1:4], layers[4:7], layers[7:14], layers[14:]
    return StagedNetwork(layers[0], stages, network.classifier[-1])


# The residual block that the CIFAR-style and the Scenes networks are built from.
class BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to a shortcut (He 2016, arXiv 1512.03385).

    Args:
        inputs: channels coming in.
        outputs: channels going out.
        stride: 1, or 2 to halve the resolution.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            projection = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(outputs))

    def forward(self, features: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride), after the last ReLU."""
        hidden = functional.relu(self.bn1(self.conv1(features)), inplace=True)
        hidden = self.bn2(self.conv2(hidden))
        return functional.relu(hidden + self.shortcut(features), inplace=True)


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution without bias that keeps the size (or halves it)."""
    return nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)


def initialise(network: nn.Module) -> None:
    """He's normal initialisation of the convolutions; batch norm starts as the identity."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


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
            _cifar_resnet_stage(inputs, outputs, blocks, stride)
            for inputs, outputs, stride in zip(widths, widths[1:], strides[1:], strict=False)
        ]
        super().__init__(stem, stages, nn.Linear(widths[-1], classes))
        initialise(self)


def _cifar_resnet_stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = BasicBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(BasicBlock(outputs, outputs) for _ in range(blocks - 1)))


def cifar_resnet(classes: int, depth: int) -> ThreeStageResNet:
    """ResNet of ``depth`` = 6 n + 2 layers and 16, 32, 64 channels."""
    return ThreeStageResNet(classes, (depth - 2) // 6)


def wide_cifar_resnet(classes: int, depth: int) -> ThreeStageResNet:
    """ResNet of ``depth`` = 6 n + 2 layers and 64, 128, 256 channels (``x4``)."""
    return ThreeStageResNet(classes, (depth - 2) // 6, WIDE_WIDTHS)


# ResNet-18 for CIFAR, the layout of ImageNet's (He 2016, arXiv 1512.03385).
def resnet18_cifar(classes: int) -> StagedNetwork:
    """Stages of 64, 128, 256 and 512 channels at 1, 1/2, 1/4 and 1/8 of the image."""
    layers = ResNet(ext_BasicBlock, (2, 2, 2, 2), classes)
    stem = nn.Sequential(conv3x3(3, 64), layers.bn1, layers.relu)
    stages = layers.layer1, layers.layer2, layers.layer3, layers.layer4
    network = StagedNetwork(stem, stages, layers.fc)
    initialise(network)
    return network


# ResNet-50 for CIFAR (He 2016, arXiv 1512.03385).
def resnet50_cifar(classes: int) -> StagedNetwork:
    """Stages of 256, 512, 1024 and 2048 channels at 1, 1/2, 1/4 and 1/8 of the image."""
    layers = ResNet(Bottleneck, (3, 4, 6, 3), classes)
    stem = nn.Sequential(conv3x3(3, 64), layers.bn1, layers.relu)
    stages = layers.layer1, layers.layer2, layers.layer3, layers.layer4
    network = StagedNetwork(stem, stages, layers.fc)
    initialise(network)
    return network


# ShuffleNet with three groups for CIFAR (Zhang 2018, arXiv 1707.01083).
GROUPS = 3
SHUFFLE_V1_WIDTHS = (24, 240, 480, 960)
SHUFFLE_V1_UNITS = (4, 8, 4)


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
        groups = 1 if inputs == SHUFFLE_V1_WIDTHS[0] else GROUPS  # so few channels are not grouped
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
    sizes = zip(SHUFFLE_V1_WIDTHS, SHUFFLE_V1_WIDTHS[1:], SHUFFLE_V1_UNITS, strict=False)
    stages = [_shuffle_v1_stage(inputs, outputs, units) for inputs, outputs, units in sizes]
    stem = Conv2dNormActivation(3, SHUFFLE_V1_WIDTHS[0], 1)
    return StagedNetwork(stem, stages, nn.Linear(SHUFFLE_V1_WIDTHS[-1], classes))


def _shuffle_v1_stage(inputs: int, outputs: int, units: int) -> nn.Sequential:
    first = ShuffleUnit(inputs, outputs, stride=2)
    return nn.Sequential(first, *(ShuffleUnit(outputs, outputs) for _ in range(units - 1)))


# ShuffleNetV2 for CIFAR (Ma 2018, arXiv 1807.11164).
SHUFFLE_V2_UNITS = (4, 8, 4)
SHUFFLE_V2_WIDTHS = (24, 116, 232, 464, 1024)


def cifar_shuffle_v2(classes: int) -> StagedNetwork:
    """Stages of 116, 232 and 1024 channels at 1/2, 1/4 and 1/8 of the image."""
    layers = ShuffleNetV2(SHUFFLE_V2_UNITS, SHUFFLE_V2_WIDTHS, classes)
    stages = layers.stage2, layers.stage3, nn.Sequential(layers.stage4, layers.conv5)
    return StagedNetwork(Conv2dNormActivation(3, SHUFFLE_V2_WIDTHS[0], 1), stages, layers.fc)


# VGG with batch norm for CIFAR (Simonyan, Zisserman 2015, arXiv 1409.1556).
# No pooling stands between the last two blocks: they are one stage.
STAGES = ((64,), (128,), (256,), (512, 512))


def cifar_vgg(classes: int, repeats: int) -> StagedNetwork:
    """VGG whose stages are at 1, 1/2, 1/4 and 1/8 of the image.

    Args:
        classes: number of classes K.
        repeats: convolutions in each of the five blocks (1 for VGG-8, 2 for VGG-13).
    """
    widths = [[width for width in stage for _ in range(repeats)] for stage in STAGES]
    stages, inputs = [_convolutions(3, widths[0])], widths[0][-1]
    for stage in widths[1:]:
        stages.append(nn.Sequential(nn.MaxPool2d(2), _convolutions(inputs, stage)))
        inputs = stage[-1]
    network = StagedNetwork(nn.Identity(), stages, nn.Linear(inputs, classes))
    initialise(network)
    return network


def _convolutions(inputs: int, widths: Sequence[int]) -> nn.Sequential:
    """3x3 convolutions with a bias (as the literature counts them), batch norm and ReLU."""
    pairs = zip((inputs, *widths), widths, strict=False)
    return nn.Sequential(*(Conv2dNormActivation(a, b, bias=True) for a, b in pairs))


# Wide residual networks with pre-activation (Zagoruyko, Komodakis 2016, arXiv 1605.07146).
class PreActivationBlock(nn.Module):
    """Batch norm and ReLU before each 3x3 convolution; a 1x1 shortcut where shapes change."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else None

    def activate(self, features: Tensor) -> Tensor:
        """The activation that the block begins with."""
        return functional.relu(self.bn1(features))

    def add(self, features: Tensor, active: Tensor) -> Tensor:
        """The residual sum, given the block's input before and after ``activate``."""
        hidden = self.conv2(functional.relu(self.bn2(self.conv1(active))))
        return hidden + (features if self.shortcut is None else self.shortcut(active))

    def forward(self, features: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H / stride, W / stride), before any activation."""
        return self.add(features, self.activate(features))


class WideResNet(nn.Module):
    """WRN-depth-width: three stages of pre-activation blocks.

    A stage's feature map is read after the ReLU that follows it (the next block's first
    activation), so that it is non-negative as in the other networks.

    Args:
        classes: number of classes K.
        depth: 6 n + 4 layers.
        width: multiple of 16, 32, 64 channels.
    """

    def __init__(self, classes: int, depth: int, width: int) -> None:
        super().__init__()
        widths = [16, 16 * width, 32 * width, 64 * width]
        blocks = (depth - 4) // 6
        self.stem = conv3x3(3, widths[0])
        self.stages = nn.ModuleList(
            _wide_resnet_stage(inputs, outputs, blocks, stride)
            for inputs, outputs, stride in zip(widths, widths[1:], (1, 2, 2), strict=False)
        )
        self.bn = nn.BatchNorm2d(widths[-1])
        self.classifier = nn.Linear(widths[-1], classes)
        initialise(self)

    def forward(self, images: Tensor) -> Output:
        """Images (B, 3, H, W), normalised -> logits, three stages, embedding."""
        features, maps = self.stem(images), []
        for stage in self.stages:
            first, *others = cast("Iterable[PreActivationBlock]", stage)
            active = first.activate(features)
            maps.append(active)
            features = first.add(features, active)
            for block in others:
                features = block(features)
        maps.append(functional.relu(self.bn(features)))
        embedding = maps[-1].mean((2, 3))
        return Output(self.classifier(embedding), tuple(maps[1:]), embedding)


def _wide_resnet_stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = PreActivationBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(PreActivationBlock(outputs, outputs) for _ in range(blocks - 1)))
