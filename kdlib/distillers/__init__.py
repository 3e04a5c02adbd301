"""Methods by their strings: taken apart, and built for a run.

A method string is a method's name with modifiers: ``dct``, ``dct+kd``, ``at+gate+kd``. The names
are those of the registry, ``kdlib/distillers/registry.py``.
"""

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from torch import nn

from kdlib.data.mixing import JOINT, MIXING
from kdlib.distillers.base import Distiller
from kdlib.distillers.boxes import BoxDistiller, CropLoss
from kdlib.distillers.pair import Pair
from kdlib.distillers.registry import METHODS, STAGES, Method
from kdlib.errors import KdlibError, checked_values, shown, unknown
from kdlib.kinds import check_kind

if TYPE_CHECKING:
    from kdlib.runs import RunConfig

__all__ = [
    "METHODS",
    "MODIFIERS",
    "STAGES",
    "Method",
    "Pair",
    "create_box_distiller",
    "create_distiller",
    "is_self_taught",
    "method_of",
    "modifiers_of",
    "parse_method",
    "run_before",
    "tuned_field",
    "weights_of",
]

MODIFIERS = ("kd", "gate")
CE_WEIGHT_WITH_KD = 0.1
# What a method may read, the augmentations that take it away, and the reason in words.
REFUSED = {
    "label": (MIXING, "reads an image's one label, which this augmentation takes from it"),
    "logits": ((JOINT,), "reads a teacher's logits, and no teacher knows rotations"),
    "codes": (
        MIXING,
        "reads a teacher's codes, and these were learned from whole, upright images",
    ),
}


class MethodParts(NamedTuple):
    """A method string taken apart."""

    base: str
    kd: bool
    gate: bool


def parse_method(text: str) -> MethodParts:
    """Take a method string apart.

    Raises:
        KdlibError: unknown method or modifier, or a modifier that means nothing there.
    """
    base, *modifiers = text.split("+")
    if base not in METHODS | STAGES:
        raise unknown("method", base, METHODS)
    for modifier in modifiers:
        if modifier not in MODIFIERS:
            raise unknown("method modifier", modifier, MODIFIERS)
    valid = modifiers_of(base)
    if not set(modifiers) <= set(valid):
        takes = f"+{valid[0]} alone" if valid else "no modifier"
        raise KdlibError(
            f"'{text}': '{base}' takes {takes}; +kd and +gate belong to a method such as dct."
        )
    return MethodParts(base, "kd" in modifiers or base == "kd", "gate" in modifiers)


def modifiers_of(base: str) -> tuple[str, ...]:
    """The modifiers that a method may have: only a loss of its own can be gated."""
    line = (METHODS | STAGES)[base]
    if base in STAGES or "classification" not in line.tasks or not (line.build or line.settings):
        return ()
    return MODIFIERS if METHODS[base].build else ("kd",)


def method_of(text: str) -> Method:
    """The line of the registry, of a method or a stage, that a method string belongs to."""
    return (METHODS | STAGES)[parse_method(text).base]


def is_self_taught(text: str) -> bool:
    """Whether a method string needs no teacher, because the method brings its own.

    A method that is not known is none of those: who builds it says what is wrong.
    """
    base, *modifiers = text.split("+")
    return base in METHODS and METHODS[base].self_taught and "kd" not in modifiers


def run_before(config: "RunConfig") -> "RunConfig | None":
    """The run that must be finished before this one can begin, beside its teacher's."""
    after = method_of(config.method).after
    return after(config) if after else None


def tuned_field(method: str) -> str | None:
    """The weight of a method that the dev split chooses; ``None`` where it has none."""
    if method_of(method).build:
        return "weight"
    return "kd_weight" if parse_method(method).kd else None


class Weights(NamedTuple):
    """Weights of a run's terms: the method's own, of cross-entropy, of logit KD."""

    method: float
    ce: float
    kd: float


def weights_of(config: "RunConfig") -> Weights:
    """What a run's terms are weighted with: as the run says, else by the method's defaults.

    Raises:
        KdlibError: unknown method or modifier.
    """
    parts, method = parse_method(config.method), method_of(config.method)
    ce = CE_WEIGHT_WITH_KD if parts.kd else method.ce_weight
    return Weights(
        method=method.weight if config.weight is None else config.weight,
        ce=ce if config.ce_weight is None else config.ce_weight,
        kd=config.kd_weight if parts.kd else 0.0,
    )


def create_distiller(config: "RunConfig", pair: Pair | None = None) -> Distiller:
    """Build the distiller of a run: method loss, weights, gate.

    Args:
        config: the run.
        pair: the networks and data, for methods that are fitted to them.

    Raises:
        KdlibError: unknown method, modifier or method option; a method that needs a ``pair``;
            an augmentation that the method cannot learn with, or a task that it cannot learn.
    """
    parts, weights = parse_method(config.method), weights_of(config)
    method = method_of(config.method)
    _check_task(config)
    _check_augmentation(config)
    return Distiller(
        parts.base,
        _method_loss(parts.base, config.method_options, pair),
        weight=weights.method,
        warmup=method.warmup,
        ramp=method.ramp,
        ce_weight=weights.ce,
        kd_weight=weights.kd,
        temperature=config.temperature,
        gate=parts.gate,
    )


def create_box_distiller(config: "RunConfig") -> BoxDistiller:
    """Build what a detector is taught with, beside torchvision's own losses.

    Raises:
        KdlibError: unknown method or option, a method of another task, or one that needs a teacher
            and has none.
    """
    _check_task(config)
    loss = cast("CropLoss | None", _method_loss(config.method, config.method_options, None))
    if loss is not None and loss.needs_classifier and config.canonical().teacher == "none":
        raise KdlibError(f"'{config.method}' asks a classifier about crops: name a teacher.")
    return BoxDistiller(config.method, loss, weights_of(config).method)


def _check_task(config: "RunConfig") -> None:
    """Refuse a method on a task whose truth it cannot read; where pixels have classes, a gate."""
    gate, tasks = parse_method(config.method).gate, method_of(config.method).tasks
    if config.task not in tasks or (gate and config.task == "segmentation"):
        valid = ", ".join(name for name, line in METHODS.items() if config.task in line.tasks)
        raise KdlibError(
            f"'{config.method}' is for {' and '.join(tasks)}, not for task '{config.task}'. Valid "
            f"there: {valid}{', each without +gate' if config.task == 'segmentation' else ''}."
        )


def _check_augmentation(config: "RunConfig") -> None:
    """Refuse images that are mixed or turned, and their labels, where a method reads whole ones.

    Raises:
        KdlibError: names the method, the augmentation and what they disagree about.
    """
    parts = parse_method(config.method)
    gated, distilled = ("label",) if parts.gate else (), ("logits",) if parts.kd else ()
    for what in (*method_of(config.method).reads, *gated, *distilled):
        refused, reason = REFUSED[what]
        for name in set(refused) & set(config.augmentation):
            text = f"'{config.method}' {reason}: leave '{name}' out of augmentation"
            raise KdlibError(f"{text}, or choose another method.")


def _check_kinds(options: Mapping[str, Any], method: Method) -> None:
    """Refuse a value that is not what its option's annotation says: a default may be ``None``."""
    maker = method.build or method.settings
    known = inspect.signature(maker).parameters if maker else {}
    for name, value in options.items():
        check_kind(f"Option '{name}'", value, known[name].annotation)


def _method_loss(name: str, options: Mapping[str, Any], pair: Pair | None) -> nn.Module | None:
    method = method_of(name)
    if not method.checks_options:
        checked_values(options, method.options, f"method '{name}'")
        _check_kinds(options, method)
    if method.build is None:
        if method.settings:
            method.settings(**options)
        return None
    if method.fitted and pair is None:
        raise KdlibError(f"'{name}' is made for two networks: give create_distiller their pair.")
    try:
        return method.build(pair, **options) if method.fitted else method.build(**options)
    except Exception as error:
        if isinstance(error, KdlibError) or not options:
            raise
        raise KdlibError(
            f"'{name}' cannot be built with the options {shown(dict(options))} "
            f"({shown(str(error))}); change or leave out what is out of its range."
        ) from error
