"""The residual block that the CIFAR-style and the Scenes networks are built from."""

from torch import Tensor, nn
from torch.nn import functional


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
