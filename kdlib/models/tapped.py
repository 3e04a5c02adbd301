"""torchvision's networks, unmodified, with their stages tapped by ``feature_extraction``."""

from collections.abc import Callable, Sequence
from typing import cast

from torch import Tensor, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from kdlib.models.downloads import fetching
from kdlib.models.output import Output

RESNET_STAGES = ("layer1", "layer2", "layer3", "layer4")
MOBILENET_STAGES = ("features.3", "features.6", "features.13", "features.18")


class TappedNetwork(nn.Module):
    """A torchvision classifier that also returns its stages and its pooled features.

    Args:
        network: the classifier.
        stages: names of the nodes after which a stage is read.
        embedding: name of the node that holds the pooled, flattened features.
        logits: name of the node that holds the logits.
    """

    def __init__(
        self, network: nn.Module, stages: Sequence[str], embedding: str, logits: str
    ) -> None:
        super().__init__()
        named = {name: f"stage{index}" for index, name in enumerate(stages)}
        named |= {embedding: "embedding", logits: "logits"}
        self.network = create_feature_extractor(network, return_nodes=named)
        self.stage_count = len(stages)

    def forward(self, images: Tensor) -> Output:
        """Images (B, 3, H, W), normalised -> logits, stages, embedding."""
        found = self.network(images)
        stages = tuple(found[f"stage{index}"] for index in range(self.stage_count))
        return Output(found["logits"], stages, found["embedding"].flatten(1))


def tapped_resnet(
    classes: int, build: Callable[..., nn.Module], weights: str | None = None
) -> TappedNetwork:
    """A ResNet of torchvision: stages at 1/4, 1/8, 1/16 and 1/32 of the image."""
    network = pretrained(build, weights)
    _fit_classifier(network, "fc", classes)
    return TappedNetwork(network, RESNET_STAGES, "flatten", "fc")


def tapped_mobilenet(classes: int, weights: str | None = None) -> TappedNetwork:
    """MobileNetV2 of torchvision: stages of 24, 32, 96, 1280 channels at 1/4 to 1/32.

    Its blocks end in a convolution without activation, so the first three stages have both signs.
    """
    network = pretrained(models.mobilenet_v2, weights)
    _fit_classifier(network, "classifier.1", classes)
    return TappedNetwork(network, MOBILENET_STAGES, "flatten", "classifier.1")


def pretrained(build: Callable[..., nn.Module], weights: str | None) -> nn.Module:
    """Build with torchvision's named weights, or from a random start.

    Raises:
        KdlibError: no such weights for this network, or no way to download them.
    """
    with fetching(build, weights):
        return build(weights=weights)


def _fit_classifier(network: nn.Module, name: str, classes: int) -> None:
    """Replace the classifier where its size is wrong; else keep it, pretrained as it may be."""
    layer = cast("nn.Linear", network.get_submodule(name))
    if layer.out_features != classes:
        network.set_submodule(name, nn.Linear(layer.in_features, classes))
