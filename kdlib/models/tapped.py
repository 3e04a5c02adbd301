"""torchvision's networks, unmodified, with their stages tapped by ``feature_extraction``."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from kdlib.errors import KdlibError
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


def tapped_resnet(classes: int, build: Callable[..., nn.Module], weights: str | None = None):
    """torchvision's ResNet-18/34/50/152: stages at 1/4, 1/8, 1/16 and 1/32 of the image."""
    network = _built(build, weights)
    network.fc = _classifier(network.fc, classes)
    return TappedNetwork(network, RESNET_STAGES, "flatten", "fc")


def tapped_mobilenet(classes: int, weights: str | None = None) -> TappedNetwork:
    """torchvision's MobileNetV2: stages of 24, 32, 96 and 1280 channels at 1/4 to 1/32."""
    network = _built(models.mobilenet_v2, weights)
    network.classifier[1] = _classifier(network.classifier[1], classes)
    return TappedNetwork(network, MOBILENET_STAGES, "flatten", "classifier.1")


def _built(build: Callable[..., nn.Module], weights: str | None) -> nn.Module:
    """Build with torchvision's named weights, or from scratch.

    Raises:
        KdlibError: no such weights for this network.
    """
    try:
        return build(weights=weights)
    except (KeyError, ValueError) as error:
        name = getattr(build, "__name__", str(build))
        raise KdlibError(f"torchvision has no weights '{weights}' for {name}: {error}.") from error


def _classifier(layer: nn.Linear, classes: int) -> nn.Linear:
    """The layer itself where it fits, so that pretrained logits survive; else a new one."""
    same = layer.out_features == classes
    return layer if same else nn.Linear(layer.in_features, classes)
