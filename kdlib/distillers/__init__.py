"""Methods by their strings: taken apart, and built for a run.

A method string is a method's name with modifiers: ``dct``, ``dct+kd``, ``at+gate+kd``. The names
are those of the registry, ``kdlib/distillers/registry.py``.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from kdlib.data.mixing import JOINT, MIXING
from kdlib.distillers.base import Distiller
from kdlib.distillers.pair import Pair
from kdlib.distillers.registry import METHODS, Method
from kdlib.errors import KdlibError, checked_options, unknown

if TYPE_CHECKING:
    from kdlib.runs import RunConfig

__all__ = [
    "METHODS",
    "MODIFIERS",
    "Method",
    "Pair",
    "create_distiller",
    "is_self_taught",
    "parse_method",
    "weights_of",
]

MODIFIERS = ("kd", "gate")
CE_WEIGHT_WITH_KD = 0.1
# What a method may read, the augmentations that take it away, and the reason in words.
REFUSED = {
    "label": (MIXING, "reads an image's one label, which this augmentation takes from it"),
    "logits": ((JOINT,), "reads a teacher's logits, and no teacher knows rotations"),
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
    if base not in METHODS:
        raise unknown("method", base, METHODS)
    for modifier in modifiers:
        if modifier not in MODIFIERS:
            raise unknown("method modifier", modifier, MODIFIERS)
    if modifiers and METHODS[base].build is None:
        raise KdlibError(
            f"'{text}': '{base}' takes no modifier; +kd and +gate belong to a method such as dct."
        )
    return MethodParts(base, "kd" in modifiers or base == "kd", "gate" in modifiers)


def is_self_taught(text: str) -> bool:
    """Whether a method string needs no teacher, because the method brings its own.

    A method that is not known is none of those: who builds it says what is wrong.
    """
    base, *modifiers = text.split("+")
    return base in METHODS and METHODS[base].self_taught and "kd" not in modifiers


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
    parts = parse_method(config.method)
    method = METHODS[parts.base]
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
    _check_task(config.method, parts, config.task)
    _check_augmentation(config.method, parts, config.augmentation)
    return Distiller(
        parts.base,
        _method_loss(parts.base, config.method_options, pair),
        weight=weights.method,
        warmup=METHODS[parts.base].warmup,
        ramp=METHODS[parts.base].ramp,
        ce_weight=weights.ce,
        kd_weight=weights.kd,
        temperature=config.temperature,
        gate=parts.gate,
    )


def _check_task(method: str, parts: MethodParts, task: str) -> None:
    """Refuse a method that reads the one class of an image where each pixel has its own."""
    if task == "segmentation" and (parts.gate or not METHODS[parts.base].dense):
        valid = ", ".join(name for name, line in METHODS.items() if line.dense)
        raise KdlibError(
            f"'{method}' is for the classes of images, not for task '{task}'. Valid there: "
            f"{valid}, each without +gate."
        )


def _check_augmentation(method: str, parts: MethodParts, augmentation: Sequence[str]) -> None:
    """Refuse labels that are mixed or joint where a method reads whole ones.

    Raises:
        KdlibError: names the method, the augmentation and what they disagree about.
    """
    gated, distilled = ("label",) if parts.gate else (), ("logits",) if parts.kd else ()
    for what in (*METHODS[parts.base].reads, *gated, *distilled):
        refused, reason = REFUSED[what]
        for name in set(refused) & set(augmentation):
            text = f"'{method}' {reason}: leave '{name}' out of augmentation"
            raise KdlibError(f"{text}, or choose another method.")


def _method_loss(name: str, options: Mapping[str, Any], pair: Pair | None) -> nn.Module | None:
    method = METHODS[name]
    if method.build is None:
        return None
    if not method.checks_options:
        checked_options(options, method.options, f"method '{name}'")
    if not method.fitted:
        return method.build(**options)
    if pair is None:
        raise KdlibError(f"'{name}' is made for two networks: give create_distiller their pair.")
    return method.build(pair, **options)
