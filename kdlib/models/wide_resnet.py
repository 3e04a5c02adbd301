"""Wide residual networks with pre-activation (Zagoruyko, Komodakis 2016, arXiv 1605.07146)."""

from collections.abc import Iterable
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from kdlib.models.output import Output
from kdlib.models.residual import conv3x3, initialise


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
            _stage(inputs, outputs, blocks, stride)
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


def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
    first = PreActivationBlock(inputs, outputs, stride)
    return nn.Sequential(first, *(PreActivationBlock(outputs, outputs) for _ in range(blocks - 1)))
