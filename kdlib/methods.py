"""The methods: what each learns from, and what a method string such as ``at+gate+kd`` means.

To add one to kdlib, write its loss and one entry here; from anywhere else, call
:func:`register_method`. What an entry names is imported when it is asked for.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, NamedTuple

from kdlib.errors import KdlibError, check_known, checked_options
from kdlib.tasks import JOINT, MIXING, TASKS

if TYPE_CHECKING:
    from kdlib.runs import RunConfig

IMAGES = ("classification", "crops")
DENSE = (*IMAGES, "segmentation")  # of methods that read stages, or logits pixel by pixel


@dataclass(frozen=True)
class Method:
    """One entry of the registry; what it names, it names as ``module:name``."""

    # Makes the loss from the method's options, (student, teacher, batch) -> (B,). With `of` it is
    # the loss, of that part of two outputs (logits, stages, embedding), and of labels if it reads.
    build: str | Callable[..., Any] | None = None
    weight: float = 0.0  # of the loss, by default
    source: str = ""  # where the method comes from
    # In a line: F features, e embedding, z logits, p probabilities, A attention map of a stage;
    # s student, t teacher; B images, T temperature; sums run over stages.
    formula: str = ""
    of: str | None = None
    arguments: tuple[Any, ...] = ()  # positional ones of `build`
    fixed: dict[str, Any] = field(default_factory=dict)  # options other than `build`'s defaults
    fitted: bool = False  # `build` takes a NetworkPair first, which its layers are made for
    warmup: float = 0.0  # share of the training over which the weight grows
    ramp: str | Callable[[float], float] = float  # of the warm-up's share to the weight's
    ce_weight: float = 1.0  # of the cross-entropy beside this loss, by default
    self_taught: bool = False  # no teacher is needed: the loss brings its own, or needs none
    reads: tuple[str, ...] = ()  # what limits the augmentations, see REFUSED
    tasks: tuple[str, ...] = IMAGES
    after: str | None = None  # from a run to the one that must be finished before it begins
    revision: int = 1  # raised when the same settings give other numbers: runs of before are others
    state: str = "kdlib.train_state:TrainState"  # what trains a run of the method
    couples: bool = False  # an image's loss depends on the images beside it (in its process)
    undivided: str = ""  # why several processes cannot train it together
    settings: str | None = None  # takes the options of a method without a loss, refuses bad ones

    @property
    def maker(self) -> Callable[..., Any]:
        """What takes the method's options: ``build``, else ``settings``, else what takes none."""
        named = self.build or self.settings or object
        found = resolve_name(named) if isinstance(named, str) else named
        return partial(found, *self.arguments, **self.fixed)

    @property
    def options(self) -> dict[str, Any]:
        """What ``method_options`` may set, with the defaults."""
        found = signature(self.maker).parameters.values()
        named = [one for one in found if one.kind is not one.POSITIONAL_ONLY]
        return {one.name: one.default for one in named if one.default is not one.empty}


PAPER = "arXiv 2205.01997"
# Of the training: 20 of the 240 epochs that are usual on CIFAR-100. Weights grow with each step,
# where the releases' do with each epoch.
WARMUP = 20 / 240
SPECTRUM = "sum ‖D_s - D_t‖, D = DCT-II(A) without DC, over its L2 norm"
FRSKD = "Ji 2021, arXiv 2103.08273"
CROPS = "Guo 2021, arXiv 2106.05209"


# fmt: off
def _core(name: str, *line: Any, **more: Any) -> Method:
    return Method(f"kdlib.losses.{name}", *line, **more)


def _dct(preset: str, *line: Any, **more: Any) -> Method:
    return _core("dct:DCTLoss", *line, arguments=(preset, "none"), **more)


_fitted = partial(_core, fitted=True, revision=2)
# SRM in its three runs: dictionaries of a teacher, an initialised student, the task.
_srm = partial(Method, source="Tran 2021, arXiv 2103.17012", reads=("codes",))
_srm_task = partial(_srm, settings="kdlib.srm.options:SrmOptions",
    state="kdlib.srm.stages:Continued", revision=2)
_srm_stage = partial(_srm, weight=1.0, fitted=True, ce_weight=0.0,
    undivided="when it has learnt, it looks at all training images at once")
# FRSKD, some of whose options are changed: they are parts or controls of one method.
_frskd = partial(Method, "kdlib.frskd.losses:RefinementLoss", 1.0, fitted=True, self_taught=True,
    tasks=DENSE, state="kdlib.frskd.losses:SelfTaught", revision=2)
# A classifier in a detector: p of a crop by the teacher, of a positive by the student.
_crops = partial(Method, "kdlib.detection.losses:CropLoss", tasks=("detection",), revision=2)
# The release weighs its DCT loss by 1. Variants differ in scale (over three stages of random
# features, release_a's sum is 16, dct's 4), so each default makes the weighted terms alike.
METHODS: dict[str, Method] = {
    "student": Method(source="cross-entropy alone", formula="-log p_s(target)", tasks=tuple(TASKS)),
    "kd": Method(source="Hinton 2015, arXiv 1503.02531", formula="T^2 KL(p_t ‖ p_s)",
        ce_weight=0.1, tasks=DENSE),
    "fitnet": _fitted("hints:HintLoss", 100.0, "Romero 2015, arXiv 1412.6550",
        "mean (R(F_s) - F_t)^2, one stage, R conv + BN + ReLU"),
    "at": _core("attention:ATLoss", 1000.0, "Zagoruyko 2017, arXiv 1612.03928",
        "sum ‖A_s/‖A_s‖ - A_t/‖A_t‖‖^2 / HW, A = mean_c F^2", arguments=("none",), tasks=DENSE),
    "pkt": _core("relations:pkt_per_image", 30000.0, "Passalis 2018, arXiv 1803.10837",
        "mean p_t log p_t/p_s, p(i, j) ~ 1 + cos(e_i, e_j)", "embedding", couples=True,
        revision=2),
    "vid": _fitted("hints:VariationalLoss", 1.0, "Ahn 2019, arXiv 1904.05835",
        "sum mean (log v_c + (F_t - m(F_s))^2/v_c) / 2"),
    "sp": _core("relations:sp_per_image", 3000.0, "Tung 2019, arXiv 1907.09682",
        "‖G_s - G_t‖^2 / B^2, G = row-normalised F F^T", "stages", couples=True),
    "rkd": _core("relations:rkd_per_image", 1.0, "Park 2019, arXiv 1904.05068",
        "25 huber(distances of e) + 50 huber(angles of e)", "embedding", couples=True),
    "crd": _core("contrastive:ContrastiveLoss", 0.8, "Tian 2020, arXiv 1910.10699",
        "-log h(e_s, e_t) - sum_K log(1 - h(e_s, e_t')), and s, t exchanged", fitted=True,
        undivided="each would keep a memory of all images of its own, and renew its own part",
        reads=("label",)),
    "semckd": _fitted("hints:SemanticLoss", 400.0, "Chen 2021, arXiv 2012.03236",
        "sum_st a_st mean (P_st(F_s) - F_t)^2 / S, a learned", couples=True),
    "reviewkd": _fitted("review:ReviewLoss", 1.0, "Chen 2021, arXiv 2104.09044",
        "sum HCL(ABF(F_s, deeper), F_t before its last ReLU)", warmup=WARMUP),
    "dkd": _core("logits:dkd_per_image", 1.0, "Zhao 2022, arXiv 2203.08679",
        "T^2 (1 TCKD + 8 NCKD)", "logits", warmup=WARMUP, reads=("label", "logits")),
    "logit_std": _core("logits:standardised_kd_per_image", 9.0, "Sun 2024, arXiv 2403.01427",
        "KD of z-scored logits, T = 2", "logits", ce_weight=0.1, reads=("logits",), revision=2),
    "famkd": _fitted("review:FrequencyReview", 1.0, "Pham 2024, arXiv 2403.05894",
        "sum mean (FAM(attention(F_s, deeper)) - F_t)^2, FAM a filter of FFT2(F)", warmup=WARMUP),
    "srm": _srm_task(formula="cross-entropy, after an initialisation by the teacher's sparse codes",
        after="kdlib.srm.options:initialisation_of"),
    # The release gives the pixels' cross-entropy values that are no logits.
    "srm_logits": _srm_task(
        formula="as srm, but what the student's codes are the sigmoid of meets the pixels' labels",
        after="kdlib.srm.options:initialisation_on_logits", fixed={"release": False}),
    "dct": _dct("dct", 4.0, f"{PAPER}, taken at its word", SPECTRUM, tasks=DENSE),
    "release_a": _dct("release_a", 1.0, f"{PAPER}, release of June 2021",
        "as dct, D = abs Re FFT2(A) over its largest"),
    "release_b": _dct("release_b", 1.0, f"{PAPER}, release, branch main",
        "as dct, D = min-max of Re FFT2(A)"),
    "ours": _dct("ours", 6.0, "the dev split's choice of DCT options", "as dct_abs"),
    "dct_options": _dct("dct", 4.0, "any options of the DCT loss, by name", SPECTRUM),
    "at_equal_scale": _core("attention:ATLoss", 4.0, "control: AT, levels balanced",
        "as at, each stage over its running mean",
        arguments=("none",), fixed={"level_weights": "equal_scale"}, couples=True),
    "parseval_twin": _dct("parseval_twin", 4.0, "control: dct, no transform",
        "as dct, D = A - mean"),
    "dct_abs": _dct("dct_abs", 6.0, "control: dct of absolute coefficients", "as dct, of abs D"),
    "dct_l1": _dct("dct_l1", 0.25, "control: dct with an L1 distance", "as dct, sum ‖D_s - D_t‖_1"),
    "dct_low": _dct("dct_low", 4.0, "control: dct, low frequencies only",
        "as dct, lower half of the frequencies"),
    "dct_high": _dct("dct_high", 4.0, "control: dct, high frequencies only",
        "as dct, upper half of the frequencies"),
    "newl2": _dct("newl2", 1.0, "control: L2 of min-max maps", "sum ‖M_s - M_t‖, M = min-max of A"),
    "frskd": _frskd(FRSKD,
        "2 T^2 KL(q ‖ p_s) + 100 AT(F_s, F_q), q a pyramid on F_s trained beside it"),
    "frskd_published": _frskd(f"{FRSKD}, weights as published", "as frskd, never tuned"),
    "frskd_logits": _frskd("control: frskd, KL alone", "2 T^2 KL", fixed={"beta": 0.0}),
    "frskd_maps": _frskd("control: frskd, AT alone", "100 AT", fixed={"alpha": 0.0}),
    "frskd_detached": _frskd("control: frskd, its labels not felt by the student",
        "as frskd, F_s detached where q reads it", fixed={"detach": True}),
    "frskd_dct": _frskd("control: frskd with the DCT loss in the place of AT",
        "2 T^2 KL + 0.7 dct", fixed={"feature": "dct"}),
    "frskd_pixels": _frskd(f"{FRSKD}, as published for segmentation",
        "KL(q ‖ p_s) of pixels + 50 AT(F_s, F_q), ramped by exp(-5 (1 - t)^2) after two thirds",
        fixed={"alpha": 1.0, "beta": 50.0, "temperature": 1.0}, warmup=1.0,
        ramp="kdlib.frskd.losses:late_bell"),
    "frskd_options": _frskd("any options of FRSKD, by name", "as frskd"),
    "kd_cls": _crops(0.4, f"{CROPS}, recognition",
        "T^2 KL(p_t of the object's crop ‖ p_s), mean of positives, T = 2",
        fixed={"cls": 1.0, "loc": 0.0}),
    "loc": _crops(0.15, f"{CROPS}, localisation by pixels alone",
        "as kd_loc, of the crops' pixels (0 to 255)",
        fixed={"cls": 0.0, "loc": 1.0, "layers": (-1,)}, self_taught=True),
    "kd_loc": _crops(0.15, f"{CROPS}, localisation",
        "mean ‖F_t(crop of the predicted box) - F_t(crop of the object)‖_1, plus that of pixels",
        fixed={"cls": 0.0, "loc": 1.0}),
    "kd_cls_loc": _crops(1.0, f"{CROPS}, both", "0.4 kd_cls + 0.15 kd_loc"),
}
# Runs that others start from. They are no methods: there is nothing to compare them with.
STAGES: dict[str, Method] = {
    "srm_dictionary": _srm_stage("kdlib.srm.losses:ReconstructionLoss",
        formula="sum mean (C k - F_t)^2, k the s largest of sigmoid(C^T F_t + b)",
        state="kdlib.srm.stages:DictionaryLearner"),
    "srm_init": _srm_stage("kdlib.srm.losses:InitialisationLoss",
        formula="sum BCE(mean k_s, mean k_t) + CE(k_s, argmax k_t)",
        after="kdlib.srm.options:dictionary_of", state="kdlib.srm.stages:Initialised", revision=2),
}
# fmt: on
BUILT_IN = frozenset(METHODS | STAGES)


def register_method(name: str, build: str | Callable[..., Any], **entry: Any) -> None:
    """Make a method of your own, with other attributes of :class:`Method`, known in this process.

    ``register_method("mse", mse, of="embedding", weight=10.0)`` is enough for a function
    ``mse(student, teacher) -> (B,)``; then ``mse``, ``mse+kd`` and ``mse+gate`` are methods. The
    default weight is 1. A run knows a method by its name: give another loss another name.
    """
    if name in BUILT_IN or "+" in name:
        raise KdlibError(f"'{name}' is kdlib's own, or has a '+'; give your method another name.")
    checked_options(entry, Method.__annotations__, "register_method")
    METHODS[name] = Method(build, **{"weight": 1.0, **entry})


# Methods by their strings: taken apart, and built for a run.
MODIFIERS = ("kd", "gate")
CE_WEIGHT_WITH_KD = 0.1
# What a method may read, the augmentations that take it away, and the reason in words.
REFUSED = {
    "label": (MIXING, "reads an image's one label, which this augmentation takes from it"),
    "logits": ((JOINT,), "reads a teacher's logits, and no teacher knows rotations"),
    "codes": (MIXING, "reads a teacher's codes, which were learned from whole, upright images"),
}


class MethodParts(NamedTuple):
    """A method string taken apart."""

    base: str
    kd: bool
    gate: bool


def parse_method(text: str) -> MethodParts:
    """Take a method string apart; a ``KdlibError`` if a part is unknown or means nothing there."""
    base, *modifiers = text.split("+")
    if base not in STAGES:
        check_known("method", base, METHODS)
    valid = modifiers_of(base)
    for modifier in modifiers:
        check_known("method modifier", modifier, MODIFIERS)
    if not set(modifiers) <= set(valid):
        takes = f"+{valid[0]} alone" if valid else "no modifier"
        raise KdlibError(f"'{text}': '{base}' takes {takes}; +kd and +gate are for such as dct.")
    return MethodParts(base, "kd" in modifiers or base == "kd", "gate" in modifiers)


def modifiers_of(base: str) -> tuple[str, ...]:
    """The modifiers that a method may have: only a loss of its own can be gated."""
    line = METHODS.get(base, Method())
    if "classification" not in line.tasks or not (line.build or line.settings):
        return ()
    return MODIFIERS if line.build else ("kd",)


def method_of(text: str, check: bool = True) -> Method:
    """The entry of a method string, of a method or a stage; unchecked, an empty one if unknown."""
    base = parse_method(text).base if check else text.split("+")[0]
    return (METHODS | STAGES).get(base, Method())


def run_before(config: "RunConfig") -> "RunConfig | None":
    """The run that must be finished before this one can begin, beside its teacher's."""
    after = method_of(config.method).after
    return resolve_name(after)(config) if after else None


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
    """What a run's terms are weighted with: as the run says, else by the method's defaults."""
    kd, method = parse_method(config.method).kd, method_of(config.method)
    own = method.weight if config.weight is None else config.weight
    usual = CE_WEIGHT_WITH_KD if kd else method.ce_weight
    ce = usual if config.ce_weight is None else config.ce_weight
    return Weights(own, ce, config.kd_weight if kd else 0.0)


def check_method(config: "RunConfig") -> None:
    """Refuse a task whose truth a run's method cannot read, and augmentations that take it away."""
    parts, method = parse_method(config.method), method_of(config.method)
    dense = config.task == "segmentation"
    if config.task not in method.tasks or (parts.gate and dense):
        valid = ", ".join(name for name, line in METHODS.items() if config.task in line.tasks)
        valid += ", each without +gate" if dense else ""
        says = f"'{config.method}' is for {' and '.join(method.tasks)}, not for task"
        raise KdlibError(f"{says} '{config.task}'. Valid there: {valid}.")
    taught = parts.kd or method.after or (method.build and not method.self_taught)
    if taught and config.teacher == "none":
        raise KdlibError(f"'{config.method}' learns from a teacher; name one, not teacher='none'.")
    for what in (*method.reads, *["label"] * parts.gate, *["logits"] * parts.kd):
        refused, reason = REFUSED[what]
        for name in set(refused) & set(config.augmentation):
            raise KdlibError(f"'{config.method}' {reason}: leave '{name}' out of augmentation.")
