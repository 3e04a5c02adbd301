"""Sparse codes of feature maps, the labels that they give, and the losses against those labels.

Sparse Representation Matching, SRM (Tran 2021, arXiv 2103.17012, section 3). At one pixel, x is
the vector of its D channels and C (D, M) a dictionary of M atoms; a code says how much of each
atom is in x.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdlib.distill import TeacherOutput
from kdlib.errors import KdlibError, checked_values, unknown
from kdlib.losses.attention import aligned, pool_to_common_size, working_precision
from kdlib.losses.pair import Pair
from kdlib.models.output import Output, Shapes

if TYPE_CHECKING:
    from kdlib.data.batches import Batch
    from kdlib.runs import RunConfig


# The options of SRM, and the runs that an SRM student starts from.
TARGETS = ("global-local", "local", "global")
CLASSIFIERS = ("fresh", "probe")


@dataclass(frozen=True)
class SrmOptions:
    """Options of SRM; the defaults are those of its paper on CIFAR-100.

    Attributes:
        mu: atoms for each channel of the teacher.
        sparsity: share lambda of the atoms that a pixel's code keeps, at least one. Narrow stages
            need more (about 0.05), so that it keeps two.
        dictionary_epochs: epochs that the dictionaries are learned for.
        dictionary_rate: of Adam, at first.
        dictionary_steps: shares of those epochs after which the rate falls to a tenth.
        targets: which labels initialise the student: ``global-local``, ``local`` or ``global``.
        release: whether the pixels' cross-entropy takes the codes for logits, as released, or
            what the codes are the sigmoid of.
        init_share: share of a student's epochs that the initialisation takes, 0 to 1; 160 of 360
            as published.
        classifier: what the student classifies with at first: ``fresh``, the one that every
            student of its seed has, or ``probe``, the linear probe of the initialised features
            (the paper's two-step variant).

    Raises:
        KdlibError: a value that is out of range.
    """

    mu: float = 2.0
    sparsity: float = 0.02
    dictionary_epochs: int = 100
    dictionary_rate: float = 1e-3
    dictionary_steps: tuple[float, ...] = (0.1, 0.7)
    targets: str = "global-local"
    release: bool = True
    init_share: float = 0.444
    classifier: str = "fresh"

    def __post_init__(self) -> None:
        """Check what can be checked without networks."""
        for name in ("mu", "dictionary_epochs", "dictionary_rate"):
            if not getattr(self, name) > 0:
                raise KdlibError(f"{name} is {getattr(self, name)}; it must be greater than 0.")
        for name in ("sparsity", "init_share"):
            if not 0 < getattr(self, name) < 1:
                raise KdlibError(f"{name} is {getattr(self, name)}; valid: between 0 and 1.")
        if self.targets not in TARGETS:
            raise unknown("targets", self.targets, TARGETS)
        if self.classifier not in CLASSIFIERS:
            raise unknown("classifier", self.classifier, CLASSIFIERS)

    @classmethod
    def given(cls, options: Mapping[str, Any]) -> "SrmOptions":
        """From a run's ``method_options``.

        Raises:
            KdlibError: an unknown option, or a value of another kind or out of range.
        """
        checked_values(options, DEFAULTS, "SRM")
        return cls(**options)

    def atoms(self, channels: int) -> int:
        """Atoms M of a stage with so many channels."""
        return max(1, int(self.mu * channels))

    def kept(self, atoms: int) -> int:
        """Atoms s that a pixel's code keeps of so many."""
        return max(1, int(self.sparsity * atoms))


DEFAULTS = {item.name: item.default for item in fields(SrmOptions)}
OF_DICTIONARY = ("mu", "sparsity", "dictionary_rate", "dictionary_steps")
OF_INITIALISATION = (*OF_DICTIONARY, "dictionary_epochs", "targets", "release")


def initialisation_epochs(run: "RunConfig") -> int:
    """Epochs of a student's budget that its initialisation takes.

    At least one, and one is left for the task. A trial of a single epoch has one of each.
    """
    share = SrmOptions.given(run.method_options).init_share
    return max(1, min(run.epochs - 1, round(share * run.epochs)))


def initialisation_of(run: "RunConfig") -> "RunConfig":
    """The run that an ``srm`` run goes on from; shared with and without KD."""
    own: dict[str, Any] = {"epochs": initialisation_epochs(run), "method": "srm_init"}
    return replace(run, **own, **_unweighted(run), method_options=_only(run, OF_INITIALISATION))


def initialisation_on_logits(run: "RunConfig") -> "RunConfig":
    """The same of an ``srm_logits`` run."""
    return initialisation_of(replace(run, method_options={**run.method_options, "release": False}))


def dictionary_of(run: "RunConfig") -> "RunConfig":
    """The run that learns the dictionaries of a run's teacher: one for all students and seeds."""
    rate = run.teacher_learning_rate or run.learning_rate
    teacher: dict[str, Any] = {
        "student": run.teacher, "start": None, "learning_rate": rate, "teacher_learning_rate": None,
        "data_seed": run.teacher_seed, "init_seed": run.teacher_seed,
    }  # fmt: skip
    epochs = SrmOptions.given(run.method_options).dictionary_epochs
    own = {"method": "srm_dictionary", "epochs": epochs, **teacher, **_unweighted(run)}
    return replace(run, **own, method_options=_only(run, OF_DICTIONARY))


def _only(run: "RunConfig", names: tuple[str, ...]) -> dict[str, Any]:
    return {name: value for name, value in run.method_options.items() if name in names}


def _unweighted(run: "RunConfig") -> dict[str, Any]:
    """The weights' defaults: a stage has one term, and must not depend on what weighs others."""
    blank = type(run)()
    return {n: getattr(blank, n) for n in ("weight", "ce_weight", "kd_weight", "temperature")}


SAFE = 1e-6
"""Distance that probabilities keep from 0 and 1, where the logarithm and its slope are infinite."""


def atom_logits(features: Tensor, atoms: Tensor, intercept: Tensor) -> Tensor:
    """``C^T x + b`` of every pixel: (B, D, H, W), (D, M), () -> (B, H, W, M).

    In float32 (or float64) whatever the network's precision: a code decides between atoms whose
    similarities can be close.
    """
    pixels = working_precision(features).movedim(1, -1)
    with torch.autocast(pixels.device.type, enabled=False):
        # One pass over the many similarities, where a product and a sum would take two.
        bias = intercept.to(pixels.dtype).expand(atoms.shape[1])
        return functional.linear(pixels, atoms.to(pixels.dtype).T, bias)


def keep_largest(codes: Tensor, count: int) -> Tensor:
    """Codes (..., M) of which all below the ``count``-th largest are 0.

    Ties with it survive, so more than ``count`` may be left.
    """
    threshold = codes.topk(count, dim=-1).values[..., -1:]
    return torch.where(codes >= threshold, codes, torch.zeros_like(codes))


def reconstruction(codes: Tensor, atoms: Tensor) -> Tensor:
    """Features that codes stand for, ``C k``: (B, H, W, M), (D, M) -> (B, D, H, W)."""
    with torch.autocast(codes.device.type, enabled=False):
        return (codes @ atoms.to(codes.dtype).T).movedim(-1, 1)


def local_labels(codes: Tensor) -> Tensor:
    """Which atom dominates at each pixel, the first of equals: (B, H, W, M) -> (B, H, W)."""
    return codes.argmax(dim=-1)


def global_labels(codes: Tensor) -> Tensor:
    """How much of each atom an image holds, 0 to 1: (B, H, W, M) -> (B, M)."""
    return codes.mean(dim=(1, 2))


def image_loss(codes: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of an image's mean code with its global labels, per image.

    Args:
        codes: (B, H, W, M) of the student, 0 to 1.
        labels: (B, M), 0 to 1.

    Returns:
        (B,), the mean over atoms.
    """
    mean = global_labels(codes).clamp(SAFE, 1 - SAFE)
    with torch.autocast(mean.device.type, enabled=False):
        return functional.binary_cross_entropy(mean, labels, reduction="none").mean(dim=1)


def pixel_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of a student's pixels with their local labels, per image.

    Args:
        logits: (B, H, W, M) of the student. The authors' release gives it the codes themselves,
            which lie between 0 and 1; the loss then cannot fall below ``log(e + M - 1) - 1``.
        labels: (B, H, W).

    Returns:
        (B,), the mean over pixels.
    """
    # Rows of atoms: over any but the last dimension a softmax would move them all, there and back.
    losses = functional.cross_entropy(logits.flatten(0, 2), labels.flatten(), reduction="none")
    return losses.view_as(labels).mean(dim=(1, 2))


# Sparse Representation Matching, SRM (Tran 2021, arXiv 2103.17012): what its stages learn from.
class SparseBlock(nn.Module):
    """Describes every pixel of a stage by its similarity to M atoms.

    Args:
        channels: D of the stage.
        atoms: M.
        kept: how many of the largest similarities of a pixel are kept; ``None`` for all.
    """

    def __init__(self, channels: int, atoms: int, kept: int | None = None) -> None:
        super().__init__()
        self.kept = kept
        self.atoms = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(channels, atoms)))
        self.intercept = nn.Parameter(torch.empty(()).uniform_(-1, 1))

    def logits(self, features: Tensor) -> Tensor:
        """(B, D, H, W) -> (B, H, W, M), before the sigmoid."""
        return atom_logits(features, self.atoms, self.intercept)

    def forward(self, features: Tensor) -> Tensor:
        """Codes: (B, D, H, W) -> (B, H, W, M), each 0 to 1."""
        codes = self.logits(features).sigmoid()
        return codes if self.kept is None else keep_largest(codes, self.kept)

    def errors(self, features: Tensor) -> Tensor:
        """Mean squared error (B,) of what the codes of features (B, D, H, W) give back."""
        restored = reconstruction(self(features), self.atoms)
        return (restored - working_precision(features)).square().mean(dim=(1, 2, 3))


class Dictionaries(nn.ModuleList):
    """A block with sparse codes for each stage of a teacher, not yet learned.

    Args:
        teacher: its shapes.
        options: how many atoms, and how many of them a code keeps.
    """

    def __init__(self, teacher: Shapes, options: SrmOptions) -> None:
        sizes = [(channels, options.atoms(channels)) for channels, _, _ in teacher.stages]
        super().__init__(SparseBlock(d, m, options.kept(m)) for d, m in sizes)

    def __iter__(self) -> Iterator[SparseBlock]:
        return cast("Iterator[SparseBlock]", super().__iter__())


class ReconstructionLoss(nn.Module):
    """How badly the sparse codes describe the teacher's stages: summed over stages, per image.

    Args:
        pair: the networks; the teacher alone matters.
        given: options of :class:`SrmOptions`.
    """

    def __init__(self, pair: Pair, **given: Any) -> None:
        super().__init__()
        self.blocks = Dictionaries(pair.teacher, SrmOptions.given(given))

    def forward(self, student: object, teacher: TeacherOutput, batch: "Batch") -> Tensor:
        """(B,), mean squared errors."""
        pairs = zip(self.blocks, teacher.stages, strict=True)
        return torch.stack([block.errors(stage) for block, stage in pairs]).sum(dim=0)


class InitialisationLoss(nn.Module):
    """How far a student's stages are from the labels that the teacher's codes give, per image.

    Teacher and student may differ in depth, width and size of the maps: the deepest stages are
    paired, the larger map is pooled, and labels are made of the pooled teacher's features.

    Args:
        pair: the networks.
        given: options of :class:`SrmOptions`.
    """

    def __init__(self, pair: Pair, **given: Any) -> None:
        super().__init__()
        self.options = SrmOptions.given(given)
        # Learned before, by a run of their own; frozen here.
        self.teachers = Dictionaries(pair.teacher, self.options).requires_grad_(False)
        sizes = [(mine, self.options.atoms(theirs)) for mine, theirs in pair.channels]
        self.students = nn.ModuleList(SparseBlock(*size) for size in sizes)

    def forward(self, student: Output, teacher: TeacherOutput, batch: "Batch") -> Tensor:
        """(B,), unweighted: the sum of :meth:`terms`."""
        return torch.stack(list(self.terms(student, teacher).values())).sum(dim=0)

    def terms(self, student: Output, teacher: TeacherOutput) -> dict[str, Tensor]:
        """``global`` and ``local``, as far as they are targets: (B,) each, summed over stages."""
        found: dict[str, list[Tensor]] = {}
        for block, teaching, mine, theirs in self._stages(student, teacher):
            for name, loss in self._losses(block.logits(mine), teaching(theirs)):
                found.setdefault(name, []).append(loss)
        return {name: torch.stack(losses).sum(dim=0) for name, losses in found.items()}

    def _stages(
        self, student: Output, teacher: TeacherOutput
    ) -> Iterator[tuple[SparseBlock, SparseBlock, Tensor, Tensor]]:
        """Of each pair of stages: its blocks, and its features at one size."""
        blocks = aligned(list(self.students), list(self.teachers))
        stages = aligned(student.stages, teacher.stages)
        for (block, teaching), (mine, theirs) in zip(blocks, stages, strict=True):
            yield cast("SparseBlock", block), teaching, *pool_to_common_size(mine, theirs)

    def _losses(self, logits: Tensor, codes: Tensor) -> Iterator[tuple[str, Tensor]]:
        mine, targets = logits.sigmoid(), self.options.targets.split("-")
        if "global" in targets:
            yield "global", image_loss(mine, global_labels(codes))
        if "local" in targets:
            taken = mine if self.options.release else logits
            yield "local", pixel_loss(taken, local_labels(codes))
