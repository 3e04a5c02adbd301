"""MobileNetV2 of half the width for CIFAR (Sandler 2018, arXiv 1801.04381).

The version of the distillation literature (Tian 2020, arXiv 1910.10699): torchvision's network
with channels that are halved but not rounded to multiples of 8, no dropout, and a stride of 1
where the second group of blocks has 2.
"""

from torchvision.models import MobileNetV2

from kdlib.models.staged import StagedNetwork

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
