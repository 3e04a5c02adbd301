"""Networks by name: what builds each, and the task that it does."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pkgutil import resolve_name
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from kdlib.errors import KdlibError, check_known, check_range, checked_options

if TYPE_CHECKING:
    from torch import nn

    from kdlib.models.output import Reader


class Model(NamedTuple):
    """A network: what builds it (itself, or as ``module:name``) of K classes and these options."""

    build: str | Callable[..., "nn.Module"]
    options: Mapping[str, Any] = MappingProxyType({})
    task: str = "classification"  # which is that of crops too; or segmentation, detection
    pretrained: bool = False  # whether it can begin with weights of torchvision
    revision: int = 1  # raised when the same name gives another network: runs of before are others


def _model(
    module: str, name: str, pretrained: bool = False, task: str = "classification",
    revision: int = 1, **options: Any,
) -> Model:  # fmt: skip
    return Model(f"kdlib.{module}:{name}", options, task, pretrained, revision)


_cifar = partial(_model, "models.cifar")
_basic = partial(_cifar, "basic_resnet", strides=(1, 1, 2, 2))
_scenes = partial(_cifar, "basic_resnet")
_wide = partial(_cifar, "WideResNet")
_torchvision = partial(_model, "models.torchvision")
_tapped = partial(_torchvision, "TappedNetwork", True)
_resnet = partial(_tapped, logits="fc", stages=("layer1", "layer2", "layer3", "layer4"))
_segmenter = partial(_model, "frskd.segmentation", task="segmentation", revision=2)
_efficient = partial(_segmenter, "efficientdet", True)
_detector = partial(_model, "detection.models", task="detection")
TINY, NARROW = (4, 4, 8, 16), (16, 16, 32, 64)
MOBILE_STAGES = ("features.3", "features.6", "features.13", "features.18")
DETECTORS = (
    "ssd300_vgg16", "ssdlite320_mobilenet_v3_large", "retinanet_resnet50_fpn",
    "fasterrcnn_mobilenet_v3_large_fpn", "fasterrcnn_resnet50_fpn",
)  # fmt: skip
MODELS: dict[str, Model] = {
    **{f"resnet{6 * n + 2}": _basic(blocks=n, widths=NARROW) for n in (1, 2, 3, 5, 7, 9, 18)},
    **{f"resnet{6 * n + 2}x4": _basic(blocks=n, widths=(32, 64, 128, 256)) for n in (1, 5)},
    **{f"wrn_{d}_{w}": _wide(depth=d, width=w) for d, w in ((16, 2), (40, 1), (40, 2))},
    "resnet18_cifar": _torchvision("resnet_cifar", block="BasicBlock", counts=(2, 2, 2, 2)),
    "resnet50_cifar": _torchvision("resnet_cifar", block="Bottleneck", counts=(3, 4, 6, 3)),
    "vgg8": _cifar("cifar_vgg", repeats=1, revision=2),
    "vgg13": _cifar("cifar_vgg", repeats=2, revision=2),
    "mobilenet_v2_cifar": _torchvision("mobilenet_v2_cifar", revision=2),
    "shuffle_v1": _cifar("cifar_shuffle_v1"),
    "shuffle_v2": _torchvision("shuffle_v2_cifar", revision=2),
    "scenes_small": _scenes(widths=TINY),
    "scenes_medium": _scenes(widths=NARROW),
    "scenes_large": _scenes(widths=(48, 48, 96, 192)),
    "scenes_mobile": _torchvision("scenes_mobile"),
    **{f"resnet{n}": _resnet(network=f"resnet{n}") for n in (18, 34, 50, 152)},
    "mobilenet_v2": _tapped(network="mobilenet_v2", logits="classifier.1", stages=MOBILE_STAGES),
    "scenes_segmenter": _segmenter("scenes_segmenter", widths=NARROW, width=32),
    "scenes_segmenter_tiny": _segmenter("scenes_segmenter", widths=TINY, width=8),
    "efficientdet_d0": _efficient(backbone="efficientnet_b0", width=64, layers=3),
    "efficientdet_d1": _efficient(backbone="efficientnet_b1", width=88, layers=4),
    "scenes_ssd": _detector("scenes_ssd", widths=NARROW),
    "scenes_ssd_tiny": _detector("scenes_ssd", widths=TINY),
    "scenes_retinanet": _detector("scenes_retinanet", widths=NARROW, pyramid=48),
    "scenes_retinanet_tiny": _detector("scenes_retinanet", widths=TINY, pyramid=8),
    **{name: _detector("torchvision_detector", True, network=name) for name in DETECTORS},
}
BUILT_IN = frozenset(MODELS)
# What networks were called when the first runs were named: hashes, run ids and records keep it.
FIRST_NAMES = dict(
    scenes_small="scenes_tiny", scenes_medium="scenes_student", scenes_large="scenes_teacher"
)
OWN_NAMES = {first: own for own, first in FIRST_NAMES.items()}


def current_name(name: str) -> str:
    """The name of a network, which may be given by its first one; any other text as it is."""
    return OWN_NAMES.get(name, name)


def network_revision(name: str) -> int:
    """Which version of itself the network of this name is at; 1 of one that is not known."""
    model = MODELS.get(current_name(name))
    return model.revision if model else 1


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

    ``build`` makes a module of the number of classes K, which for images (B, 3, H, W) returns an
    ``Output``; or feature maps, fine to coarse, to which a linear classifier of their mean is added
    (timm's ``features_only=True``); or logits (B, K), and then ``stages`` are the names of layers
    that return the stages, fine to coarse, or a function ``(network, images) -> Output``. ``task``
    may be ``segmentation``, with logits (B, K, H, W), or ``detection``, of a ``Detector``. A run
    knows a network by its ``name`` alone: give another architecture another one. When it is built,
    it is tried with an image of ``image_size`` squared, and a KdlibError says what is wrong.
    """
    if current_name(name) in BUILT_IN:
        raise KdlibError(f"'{name}' is a network of kdlib's own; give yours another name.")
    check_known("task of a network", task, {model.task for model in MODELS.values()})
    check_range("image_size", image_size, 1, 4096)
    options = {"build": build, "stages": stages, "image_size": image_size, "task": task}
    adapted = Model("kdlib.models.output:adapted", options, task)
    MODELS[name] = Model(build, task=task) if task == "detection" else adapted


def check_task(name: str, task: str) -> None:
    """Refuse a network that does not do a task; the KdlibError lists those that do."""
    does = "classification" if task == "crops" else task
    if _named(name).task != does:
        able = ", ".join(other for other, model in MODELS.items() if model.task == does)
        raise KdlibError(f"Model '{name}' is not for task '{task}'. Valid: {able}.")


def _named(name: str) -> Model:
    check_known("model", current_name(name), MODELS)
    return MODELS[current_name(name)]


def create_model(name: str, num_classes: int, **options: Any) -> "nn.Module":
    """Build a network whose forward takes images (B, 3, H, W) and returns an ``Output``.

    Of torchvision's networks ``options`` may be ``weights``, its name of pretrained weights
    ("DEFAULT" for the best; of a detector its backbone's). Detectors take a list of images and
    return what their ``Detector`` says; their options are also ``image_size``, in pixels, to which
    images are resized, and the channels' ``mean`` and ``std``. A KdlibError says what is valid.
    """
    model = _named(name)
    check_range("num_classes", num_classes, 1, 10**6)
    of_detectors = ("image_size", "mean", "std") * (model.task == "detection")
    checked_options(options, ("weights",) * model.pretrained + of_detectors, f"model '{name}'")
    options = {option: value for option, value in options.items() if value is not None}
    build = resolve_name(model.build) if isinstance(model.build, str) else model.build
    return build(num_classes, **model.options, **options)
