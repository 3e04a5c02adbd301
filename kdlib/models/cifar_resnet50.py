"""ResNet-50 for CIFAR (He 2016, arXiv 1512.03385).

The version of the distillation literature (Tian 2020, arXiv 1910.10699): torchvision's bottleneck
stages behind a stem of one 3x3 convolution that keeps the image's size.
"""

from torch import nn
from torchvision.models import ResNet
from torchvision.models.resnet import Bottleneck

from kdlib.models.residual import conv3x3, initialise
from kdlib.models.staged import StagedNetwork


def resnet50_cifar(classes: int) -> StagedNetwork:
    """Stages of 256, 512, 1024 and 2048 channels at 1, 1/2, 1/4 and 1/8 of the image."""
    layers = ResNet(Bottleneck, (3, 4, 6, 3), classes)
    stem = nn.Sequential(conv3x3(3, 64), layers.bn1, layers.relu)
    stages = layers.layer1, layers.layer2, layers.layer3, layers.layer4
    network = StagedNetwork(stem, stages, layers.fc)
    initialise(network)
    return network
