"""torchvision's networks, unmodified, with their stages tapped by ``feature_extraction``."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import cast
from urllib.error import URLError

from torch import Tensor, hub, nn
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from kdlib.errors import KdlibError, unknown
from kdlib.models.output import Output

# torchvision's pretrained weights by name, and what to do where they cannot be downloaded.
FORCED = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"


@contextmanager
def fetching(build: Callable[..., nn.Module], weights: str | None) -> Iterator[None]:
    """Build inside with ``weights`` of the network that ``build`` makes; None needs none.

    torchvision's files are pickles, and a file that is there is taken without a look at its hash:
    inside, they are read as weights alone, and no code in them is run.

    Raises:
        KdlibError: no such weights for this network, no way to download them, or a file in their
            place that is something else.
    """
    valid = models.get_model_weights(build).__members__
    if weights is not None and weights not in valid:
        raise unknown(f"weights of {build.__name__}", weights, valid)
    cache = Path(hub.get_dir(), "checkpoints")
    try:
        with _weights_only():
            yield
    except URLError as error:
        url = valid[str(weights)].url
        text = f"Cannot download the weights '{weights}' ({error.reason}): put {url} in {cache}."
        raise KdlibError(text) from error
    except (UnpicklingError, EOFError) as error:
        text = f"{cache} holds a file that is no weights '{weights}'; delete it, and run again."
        raise KdlibError(text) from error


@contextmanager
def _weights_only() -> Iterator[None]:
    """Let ``torch.load`` read nothing but tensors, whatever its caller asks for."""
    before = os.environ.get(FORCED)
    os.environ[FORCED] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[FORCED]
        else:
            os.environ[FORCED] = before


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


def tapped_resnet(classes: int, name: str, weights: str | None = None) -> TappedNetwork:
    """A ResNet of torchvision: stages at 1/4, 1/8, 1/16 and 1/32 of the image."""
    network = pretrained(getattr(models, name), weights)
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
