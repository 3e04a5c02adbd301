"""ResNet-18 for CIFAR, the layout of ImageNet's (He 2016, arXiv 1512.03385).

The version of the self-distillation literature (Ji 2021, arXiv 2103.08273): torchvision's stages
behind a stem of one 3x3 convolution that keeps the image's size, without pooling.
"""

from torch import nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock

from kdlib.models.residual import conv3x3, initialise
from kdlib.models.staged import StagedNetwork


def resnet18_cifar(classes: int) -> StagedNetwork:
    """Stages of 64, 128, 256 and 512 channels at 1, 1/2, 1/4 and 1/8 of the image."""
    layers = ResNet(BasicBlock, (2, 2, 2, 2), classes)
    stem = nn.Sequential(conv3x3(3, 64), layers.bn1, layers.relu)
    stages = layers.layer1, layers.layer2, layers.layer3, layers.layer4
    network = StagedNetwork(stem, stages, layers.fc)
    initialise(network)
    return network
