"""The registry of methods: one line a method.

To add one, write its file (a module ``(student, teacher, batch) -> (B,)``) and one line here.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from torch import nn

from kdlib.data.batches import JOINT, MIXING
from kdlib.data.image_data import TASKS
from kdlib.detection.losses import BoxDistiller, CropLoss
from kdlib.distill import Distiller, bell, linear
from kdlib.errors import KdlibError, check_kind, checked_values, shown, unknown
from kdlib.frskd.losses import RefinementLoss
from kdlib.losses.attention import AttentionLoss
from kdlib.losses.contrastive import ContrastiveLoss
from kdlib.losses.dct import SpectralLoss, preset
from kdlib.losses.hints import HintLoss, VariationalLoss
from kdlib.losses.logits import DecoupledLoss, StandardisedLoss
from kdlib.losses.pair import Pair
from kdlib.losses.relations import ProbabilisticLoss, RelationalLoss, SimilarityLoss
from kdlib.losses.review import ReviewLoss, frequency_review
from kdlib.losses.semantic import SemanticLoss
from kdlib.srm.losses import (
    InitialisationLoss,
    ReconstructionLoss,
    SrmOptions,
    dictionary_of,
    initialisation_of,
    initialisation_on_logits,
)

if TYPE_CHECKING:
    from kdlib.runs import RunConfig

IMAGES = ("classification", "crops")
DENSE = (*IMAGES, "segmentation")
BOXES = ("detection",)


@dataclass(frozen=True)
class Method:
    """One line of the registry.

    Attributes:
        build: makes the method's loss from its options; ``None`` for methods without one.
        weight: of the loss, by default.
        source: where the method comes from.
        formula: what the loss is, in a line: F features, e embedding, z logits, p probabilities,
            A attention map of a stage; s student, t teacher; B images, T temperature; sums run over
            stages.
        fitted: whether ``build`` takes a :class:`~kdlib.losses.pair.Pair` first, since the
            loss has parts that are made for the networks or the data.
        warmup: share of the training over which the weight grows.
        ramp: how it grows, from the share of the warm-up to that of the weight.
        ce_weight: of the cross-entropy beside this loss, by default.
        self_taught: whether no teacher is needed: the loss brings its own, or compares the student
            with the truth.
        reads: what the method reads besides features, where that limits the augmentations:
            ``label`` (an image's one label or position), ``logits`` (of the teacher, one for each
            class) or ``codes`` (of the teacher's features, learned beforehand).
        tasks: what it works on (``TASKS``). ``DENSE`` methods read stages, or logits pixel by
            pixel; those of ``BOXES`` read what a detector says at its positives.
        after: the run that must be finished before one of this method can begin, for it reads
            that run's files; ``None`` for methods that begin with nothing but their teacher.
        couples: whether the loss of an image depends on the images beside it; where several
            processes train, these are the ones of its process's part of the batch.
        undivided: why several processes cannot train it together; empty where they can.
        settings: takes the options of a method without a loss of its own, and refuses bad ones.
    """

    build: Callable[..., nn.Module] | None
    weight: float
    source: str
    formula: str = ""
    fitted: bool = False
    warmup: float = 0.0
    ce_weight: float = 1.0
    self_taught: bool = False
    reads: tuple[str, ...] = ()
    tasks: tuple[str, ...] = IMAGES
    ramp: Callable[[float], float] = linear
    after: "Callable[[RunConfig], RunConfig] | None" = None
    settings: Callable[..., Any] | None = None
    couples: bool = False
    undivided: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """The options that ``method_options`` may set, with their defaults."""
        named = (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        return {
            p.name: p.default
            for p in self._parameters
            if p.kind in named and p.default is not p.empty
        }

    @property
    def checks_options(self) -> bool:
        """Whether ``build`` takes any option, and refuses unknown ones itself."""
        return any(p.kind is p.VAR_KEYWORD for p in self._parameters)

    @property
    def _parameters(self) -> list[inspect.Parameter]:
        maker = self.build or self.settings
        # A module without an __init__ of its own takes nothing; its signature would say anything.
        if maker is None or getattr(maker, "__init__", None) is nn.Module.__init__:
            return []
        return list(inspect.signature(maker).parameters.values())


PAPER = "arXiv 2205.01997"
SRM = "Tran 2021, arXiv 2103.17012"
WARMUP = 20 / 240
"""Of the training: 20 of the 240 epochs that are usual on CIFAR-100."""
AT = "sum ‖A_s/‖A_s‖ - A_t/‖A_t‖‖^2 / HW, A = mean_c F^2"
SPECTRUM = "sum ‖D_s - D_t‖, D = DCT-II(A) without DC, over its L2 norm"
# FRSKD, some of whose options are changed: they are parts or controls of one method.
refinement = partial(Method, weight=1.0, fitted=True, self_taught=True, tasks=DENSE)
FRSKD = "Ji 2021, arXiv 2103.08273"
# A classifier in a detector: p of a crop by the teacher, of a positive by the student.
detecting = partial(Method, tasks=BOXES)
CROPS = "Guo 2021, arXiv 2106.05209"
OF_ALL_IMAGES = "when it has learnt, it looks at all training images at once"
# The release's weight of the DCT loss is 1. Its variants differ in scale (their sum over three
# stages of random features is 16 for release_a, 4 for dct), so each default makes the weighted
# terms alike.
METHODS: dict[str, Method] = {
    "student": Method(None, 0.0, "cross-entropy alone", "-log p_s(target)", tasks=tuple(TASKS)),
    "kd": Method(
        None,
        0.0,
        "Hinton 2015, arXiv 1503.02531",
        "T^2 KL(p_t ‖ p_s)",
        ce_weight=0.1,
        tasks=DENSE,
    ),
    "fitnet": Method(
        HintLoss, 100.0, "Romero 2015, arXiv 1412.6550", "mean (W F_s - F_t)^2, one stage", True
    ),
    "at": Method(AttentionLoss, 1000.0, "Zagoruyko 2017, arXiv 1612.03928", AT, tasks=DENSE),
    "pkt": Method(
        ProbabilisticLoss,
        30000.0,
        "Passalis 2018, arXiv 1803.10837",
        "mean p_t log p_t/p_s, p(i, j) ~ 1 + cos(e_i, e_j)",
        couples=True,
    ),
    "vid": Method(
        VariationalLoss,
        1.0,
        "Ahn 2019, arXiv 1904.05835",
        "sum mean (log v_c + (F_t - m(F_s))^2/v_c) / 2",
        fitted=True,
    ),
    "sp": Method(
        SimilarityLoss,
        3000.0,
        "Tung 2019, arXiv 1907.09682",
        "‖G_s - G_t‖^2 / B^2, G = row-normalised F F^T",
        couples=True,
    ),
    "rkd": Method(
        RelationalLoss,
        1.0,
        "Park 2019, arXiv 1904.05068",
        "25 huber(distances of e) + 50 huber(angles of e)",
        couples=True,
    ),
    "crd": Method(
        ContrastiveLoss,
        0.8,
        "Tian 2020, arXiv 1910.10699",
        "-log h(e_s, e_t) - sum_K log(1 - h(e_s, e_t')), and s, t exchanged",
        fitted=True,
        reads=("label",),
        undivided="each would keep a memory of all images of its own, and renew its own part",
    ),
    "semckd": Method(
        SemanticLoss,
        400.0,
        "Chen 2021, arXiv 2012.03236",
        "sum_st a_st mean (P_st(F_s) - F_t)^2 / S, a learned",
        fitted=True,
        couples=True,
    ),
    "reviewkd": Method(
        ReviewLoss,
        1.0,
        "Chen 2021, arXiv 2104.09044",
        "sum HCL(ABF(F_s, deeper), F_t)",
        fitted=True,
        warmup=WARMUP,
    ),
    "dkd": Method(
        DecoupledLoss,
        1.0,
        "Zhao 2022, arXiv 2203.08679",
        "T^2 (1 TCKD + 8 NCKD)",
        warmup=WARMUP,
        reads=("label", "logits"),
    ),
    "logit_std": Method(
        StandardisedLoss,
        9.0,
        "Sun 2024, arXiv 2403.01427",
        "KD of z-scored logits, T = 2",
        ce_weight=0.1,
        reads=("logits",),
    ),
    "famkd": Method(
        frequency_review,
        1.0,
        "Pham 2024, arXiv 2403.05894",
        "sum HCL(FAM(ABF(F_s, deeper)), F_t), FAM a filter of FFT2(F)",
        fitted=True,
        warmup=WARMUP,
    ),
    "srm": Method(
        None,
        0.0,
        SRM,
        "cross-entropy, after an initialisation by the teacher's sparse codes",
        reads=("codes",),
        after=initialisation_of,
        settings=SrmOptions,
    ),
    # The release gives the pixels' cross-entropy values that are no logits.
    "srm_logits": Method(
        None,
        0.0,
        SRM,
        "as srm, but what the student's codes are the sigmoid of meets the pixels' labels",
        reads=("codes",),
        after=initialisation_on_logits,
        settings=partial(SrmOptions, release=False),
    ),
    "dct": Method(
        partial(preset, "dct"), 4.0, f"{PAPER}, taken at its word", SPECTRUM, tasks=DENSE
    ),
    "release_a": Method(
        partial(preset, "release_a"),
        1.0,
        f"{PAPER}, release of June 2021",
        "as dct, D = abs Re FFT2(A) over its largest",
    ),
    "release_b": Method(
        partial(preset, "release_b"),
        1.0,
        f"{PAPER}, release, branch main",
        "as dct, D = min-max of Re FFT2(A)",
    ),
    "ours": Method(
        partial(preset, "ours"), 6.0, "the dev split's choice of DCT options", "as dct_abs"
    ),
    "dct_options": Method(SpectralLoss, 4.0, "any options of the DCT loss, by name", SPECTRUM),
    "at_equal_scale": Method(
        partial(AttentionLoss, level_weights="equal_scale"),
        4.0,
        "control: AT, levels balanced",
        "as at, each stage over its running mean",
        couples=True,
    ),
    "parseval_twin": Method(
        partial(preset, "parseval_twin"), 4.0, "control: dct, no transform", "as dct, D = A - mean"
    ),
    "dct_abs": Method(
        partial(preset, "dct_abs"), 6.0, "control: dct of absolute coefficients", "as dct, of abs D"
    ),
    "dct_l1": Method(
        partial(preset, "dct_l1"),
        0.25,
        "control: dct with an L1 distance",
        "as dct, sum ‖D_s - D_t‖_1",
    ),
    "dct_low": Method(
        partial(preset, "dct_low"),
        4.0,
        "control: dct, low frequencies only",
        "as dct, lower half of the frequencies",
    ),
    "dct_high": Method(
        partial(preset, "dct_high"),
        4.0,
        "control: dct, high frequencies only",
        "as dct, upper half of the frequencies",
    ),
    "newl2": Method(
        partial(preset, "newl2"),
        1.0,
        "control: L2 of min-max maps",
        "sum ‖M_s - M_t‖, M = min-max of A",
    ),
    "frskd": refinement(
        RefinementLoss,
        source=FRSKD,
        formula="2 T^2 KL(q ‖ p_s) + 100 AT(F_s, F_q), q a pyramid on F_s trained beside it",
    ),
    "frskd_published": refinement(
        RefinementLoss, source=f"{FRSKD}, weights as published", formula="as frskd, never tuned"
    ),
    "frskd_logits": refinement(
        partial(RefinementLoss, beta=0.0), source="control: frskd, KL alone", formula="2 T^2 KL"
    ),
    "frskd_maps": refinement(
        partial(RefinementLoss, alpha=0.0), source="control: frskd, AT alone", formula="100 AT"
    ),
    "frskd_detached": refinement(
        partial(RefinementLoss, detach=True),
        source="control: frskd, its labels not felt by the student",
        formula="as frskd, F_s detached where q reads it",
    ),
    "frskd_dct": refinement(
        partial(RefinementLoss, feature="dct"),
        source="control: frskd with the DCT loss in the place of AT",
        formula="2 T^2 KL + 0.5 dct",
    ),
    "frskd_pixels": refinement(
        partial(RefinementLoss, alpha=1.0, beta=50.0, temperature=1.0),
        source=f"{FRSKD}, as published for segmentation",
        formula="KL(q ‖ p_s) of pixels + 50 AT(F_s, F_q), ramped by exp(-5 (1 - t)^2)",
        warmup=2 / 3,  # 40 of 60 epochs
        ramp=bell,
    ),
    "frskd_options": refinement(
        RefinementLoss, source="any options of FRSKD, by name", formula="as frskd"
    ),
    "kd_cls": detecting(
        partial(CropLoss, cls=1.0, loc=0.0),
        weight=0.4,
        source=f"{CROPS}, recognition",
        formula="T^2 KL(p_t of the object's crop ‖ p_s), mean of positives, T = 2",
    ),
    "loc": detecting(
        partial(CropLoss, cls=0.0, loc=1.0, layers=(-1,)),
        weight=0.15,
        source=f"{CROPS}, localisation by pixels alone",
        formula="as kd_loc, of the crops' pixels (0 to 255)",
        self_taught=True,
    ),
    "kd_loc": detecting(
        partial(CropLoss, cls=0.0, loc=1.0),
        weight=0.15,
        source=f"{CROPS}, localisation",
        formula="mean ‖F_t(crop of the predicted box) - F_t(crop of the object)‖_1, pixels too",
    ),
    "kd_cls_loc": detecting(
        CropLoss, weight=1.0, source=f"{CROPS}, both", formula="0.4 kd_cls + 0.15 kd_loc"
    ),
}
# Runs that others start from. They are no methods: there is nothing to compare them with.
STAGES: dict[str, Method] = {
    "srm_dictionary": Method(
        ReconstructionLoss,
        1.0,
        SRM,
        "sum mean (C k - F_t)^2, k the s largest of sigmoid(C^T F_t + b)",
        fitted=True,
        ce_weight=0.0,
        reads=("codes",),
        undivided=OF_ALL_IMAGES,
    ),
    "srm_init": Method(
        InitialisationLoss,
        1.0,
        SRM,
        "sum BCE(mean k_s, mean k_t) + CE(k_s, argmax k_t)",
        fitted=True,
        ce_weight=0.0,
        reads=("codes",),
        after=dictionary_of,
        undivided=OF_ALL_IMAGES,
    ),
}


# Methods by their strings: taken apart, and built for a run.
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
