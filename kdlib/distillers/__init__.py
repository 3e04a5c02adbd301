"""The registry of methods: one line a method, and the modifiers ``+kd`` and ``+gate``.

A method string is a method's name with modifiers: ``dct``, ``dct+kd``, ``at+gate+kd``. To add a
method, write its file (a module ``(student, teacher, targets) -> (B,)``) and one line here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from kdlib.distillers.attention import AttentionLoss
from kdlib.distillers.base import Distiller
from kdlib.distillers.spectral import SpectralLoss, preset
from kdlib.errors import KdlibError, unknown

if TYPE_CHECKING:
    from kdlib.runs import RunConfig

MODIFIERS = ("kd", "gate")
CE_WEIGHT_WITH_KD = 0.1


@dataclass(frozen=True)
class Method:
    """One line of the registry: how to build a method's loss, its weight, its source."""

    build: Callable[..., nn.Module] | None
    weight: float
    source: str


PAPER = "arXiv 2205.01997"
# The release's weight is 1. The variants' losses differ in scale (their sum over three stages of
# random features is 16 for release_a, 4 for dct), so each default makes the weighted terms alike.
METHODS: dict[str, Method] = {
    "student": Method(None, 0.0, "cross-entropy alone"),
    "kd": Method(None, 0.0, "Hinton 2015, arXiv 1503.02531"),
    "at": Method(AttentionLoss, 1000.0, "Zagoruyko 2017, arXiv 1612.03928"),
    "at_equal_scale": Method(
        partial(AttentionLoss, level_weights="equal_scale"), 4.0, "control: AT, levels balanced"
    ),
    "dct": Method(partial(preset, "dct"), 4.0, f"{PAPER}, taken at its word"),
    "release_a": Method(partial(preset, "release_a"), 1.0, f"{PAPER}, release of June 2021"),
    "release_b": Method(partial(preset, "release_b"), 1.0, f"{PAPER}, release, branch main"),
    "ours": Method(partial(preset, "ours"), 6.0, "the dev split's choice of DCT options"),
    "parseval_twin": Method(partial(preset, "parseval_twin"), 4.0, "control: dct, no transform"),
    "dct_abs": Method(partial(preset, "dct_abs"), 6.0, "control: dct of absolute coefficients"),
    "dct_l1": Method(partial(preset, "dct_l1"), 0.25, "control: dct with an L1 distance"),
    "dct_low": Method(partial(preset, "dct_low"), 4.0, "control: dct, low frequencies only"),
    "dct_high": Method(partial(preset, "dct_high"), 4.0, "control: dct, high frequencies only"),
    "newl2": Method(partial(preset, "newl2"), 1.0, "control: L2 of min-max maps"),
    "dct_options": Method(SpectralLoss, 4.0, "any options of the DCT loss, by name"),
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


def create_distiller(config: "RunConfig") -> Distiller:
    """Build the distiller of a run: method loss, weights, gate.

    Raises:
        KdlibError: unknown method, modifier or method option.
    """
    parts = parse_method(config.method)
    method = METHODS[parts.base]
    given = config.ce_weight
    default = CE_WEIGHT_WITH_KD if parts.kd else 1.0
    return Distiller(
        parts.base,
        method.build(**config.method_options) if method.build else None,
        weight=method.weight if config.weight is None else config.weight,
        ce_weight=default if given is None else given,
        kd_weight=config.kd_weight if parts.kd else 0.0,
        temperature=config.temperature,
        gate=parts.gate,
    )
