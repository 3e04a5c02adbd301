"""Networks by name: what builds each, and the task that it does."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pkgutil import resolve_name
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from kdlib.errors import KdlibError, checked_options, unknown

if TYPE_CHECKING:
    from torch import nn

    from kdlib.models.adapters import Reader


class Model(NamedTuple):
    """A network: what builds it, ``module:name``, from the number of classes and its options.

    ``task`` is ``classification``, which is that of crops too, ``segmentation`` or ``detection``;
    ``pretrained`` networks can begin with weights of torchvision.
    """

    build: str | Callable[..., "nn.Module"]
    options: Mapping[str, Any] = MappingProxyType({})
    task: str = "classification"
    pretrained: bool = False


def _model(
    module: str, name: str, pretrained: bool = False, task: str = "classification", **options: Any
) -> Model:
    return Model(f"kdlib.{module}:{name}", options, task, pretrained)


_cifar = partial(_model, "models.cifar")
_basic = partial(_cifar, "basic_resnet", strides=(1, 1, 2, 2))
_scenes = partial(_cifar, "basic_resnet")
_torchvision = partial(_model, "models.torchvision")
_tapped = partial(_torchvision, "TappedNetwork", True)
_resnet = partial(_tapped, logits="fc", stages=("layer1", "layer2", "layer3", "layer4"))
_segmenter = partial(_model, "frskd.segmentation", task="segmentation")
_detector = partial(_model, "detection.models", task="detection")
NARROW, WIDE = (16, 16, 32, 64), (32, 64, 128, 256)
MOBILE_STAGES = ("features.3", "features.6", "features.13", "features.18")
DETECTORS = (
    "ssd300_vgg16", "ssdlite320_mobilenet_v3_large", "retinanet_resnet50_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn", "fasterrcnn_resnet50_fpn",
)  # fmt: skip
MODELS: dict[str, Model] = {
    **{f"resnet{6 * n + 2}": _basic(blocks=n, widths=NARROW) for n in (1, 2, 3, 5, 7, 9, 18)},
    **{f"resnet{6 * n + 2}x4": _basic(blocks=n, widths=WIDE) for n in (1, 5)},
    "wrn_16_2": _cifar("WideResNet", depth=16, width=2),
    "wrn_40_1": _cifar("WideResNet", depth=40, width=1),
    "wrn_40_2": _cifar("WideResNet", depth=40, width=2),
    "resnet18_cifar": _torchvision("resnet_cifar", block="BasicBlock", counts=(2, 2, 2, 2)),
    "resnet50_cifar": _torchvision("resnet_cifar", block="Bottleneck", counts=(3, 4, 6, 3)),
    "vgg8": _cifar("cifar_vgg", repeats=1),
    "vgg13": _cifar("cifar_vgg", repeats=2),
    "mobilenet_v2_cifar": _torchvision("mobilenet_v2_cifar"),
    "shuffle_v1": _cifar("cifar_shuffle_v1"),
    "shuffle_v2": _torchvision("shuffle_v2_cifar"),
    "scenes_small": _scenes(widths=(4, 4, 8, 16)),
    "scenes_medium": _scenes(widths=(16, 16, 32, 64)),
    "scenes_large": _scenes(widths=(48, 48, 96, 192)),
    "scenes_mobile": _cifar("scenes_mobile"),
    **{f"resnet{n}": _resnet(network=f"resnet{n}") for n in (18, 34, 50, 152)},
    "mobilenet_v2": _tapped(network="mobilenet_v2", logits="classifier.1", stages=MOBILE_STAGES),
    "scenes_segmenter": _segmenter("scenes_segmenter", widths=(16, 16, 32, 64), width=32),
    "scenes_segmenter_tiny": _segmenter("scenes_segmenter", widths=(4, 4, 8, 16), width=8),
    "efficientdet_d0": _segmenter("efficientdet", True, backbone="efficientnet_b0", width=64),
    "efficientdet_d1": _segmenter("efficientdet", True, backbone="efficientnet_b1", width=88),
    "scenes_ssd": _detector("scenes_ssd", widths=(16, 16, 32, 64)),
    "scenes_ssd_tiny": _detector("scenes_ssd", widths=(4, 4, 8, 16)),
    "scenes_retinanet": _detector("scenes_retinanet", widths=(16, 16, 32, 64), pyramid=48),
    "scenes_retinanet_tiny": _detector("scenes_retinanet", widths=(4, 4, 8, 16), pyramid=8),
    **{name: _detector("torchvision_detector", True, network=name) for name in DETECTORS},
}
BUILT_IN = frozenset(MODELS)
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


def register_model(
    name: str,
    build: Callable[[int], "nn.Module"],
    *,
    task: str = "classification",
    stages: "Sequence[str] | Reader | None" = None,
    image_size: int = 64,
) -> None:
    """Make a network of your own known to ``create_model`` and ``fit``, in this process.

    ``build`` makes any module of the number of classes K. Where that returns, for images
    (B, 3, H, W),

    - an ``Output``, it is used as it is;
    - a list of feature maps, fine to coarse, their mean over pixels and a linear classifier are
      added: ``lambda classes: timm.create_model("resnet34", features_only=True)``;
    - logits (B, K), ``stages`` tells the stages: names of the layers that return them, fine to
      coarse (the embedding is then the mean of the last), or a function
      ``(network, images) -> Output``.

    A run knows a network by its ``name``: give another architecture another one. ``task`` may be
    ``segmentation``, with logits (B, K, H, W), or ``detection``, of a ``Detector``. Every network
    is tried with one image of ``image_size`` pixels a side when it is built.

    Raises:
        KdlibError: a name of kdlib's own, or no such task; when it is built, what is wrong with it.
    """
    if current_name(name) in BUILT_IN:
        raise KdlibError(f"'{name}' is a network of kdlib's own; give yours another name.")
    tasks = {model.task for model in MODELS.values()}
    if task not in tasks:
        raise unknown("task of a network", task, tasks)
    options = {"build": build, "stages": stages, "image_size": image_size}
    ours = Model("kdlib.models.adapters:adapted", options, task)
    MODELS[name] = Model(build, task=task) if task == "detection" else ours


def check_task(name: str, task: str) -> None:
    """Refuse a network that does not do a task.

    Raises:
        KdlibError: an unknown network, or one of another task; lists those that do it.
    """
    does = "classification" if task == "crops" else task
    if _named(name).task != does:
        able = ", ".join(other for other, model in MODELS.items() if model.task == does)
        raise KdlibError(f"Model '{name}' is not for task '{task}'. Valid: {able}.")


def _named(name: str) -> Model:
    if current_name(name) not in MODELS:
        raise unknown("model", name, MODELS)
    return MODELS[current_name(name)]


def create_model(name: str, num_classes: int, **options: Any) -> "nn.Module":
    """Build a network whose forward takes images (B, 3, H, W) and returns an ``Output``.

    Detectors take a list of images and return what their ``Detector`` says.

    Args:
        name: one of ``model_names()``.
        num_classes: number of classes K.
        options: ``weights``, torchvision's name of pretrained weights ("DEFAULT" for the best),
            for its networks only; of a detector its backbone's. For detectors also ``image_size``,
            the side in pixels to which images are resized, and ``mean`` and ``std`` of each
            channel, which normalise them. None is the default of all.

    Raises:
        KdlibError: unknown name, option or weights, or one that cannot be.
    """
    model = _named(name)
    valid = ("weights",) * model.pretrained + DETECTOR_OPTIONS * (model.task == "detection")
    if options and not valid:
        given = ", ".join(options)
        raise KdlibError(f"Model '{name}' has no options: remove {given}, or choose another model.")
    checked_options(options, valid, f"model '{name}'")
    options = {option: value for option, value in options.items() if value is not None}
    build = resolve_name(model.build) if isinstance(model.build, str) else model.build
    return build(num_classes, **model.options, **options)
