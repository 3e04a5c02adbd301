"""Networks for small images, as large as in Tian 2020 (arXiv 1910.10699); ResNets of Scenes."""

from functools import partial
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdlib.models.output import Output, StagedNetwork

Network = TypeVar("Network", bound=nn.Module)
Widths = tuple[int, int, int, int]
Three = tuple[int, int, int]
conv3x3 = partial(nn.Conv2d, kernel_size=3, padding=1, bias=False)


def conv_norm(
    inputs: int, outputs: int, size: int = 3, stride: int = 1, activation: Any = nn.ReLU, **kw: Any
) -> nn.Sequential:
    """Convolution (no bias, keeps the size but for the stride; ``kw`` is its), norm, activation."""
    convolution = nn.Conv2d(inputs, outputs, size, stride, size // 2, **{"bias": False, **kw})
    active = [activation(inplace=True)] if activation else []
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), *active)


def initialise(network: Network) -> Network:
    """He's normal initialisation of the convolutions; batch norm starts as the identity."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


def _stages(block: Any, widths: Widths, counts: Three, strides: Three) -> list[nn.Sequential]:
    """Stages of so many blocks; the first block of each changes channels and resolution."""
    stages = []
    for (inputs, outputs), count, stride in zip(pairwise(widths), counts, strides, strict=True):
        first = block(inputs, outputs, stride)
        stages.append(nn.Sequential(first, *(block(outputs, outputs) for _ in range(1, count))))
    return stages


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions with batch norm, added to a shortcut (He 2016, arXiv 1512.03385)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, outputs, stride=stride)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = conv_norm(inputs, outputs, 1, stride, activation=None)

    def forward(self, features: Tensor) -> Tensor:
        hidden = functional.relu(self.bn1(self.conv1(features)), inplace=True)
        added = self.bn2(self.conv2(hidden)) + self.shortcut(features)
        return functional.relu(added, inplace=True)


def basic_resnet(
    classes: int, widths: Widths, blocks: int = 1, strides: Widths = (2, 2, 2, 2)
) -> StagedNetwork:
    """Stem and three stages of ``blocks`` basic blocks; ``widths`` are channels, as in He 2016."""
    stem = conv_norm(3, widths[0], 3, strides[0])
    stages = _stages(_BasicBlock, widths, (blocks,) * 3, strides[1:])
    return initialise(StagedNetwork(stem, stages, nn.Linear(widths[-1], classes)))


class _PreActivationBlock(nn.Module):
    """Batch norm and ReLU before each 3x3 convolution; returns the first activation too."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = conv3x3(inputs, outputs, stride=stride)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = conv3x3(outputs, outputs)
        changes = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changes else None

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        active = functional.relu(self.bn1(features))
        hidden = self.conv2(functional.relu(self.bn2(self.conv1(active))))
        return active, hidden + (features if self.shortcut is None else self.shortcut(active))


class WideResNet(nn.Module):
    """WRN-depth-width (Zagoruyko 2016, arXiv 1605.07146), read after the ReLU behind a stage."""

    def __init__(self, classes: int, depth: int, width: int) -> None:
        super().__init__()
        widths, blocks = (16, 16 * width, 32 * width, 64 * width), (depth - 4) // 6
        self.stem = conv3x3(3, widths[0])
        self.stages = nn.ModuleList(_stages(_PreActivationBlock, widths, (blocks,) * 3, (1, 2, 2)))
        self.bn = nn.BatchNorm2d(widths[-1])
        self.classifier = nn.Linear(widths[-1], classes)
        initialise(self)

    def forward(self, images: Tensor) -> Output:
        """Images (B, 3, H, W), normalised -> logits, three stages, embedding."""
        features, maps = self.stem(images), []
        for stage in self.stages:
            for index, block in enumerate(stage.children()):
                active, features = block(features)
                if index == 0:
                    maps.append(active)
        maps.append(functional.relu(self.bn(features)))
        embedding = maps[-1].mean((2, 3))
        return Output(self.classifier(embedding), tuple(maps[1:]), embedding)


def cifar_vgg(classes: int, repeats: int) -> StagedNetwork:
    """VGG-8 (1 convolution a block) or VGG-13 (2) with batch norm (arXiv 1409.1556).

    The first of its five blocks is the stem; the last two are stages of one size.
    """
    blocks, inputs = list[nn.Module](), 3
    for width, pools in ((64, False), (128, True), (256, True), (512, True), (512, False)):
        pairs = pairwise((inputs, *[width] * repeats))
        block = nn.Sequential(*(conv_norm(*pair, bias=True) for pair in pairs))
        blocks.append(nn.Sequential(nn.MaxPool2d(2), block) if pools else block)
        inputs = width
    return initialise(StagedNetwork(blocks[0], blocks[1:], nn.Linear(inputs, classes)))


SHUFFLE_V1_WIDTHS = (24, 240, 480, 960)


class _ShuffleUnit(nn.Module):
    """Grouped 1x1, shuffle, depthwise 3x3, grouped 1x1; plus the shortcut, or beside it pooled."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        made = outputs - inputs if stride == 2 else outputs
        middle = made // 4
        groups = 1 if inputs == SHUFFLE_V1_WIDTHS[0] else 3  # so few channels are not grouped
        self.convolutions = nn.Sequential(
            conv_norm(inputs, middle, 1, groups=groups),
            nn.ChannelShuffle(groups),
            conv_norm(middle, middle, 3, stride, groups=middle),
            conv_norm(middle, made, 1, groups=3, activation=None),
        )
        self.pool = nn.AvgPool2d(3, 2, padding=1) if stride == 2 else None

    def forward(self, features: Tensor) -> Tensor:
        made = self.convolutions(features)
        joined = made + features if self.pool is None else torch.cat([made, self.pool(features)], 1)
        return functional.relu(joined, inplace=True)


def cifar_shuffle_v1(classes: int) -> StagedNetwork:
    """ShuffleNet with three groups (Zhang 2018, arXiv 1707.01083), stages at 1/2 to 1/8."""
    stages = _stages(_ShuffleUnit, SHUFFLE_V1_WIDTHS, (4, 8, 4), (2, 2, 2))
    stem = conv_norm(3, SHUFFLE_V1_WIDTHS[0], 1)
    return StagedNetwork(stem, stages, nn.Linear(SHUFFLE_V1_WIDTHS[-1], classes))
