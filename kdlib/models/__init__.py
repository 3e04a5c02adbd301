"""Networks that return logits, stage features and the embedding; one line each."""

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models as tv
from torchvision.models import detection

from kdlib.detection.models import (
    check_input,
    scenes_retinanet,
    scenes_ssd,
    ssd300_vgg16,
    ssdlite320_mobilenet_v3_large,
    with_pyramid,
)
from kdlib.errors import KdlibError, checked_options, unknown
from kdlib.frskd.segmentation import efficientdet_d0, efficientdet_d1, scenes_segmenter
from kdlib.models.cifar import (
    ThreeStageResNet,
    WideResNet,
    cifar_resnet,
    cifar_shuffle_v1,
    cifar_shuffle_v2,
    cifar_vgg,
    mobilenet_v2_cifar,
    resnet18_cifar,
    resnet50_cifar,
    wide_cifar_resnet,
)
from kdlib.models.output import Output, Shapes
from kdlib.models.scenes import scenes_mobile
from kdlib.models.torchvision import tapped_mobilenet, tapped_resnet

__all__ = [
    "Output",
    "Shapes",
    "count_parameters",
    "create_model",
    "flops",
    "model_names",
    "output_shapes",
    "stage_shapes",
]

SCENES_STRIDES = (2, 2, 2, 2)
OWN: dict[str, Callable[..., nn.Module]] = {
    "resnet8": partial(cifar_resnet, depth=8),
    "resnet14": partial(cifar_resnet, depth=14),
    "resnet20": partial(cifar_resnet, depth=20),
    "resnet32": partial(cifar_resnet, depth=32),
    "resnet44": partial(cifar_resnet, depth=44),
    "resnet56": partial(cifar_resnet, depth=56),
    "resnet110": partial(cifar_resnet, depth=110),
    "resnet8x4": partial(wide_cifar_resnet, depth=8),
    "resnet32x4": partial(wide_cifar_resnet, depth=32),
    "wrn_16_2": partial(WideResNet, depth=16, width=2),
    "wrn_40_1": partial(WideResNet, depth=40, width=1),
    "wrn_40_2": partial(WideResNet, depth=40, width=2),
    "resnet18_cifar": resnet18_cifar,
    "resnet50_cifar": resnet50_cifar,
    "vgg8": partial(cifar_vgg, repeats=1),
    "vgg13": partial(cifar_vgg, repeats=2),
    "mobilenet_v2_cifar": mobilenet_v2_cifar,
    "shuffle_v1": cifar_shuffle_v1,
    "shuffle_v2": cifar_shuffle_v2,
    "scenes_teacher": partial(
        ThreeStageResNet, blocks=1, widths=(48, 48, 96, 192), strides=SCENES_STRIDES
    ),
    "scenes_student": partial(
        ThreeStageResNet, blocks=1, widths=(16, 16, 32, 64), strides=SCENES_STRIDES
    ),
    "scenes_tiny": partial(
        ThreeStageResNet, blocks=1, widths=(4, 4, 8, 16), strides=SCENES_STRIDES
    ),
    "scenes_mobile": scenes_mobile,
}
TAPPED: dict[str, Callable[..., nn.Module]] = {
    "resnet18": partial(tapped_resnet, build=tv.resnet18),
    "resnet34": partial(tapped_resnet, build=tv.resnet34),
    "resnet50": partial(tapped_resnet, build=tv.resnet50),
    "resnet152": partial(tapped_resnet, build=tv.resnet152),
    "mobilenet_v2": tapped_mobilenet,
}
SEGMENTERS: dict[str, Callable[..., nn.Module]] = {
    "scenes_segmenter": partial(scenes_segmenter, widths=(16, 16, 32, 64), width=32),
    "scenes_segmenter_tiny": partial(scenes_segmenter, widths=(4, 4, 8, 16), width=8),
    "efficientdet_d0": efficientdet_d0,
    "efficientdet_d1": efficientdet_d1,
}
"""Networks that classify pixels, not images."""
TORCHVISION_DETECTORS: dict[str, Callable[..., nn.Module]] = {
    "ssd300_vgg16": ssd300_vgg16,
    "ssdlite320_mobilenet_v3_large": ssdlite320_mobilenet_v3_large,
    "retinanet_resnet50_fpn": partial(
        with_pyramid, build=detection.retinanet_resnet50_fpn, backbone=tv.resnet50
    ),
    "fasterrcnn_mobilenet_v3_large_fpn": partial(
        with_pyramid,
        build=detection.fasterrcnn_mobilenet_v3_large_fpn,
        backbone=tv.mobilenet_v3_large,
    ),
    "fasterrcnn_resnet50_fpn": partial(
        with_pyramid, build=detection.fasterrcnn_resnet50_fpn, backbone=tv.resnet50
    ),
}
DETECTORS: dict[str, Callable[..., nn.Module]] = {
    "scenes_ssd": partial(scenes_ssd, widths=(16, 16, 32, 64)),
    "scenes_ssd_tiny": partial(scenes_ssd, widths=(4, 4, 8, 16)),
    "scenes_retinanet": partial(scenes_retinanet, widths=(16, 16, 32, 64), pyramid=48),
    "scenes_retinanet_tiny": partial(scenes_retinanet, widths=(4, 4, 8, 16), pyramid=8),
    **TORCHVISION_DETECTORS,
}
"""Networks that find objects: each is a ``kdlib.detection.models.Detector``."""
PRETRAINED = (*TAPPED, "efficientdet_d0", "efficientdet_d1", *TORCHVISION_DETECTORS)
"""Networks of which torchvision has weights to begin with."""
MODELS = OWN | TAPPED | SEGMENTERS | DETECTORS
ABLE = {"segmentation": SEGMENTERS, "detection": DETECTORS}
"""Networks of the tasks that classifiers do not do."""
DETECTOR_OPTIONS = ("image_size", "mean", "std")


def model_names() -> tuple[str, ...]:
    """Names that ``create_model`` knows."""
    return tuple(MODELS)


def check_task(name: str, task: str) -> None:
    """Refuse a network that does not do a task.

    Raises:
        KdlibError: an unknown network, or one of another task; lists those that do it.
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    able = ABLE.get(task, OWN | TAPPED)
    if name not in able:
        raise KdlibError(f"Model '{name}' is not for task '{task}'. Valid: {', '.join(able)}.")


def create_model(name: str, num_classes: int, **options: Any) -> nn.Module:
    """Build a network whose forward takes images (B, 3, H, W) and returns an ``Output``.

    Those of ``DETECTORS`` take a list of images and return what their ``Detector`` says.

    Args:
        name: one of ``model_names()``.
        num_classes: number of classes K.
        options: ``weights``, torchvision's name of pretrained weights ("DEFAULT" for the best;
            None, the default, for a random start), for torchvision's networks only; of a detector
            its backbone's. For detectors also ``image_size``, the side in pixels to which images
            are resized, and ``mean`` and ``std``, of each channel, which normalise them; None for
            the network's own.

    Raises:
        KdlibError: unknown name, option or weights, or weights that cannot be downloaded; an
            image size or a mean that cannot be.
    """
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    valid = ("weights",) * (name in PRETRAINED) + DETECTOR_OPTIONS * (name in DETECTORS)
    if options and not valid:
        given = ", ".join(options)
        raise KdlibError(f"Model '{name}' has no options: remove {given}, or choose another model.")
    checked_options(options, valid, f"model '{name}'")
    if name in DETECTORS:
        check_input(**{option: options.get(option) for option in DETECTOR_OPTIONS})
        options = {option: value for option, value in options.items() if value is not None}
    return MODELS[name](num_classes, **options)


def count_parameters(network: nn.Module) -> int:
    """Number of learnable parameters."""
    return sum(parameter.numel() for parameter in network.parameters())


def stage_shapes(network: nn.Module, image_size: int) -> list[tuple[int, int, int]]:
    """(C, H, W) of each stage for square images of ``image_size`` pixels."""
    return list(output_shapes(network, image_size).stages)


@torch.no_grad()
def output_shapes(network: nn.Module, image_size: int) -> Shapes:
    """Sizes of what a network returns for square images of ``image_size`` pixels."""
    output = _one_image(network, image_size)
    stages = tuple((stage.shape[1], stage.shape[2], stage.shape[3]) for stage in output.stages)
    return Shapes(stages, output.embedding.shape[1])


def flops(network: nn.Module, image_size: int) -> int:
    """Floating-point operations of one image's forward (a multiply-add counts as two).

    Convolutions and matrix products are counted; norms, activations and sums are not.
    """
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        _one_image(network, image_size)
    return counter.get_total_flops()


def _one_image(network: nn.Module, image_size: int) -> Output:
    was_training = network.training
    device = next(network.parameters()).device
    output = network.eval()(torch.zeros(1, 3, image_size, image_size, device=device))
    network.train(was_training)
    return output


# What a network costs: parameters, operations, latency.
REPEATS = 10
ENOUGH_S = 10.0
"""After so many seconds a latency is not measured again: a processor takes minutes over ten times
64 photographs through ResNet-152."""


def measure_cost(network: nn.Module, image_size: int, device: torch.device) -> dict[str, Any]:
    """Parameters, FLOPs of one image, and median latency in milliseconds at batch 1 and 64."""
    network.eval()
    return {
        "parameters": count_parameters(network),
        "flops": flops(network, image_size),
        "latency_ms": {str(b): _latency(network, b, image_size, device) for b in (1, 64)},
    }


@torch.no_grad()
def _latency(network: nn.Module, batch: int, image_size: int, device: torch.device) -> float:
    images = torch.randn(batch, 3, image_size, image_size, device=device)
    seconds: list[float] = []
    while len(seconds) <= REPEATS and (len(seconds) < 2 or sum(seconds) < ENOUGH_S):
        start = time.perf_counter()
        network(images).logits.sum().item()
        seconds.append(time.perf_counter() - start)
    return round(1000 * median(seconds[1:]), 3)
