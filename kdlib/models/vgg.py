"""VGG with batch norm for CIFAR (Simonyan, Zisserman 2015, arXiv 1409.1556).

The version of the distillation literature (Tian 2020, arXiv 1910.10699): five blocks of 64, 128,
256, 512 and 512 channels, a 2x2 max pooling before the second, third and fourth, and one linear
layer on the pooled features in place of the paper's three.
"""

from collections.abc import Sequence

from torch import nn
from torchvision.ops import Conv2dNormActivation

from kdlib.models.residual import initialise
from kdlib.models.staged import StagedNetwork

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
