"""Networks by name: what builds each, and the task that it does."""

from collections.abc import Callable, Mapping
from pkgutil import resolve_name
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from kdlib.errors import KdlibError, checked_options, unknown

if TYPE_CHECKING:
    from torch import nn


class Model(NamedTuple):
    """A network, by what builds it.

    Attributes:
        build: as ``module:name``; takes the number of classes.
        options: what it is built with besides.
        task: ``classification``, which is that of crops too, ``segmentation`` or ``detection``.
        pretrained: whether torchvision has weights to begin with.
    """

    build: str | Callable[..., "nn.Module"]
    options: Mapping[str, Any] = MappingProxyType({})
    task: str = "classification"
    pretrained: bool = False


def _cifar(name: str, **options: Any) -> Model:
    return Model(f"kdlib.models.cifar:{name}", options)


def _scenes(*widths: int) -> Model:
    options = {"blocks": 1, "widths": widths, "strides": (2, 2, 2, 2)}
    return Model("kdlib.models.cifar:ThreeStageResNet", options)


def _tapped(build: str, **options: Any) -> Model:
    return Model(f"kdlib.models.torchvision:{build}", options, pretrained=True)


def _segmenter(name: str, pretrained: bool = False, **options: Any) -> Model:
    return Model(f"kdlib.frskd.segmentation:{name}", options, "segmentation", pretrained)


def _detector(name: str, pretrained: bool = False, **options: Any) -> Model:
    return Model(f"kdlib.detection.models:{name}", options, "detection", pretrained)


MODELS: dict[str, Model] = {
    "resnet8": _cifar("cifar_resnet", depth=8),
    "resnet14": _cifar("cifar_resnet", depth=14),
    "resnet20": _cifar("cifar_resnet", depth=20),
    "resnet32": _cifar("cifar_resnet", depth=32),
    "resnet44": _cifar("cifar_resnet", depth=44),
    "resnet56": _cifar("cifar_resnet", depth=56),
    "resnet110": _cifar("cifar_resnet", depth=110),
    "resnet8x4": _cifar("wide_cifar_resnet", depth=8),
    "resnet32x4": _cifar("wide_cifar_resnet", depth=32),
    "wrn_16_2": _cifar("WideResNet", depth=16, width=2),
    "wrn_40_1": _cifar("WideResNet", depth=40, width=1),
    "wrn_40_2": _cifar("WideResNet", depth=40, width=2),
    "resnet18_cifar": _cifar("resnet18_cifar"),
    "resnet50_cifar": _cifar("resnet50_cifar"),
    "vgg8": _cifar("cifar_vgg", repeats=1),
    "vgg13": _cifar("cifar_vgg", repeats=2),
    "mobilenet_v2_cifar": _cifar("mobilenet_v2_cifar"),
    "shuffle_v1": _cifar("cifar_shuffle_v1"),
    "shuffle_v2": _cifar("cifar_shuffle_v2"),
    "scenes_small": _scenes(4, 4, 8, 16),
    "scenes_medium": _scenes(16, 16, 32, 64),
    "scenes_large": _scenes(48, 48, 96, 192),
    "scenes_mobile": Model("kdlib.models.scenes:scenes_mobile"),
    "resnet18": _tapped("tapped_resnet", name="resnet18"),
    "resnet34": _tapped("tapped_resnet", name="resnet34"),
    "resnet50": _tapped("tapped_resnet", name="resnet50"),
    "resnet152": _tapped("tapped_resnet", name="resnet152"),
    "mobilenet_v2": _tapped("tapped_mobilenet"),
    "scenes_segmenter": _segmenter("scenes_segmenter", widths=(16, 16, 32, 64), width=32),
    "scenes_segmenter_tiny": _segmenter("scenes_segmenter", widths=(4, 4, 8, 16), width=8),
    "efficientdet_d0": _segmenter("efficientdet_d0", pretrained=True),
    "efficientdet_d1": _segmenter("efficientdet_d1", pretrained=True),
    "scenes_ssd": _detector("scenes_ssd", widths=(16, 16, 32, 64)),
    "scenes_ssd_tiny": _detector("scenes_ssd", widths=(4, 4, 8, 16)),
    "scenes_retinanet": _detector("scenes_retinanet", widths=(16, 16, 32, 64), pyramid=48),
    "scenes_retinanet_tiny": _detector("scenes_retinanet", widths=(4, 4, 8, 16), pyramid=8),
    "ssd300_vgg16": _detector("ssd300_vgg16", pretrained=True),
    "ssdlite320_mobilenet_v3_large": _detector("ssdlite320_mobilenet_v3_large", pretrained=True),
    "retinanet_resnet50_fpn": _detector(
        "with_pyramid", pretrained=True, build="retinanet_resnet50_fpn", backbone="resnet50"
    ),
    "fasterrcnn_mobilenet_v3_large_fpn": _detector(
        "with_pyramid",
        pretrained=True,
        build="fasterrcnn_mobilenet_v3_large_fpn",
        backbone="mobilenet_v3_large",
    ),
    "fasterrcnn_resnet50_fpn": _detector(
        "with_pyramid", pretrained=True, build="fasterrcnn_resnet50_fpn", backbone="resnet50"
    ),
}
DETECTOR_OPTIONS = ("image_size", "mean", "std")
FIRST_NAMES = {
    "scenes_small": "scenes_tiny",
    "scenes_medium": "scenes_student",
    "scenes_large": "scenes_teacher",
}
"""What networks were called when the first runs were named: hashes, run ids and records keep it."""
_RENAMED = {first: name for name, first in FIRST_NAMES.items()}


def current_name(name: str) -> str:
    """The name of a network, which may be given by its first one; any other text as it is."""
    return _RENAMED.get(name, name)


def model_names() -> tuple[str, ...]:
    """Names that ``create_model`` knows."""
    return tuple(MODELS)


def check_task(name: str, task: str) -> None:
    """Refuse a network that does not do a task.

    Raises:
        KdlibError: an unknown network, or one of another task; lists those that do it.
    """
    name = current_name(name)
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    does = "classification" if task == "crops" else task
    able = [other for other, model in MODELS.items() if model.task == does]
    if name not in able:
        raise KdlibError(f"Model '{name}' is not for task '{task}'. Valid: {', '.join(able)}.")


def create_model(name: str, num_classes: int, **options: Any) -> "nn.Module":
    """Build a network whose forward takes images (B, 3, H, W) and returns an ``Output``.

    Detectors take a list of images and return what their ``Detector`` says.

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
    name = current_name(name)
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    model = MODELS[name]
    finds = model.task == "detection"
    valid = ("weights",) * model.pretrained + DETECTOR_OPTIONS * finds
    if options and not valid:
        given = ", ".join(options)
        raise KdlibError(f"Model '{name}' has no options: remove {given}, or choose another model.")
    checked_options(options, valid, f"model '{name}'")
    if finds:
        from kdlib.detection.models import check_input

        check_input(**{option: options.get(option) for option in DETECTOR_OPTIONS})
        options = {option: value for option, value in options.items() if value is not None}
    build = resolve_name(model.build) if isinstance(model.build, str) else model.build
    return build(num_classes, **model.options, **options)
