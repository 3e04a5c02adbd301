"""What every network returns, what makes networks return it, and what a network costs."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kdlib.errors import KdlibError, check_known, shown
from kdlib.losses.attention import aligned, channels_last, check_map, checked_stages


class Output(NamedTuple):
    """A network's answer to B images."""

    logits: Tensor  # (B, K), before any softmax; (B, K, H, W) in segmentation
    stages: tuple[Tensor, ...]  # maps (B, C, H, W), fine to coarse, after their last activation
    embedding: Tensor  # (B, D), the pooled features that the classifier reads


class Shapes(NamedTuple):
    """Sizes of an output: (C, H, W) of each stage, and D of the embedding."""

    stages: tuple[tuple[int, int, int], ...]
    embedding: int


@dataclass(frozen=True)
class NetworkPair:
    """A student and a teacher, by their shapes, and the data that they meet."""

    student: Shapes
    teacher: Any  # its shapes; ``None`` where there is no teacher
    labels: Tensor  # (N,), of the whole training set, in the order of Batch.indices
    batch_size: int  # of full batches
    seed: int  # of draws during training
    classes: int  # the student's logits
    pixels: int | None = None  # height and width of the logits in segmentation

    @property
    def channels(self) -> list[tuple[int, int]]:
        """Student's and teacher's channels of each pair of stages that are compared."""
        pairs = aligned(self.student.stages, self.teacher.stages)
        return [(mine[0], theirs[0]) for mine, theirs in pairs]


class StagedBackbone(nn.Module):
    """Runs a stem (``nn.Identity()`` for none) and its stages, one a resolution, fine to coarse."""

    def __init__(self, stem: nn.Module, stages: Iterable[nn.Module]) -> None:
        super().__init__()
        self.stem, self.stages = stem, nn.ModuleList(stages)

    def forward(self, images: Tensor) -> Any:
        """Images (B, 3, H, W), normalised -> a tuple of the features (B, C, h, w) of each stage."""
        features, maps = self.stem(images), []
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        return tuple(maps)


class StagedNetwork(StagedBackbone):
    """A linear layer to K logits of the mean of the last stage's features, or of its ``tail``'s."""

    def __init__(
        self,
        stem: nn.Module,
        stages: Iterable[nn.Module],
        classifier: nn.Linear,
        tail: nn.Module | None = None,
    ) -> None:
        super().__init__(stem, stages)
        self.classifier, self.tail = classifier, tail or nn.Identity()

    def forward(self, images: Tensor) -> Output:
        """Images (B, 3, H, W), normalised -> logits, every stage's features, embedding."""
        stages = super().forward(images)
        embedding = self.tail(stages[-1]).mean((2, 3))
        return Output(self.classifier(embedding), stages, embedding)


Reader = Callable[[nn.Module, Tensor], Output]


class _ReadNetwork(nn.Module):
    """A network from elsewhere, and the function that makes an ``Output`` of it and of images."""

    def __init__(self, network: nn.Module, read: Reader) -> None:
        super().__init__()
        self.network, self.read = network, read

    def forward(self, images: Tensor) -> Output:
        return self.read(self.network, images)


def _reading(network: nn.Module, names: Sequence[str]) -> Reader:
    """Reads a classifier whose stages are what its layers of these names return."""
    seen: dict[str, Tensor] = {}

    def see(name: str, layer: nn.Module, given: Any, made: Tensor) -> None:
        check_map(f"layer '{name}'", made)
        seen[name] = made

    def read(network: nn.Module, images: Tensor) -> Output:
        logits = network(images)
        stages = tuple(seen[name] for name in names)
        seen.clear()
        return Output(logits, stages, stages[-1].mean((2, 3)))

    layers = {name: layer for name, layer in network.named_modules() if name}
    for name in names:
        check_known(f"layer of {type(network).__name__}", name, layers)
        layers[name].register_forward_hook(partial(see, name))
    return read


class _ClassifiedFeatures(nn.Module):
    """A backbone that returns feature maps, fine to coarse, and a classifier of the last one's."""

    def __init__(self, backbone: nn.Module, channels: int, classes: int) -> None:
        super().__init__()
        self.backbone, self.classifier = backbone, nn.Linear(channels, classes)

    def forward(self, images: Tensor) -> Output:
        stages = tuple(self.backbone(images))
        embedding = stages[-1].mean((2, 3))
        return Output(self.classifier(embedding), stages, embedding)


def adapted(classes: int, build: Any, stages: Any, image_size: int, task: str) -> nn.Module:
    """What ``build`` makes, as a network of ours, tried with one image; or a KdlibError."""
    network = build(classes)
    if not isinstance(network, nn.Module):
        raise KdlibError(f"build made {shown(network)}; it must make a torch.nn.Module.")
    if callable(stages):
        network = _ReadNetwork(network, stages)
    elif stages is not None:
        if isinstance(stages, str) or not stages:
            raise KdlibError(f"stages is {shown(stages)}; give a list of names of layers.")
        network = _ReadNetwork(network, _reading(network, stages))
    answer = answer_to_zeros(network, image_size)
    if type(answer) in (list, tuple):
        channels = checked_stages("network", answer)[-1].shape[1]
        network = _ClassifiedFeatures(network, channels, classes)
        answer = answer_to_zeros(network, image_size)
    if not isinstance(answer, Output):
        raise KdlibError(
            f"The network returns a {type(answer).__name__}. It must return an Output, or a list "
            "of feature maps (B, C, H, W) from fine to coarse; else give register_model stages: "
            "names of its layers, or a function (network, images) -> Output."
        )
    pixels = (image_size, image_size) * (task == "segmentation")
    if answer.logits.shape != (1, classes, *pixels):
        given, wanted = tuple(answer.logits.shape[1:]), (classes, *pixels)
        raise KdlibError(f"The network has logits {given} an image for {task}; it needs {wanted}.")
    if answer.embedding.dim() != 2:
        raise KdlibError(f"The embedding is {tuple(answer.embedding.shape)}; it must be (B, D).")
    stages = checked_stages("network", answer)
    if any(stage.shape[2] != stage.shape[3] for stage in stages):  # of a square image
        raise channels_last("network", stages)
    return network


REPEATS = 10
ENOUGH_S = 10.0  # after which none is repeated: ResNet-152 takes a CPU minutes over photographs


def count_parameters(network: nn.Module) -> int:
    """Number of learnable parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; the models' own modes come back afterwards."""
    with ExitStack() as afterwards, torch.no_grad():
        for model in models:
            afterwards.callback(model.train, model.training)
            model.eval()
        yield


def answer_to_zeros(network: nn.Module, image_size: int) -> Any:
    """What a network returns for a black image of ``image_size`` squared, in eval mode."""
    images = torch.zeros(1, 3, image_size, image_size, device=next(network.parameters()).device)
    with evaluating(network):
        return network(images)


def output_shapes(network: nn.Module, image_size: int) -> Shapes:
    """Sizes of what a network returns for images of ``image_size`` squared."""
    output = answer_to_zeros(network, image_size)
    stages = tuple((stage.shape[1], stage.shape[2], stage.shape[3]) for stage in output.stages)
    return Shapes(stages, output.embedding.shape[1])


def flops(network: nn.Module, image_size: int) -> int:
    """Operations of one image's convolutions and matrix products; a multiply-add counts as two."""
    with FlopCounterMode(display=False) as counter:
        answer_to_zeros(network, image_size)
    return counter.get_total_flops()


def measure_cost(network: nn.Module, *batches: Any) -> dict[str, Any]:
    """Parameters, FLOPs of the first batch, one image, and the median latency (ms) of each."""
    with evaluating(network):
        with FlopCounterMode(display=False) as counter:
            network(batches[0])
        times = {str(len(images)): latency(partial(network, images)) for images in batches}
    operations = counter.get_total_flops()
    return {"parameters": count_parameters(network), "flops": operations, "latency_ms": times}


@torch.no_grad()
def latency(answer: Callable[[], object]) -> float:
    """Median milliseconds of what a network is asked, after a first time that is not counted."""
    seconds: list[float] = []
    while len(seconds) <= REPEATS and (len(seconds) < 2 or sum(seconds) < ENOUGH_S):
        start = time.perf_counter()
        answer()
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return round(1000 * median(seconds[1:]), 3)
