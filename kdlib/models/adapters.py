"""Networks from elsewhere made to return an ``Output``; see ``kdlib.models.register_model``."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor, nn

from kdlib.errors import KdlibError, unknown
from kdlib.models.output import Output, answer_to_zeros

Reader = Callable[[nn.Module, Tensor], Output]


class ReadNetwork(nn.Module):
    """A network of any kind, and the function that makes an ``Output`` of it and of images."""

    def __init__(self, network: nn.Module, read: Reader) -> None:
        super().__init__()
        self.network, self.read = network, read

    def forward(self, images: Tensor) -> Output:
        """Images (B, 3, H, W), normalised -> logits, stages, embedding."""
        return self.read(self.network, images)


class WatchedNetwork(nn.Module):
    """A classifier whose stages are what its layers of these names return."""

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.network, self.names = network, tuple(names)
        self.seen: dict[str, Tensor] = {}
        layers = dict(network.named_modules())
        for name in names:
            if name not in layers:
                raise unknown(f"layer of {type(network).__name__}", name, filter(None, layers))
            layers[name].register_forward_hook(partial(self._see, name))

    def _see(self, name: str, layer: nn.Module, given: Any, made: Tensor) -> None:
        self.seen[name] = made

    def forward(self, images: Tensor) -> Output:
        """Images (B, 3, H, W), normalised -> logits, stages, mean of the last stage."""
        logits = self.network(images)
        stages = tuple(self.seen.pop(name) for name in self.names)
        return Output(logits, stages, stages[-1].mean((2, 3)))


class ClassifiedFeatures(nn.Module):
    """A backbone that returns a list of feature maps, fine to coarse, with a linear classifier."""

    def __init__(self, backbone: nn.Module, channels: int, classes: int) -> None:
        super().__init__()
        self.backbone, self.classifier = backbone, nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Output:
        """Images (B, 3, H, W), normalised -> logits, stages, mean of the last stage."""
        stages = tuple(self.backbone(images))
        embedding = stages[-1].mean((2, 3))
        return Output(self.classifier(embedding), stages, embedding)


def adapted(
    classes: int,
    build: Callable[[int], nn.Module],
    stages: Sequence[str] | Reader | None,
    image_size: int,
) -> nn.Module:
    """What ``build`` makes, as a network of ours; it is tried with one image.

    Raises:
        KdlibError: a layer that it does not have, or an answer that cannot be made an ``Output``.
    """
    network = build(classes)
    if callable(stages):
        network = ReadNetwork(network, stages)
    elif stages is not None:
        network = WatchedNetwork(network, stages)
    answer = answer_to_zeros(network, image_size)
    if type(answer) in (list, tuple):
        return ClassifiedFeatures(network, answer[-1].shape[1], classes)
    if not isinstance(answer, Output):
        raise KdlibError(
            f"The network returns a {type(answer).__name__}. It must return an Output, or a list "
            "of feature maps (B, C, H, W) from fine to coarse; else give register_model stages: "
            "names of its layers, or a function (network, images) -> Output."
        )
    if answer.logits.shape[1] != classes:
        raise KdlibError(f"The network has {answer.logits.shape[1]} logits for {classes} classes.")
    return network
