"""What every method shares: the frozen teacher, the loss terms, the gate."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdlib.errors import KdlibError, check_kind, checked_values, shown
from kdlib.losses.attention import attention_map
from kdlib.losses.logits import mean_cross_entropy, mean_kd
from kdlib.losses.pair import Pair
from kdlib.methods import METHODS, REFUSED, Method, linear, method_of, parse_method, weights_of
from kdlib.models.output import Output

if TYPE_CHECKING:
    from kdlib.data.batches import Batch
    from kdlib.runs import RunConfig


@dataclass(frozen=True)
class TeacherOutput:
    """A teacher's output, cut off from its graph: no loss can send a gradient to a teacher.

    Its attention maps are computed once for all students of a step.
    """

    logits: Tensor
    stages: tuple[Tensor, ...]
    embedding: Tensor

    def __post_init__(self) -> None:
        """Detach; whoever made the output."""
        object.__setattr__(self, "logits", self.logits.detach())
        object.__setattr__(self, "stages", tuple(stage.detach() for stage in self.stages))
        object.__setattr__(self, "embedding", self.embedding.detach())

    @cached_property
    def maps(self) -> tuple[Tensor, ...]:
        """Attention map (B, H, W) of each stage."""
        return tuple(attention_map(stage) for stage in self.stages)


class FrozenTeacher(nn.Module):
    """A teacher that nothing can move: eval mode, no gradients, batch-norm buffers fixed.

    This is the only place where a teacher is frozen; ``train()`` leaves it in eval mode.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)

    def train(self, mode: bool = True) -> "FrozenTeacher":
        """Stay in eval mode, whatever ``mode`` says."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> TeacherOutput:
        """The teacher's output for normalised images (B, 3, H, W), without a graph."""
        return TeacherOutput(*self.network(images))

    def teach(self, batch: "Batch") -> TeacherOutput:
        """The teacher's output for a batch."""
        return self(batch.images)


class SelfTaughtLoss(nn.Module):
    """The loss of a method whose teacher is a module on the student's own stages.

    That self-teacher learns from the labels while the student learns from it, and is thrown away
    when both are trained. A subclass says in ``forward`` what is learnt of its output; that it
    cannot learn there itself, :class:`TeacherOutput` sees to.

    Args:
        self_teacher: from stages (B, C, H, W), fine to coarse, to an ``Output``.
        detach: whether its own cross-entropy stops at the stages, instead of going on into the
            student.
    """

    def __init__(self, self_teacher: nn.Module, detach: bool = False) -> None:
        super().__init__()
        self.self_teacher, self.detach = self_teacher, detach

    def teach(self, student: Output) -> Output:
        """The self-teacher's output, with its graph."""
        stages = student.stages
        return self.self_teacher([s.detach() for s in stages] if self.detach else stages)


def label_loss(logits: Tensor, batch: "Batch") -> Tensor:
    """Cross-entropy (a scalar) of logits with a batch's labels, mixed ones by share.

    Logits are (B, K), or (B, K, H, W) where the labels are those of pixels.
    """
    logits = logits.float()
    loss = mean_cross_entropy(logits, batch.labels)
    if batch.mixed is None:
        return loss
    other = mean_cross_entropy(logits, batch.mixed.labels)
    return batch.mixed.share * loss + (1 - batch.mixed.share) * other


class Distiller(nn.Module):
    """Sum of cross-entropy, one method's loss and logit KD, as named and weighted terms.

    Of a self-taught method, the cross-entropy of its self-teacher is a term too, ``self_ce``, of
    weight 1; ``weight`` scales what the student learns from it.

    Args:
        name: the method's name, under which its term is logged.
        method_loss: module ``(student, teacher, batch) -> (B,)``, or ``None``.
        weight: weight of the method's term (alpha of the DCT paper).
        warmup: share of the training (0 to 1) over which that weight grows.
        ramp: how it grows: from the share of the warm-up that is done to that of the weight.
        ce_weight: weight of the cross-entropy (beta); 0 leaves the term out.
        kd_weight: weight of ``T^2 KL`` (delta); 0 leaves the term out.
        temperature: T of the KD term.
        gate: count the method's term only for images that the teacher classifies correctly
            (``PRED_GUIDE`` in the paper's release); of a self-taught method, the self-teacher.
            KD is never gated, as released.
    """

    def __init__(
        self,
        name: str,
        method_loss: nn.Module | None,
        *,
        weight: float,
        warmup: float = 0.0,
        ramp: Callable[[float], float] = linear,
        ce_weight: float,
        kd_weight: float,
        temperature: float,
        gate: bool,
    ) -> None:
        super().__init__()
        self.name, self.method_loss, self.gate = name, method_loss, gate
        self.weight, self.ce_weight, self.kd_weight = weight, ce_weight, kd_weight
        self.warmup, self.ramp, self.temperature = warmup, ramp, temperature

    @property
    def self_taught(self) -> bool:
        """Whether the method brings its own teacher."""
        return isinstance(self.method_loss, SelfTaughtLoss)

    @property
    def needs_teacher(self) -> bool:
        """Whether any term reads the teacher."""
        return (self.method_loss is not None and not self.self_taught) or self.kd_weight != 0

    def forward(
        self, student: Output, teacher: TeacherOutput | None, batch: "Batch", progress: float = 1.0
    ) -> dict[str, Tensor]:
        """Named, already weighted loss terms of one batch (scalars, float32).

        Args:
            student: the student's output for the batch.
            teacher: the teacher's, or ``None``: its terms are left out then.
            batch: labels, and the images' positions in the data set, for methods with a memory.
            progress: share of the training that is done, 0 to 1.
        """
        return dict(self._terms(student, teacher, batch, progress))

    def _terms(
        self, student: Output, teacher: TeacherOutput | None, batch: "Batch", progress: float
    ) -> Iterator[tuple[str, Tensor]]:
        logits = student.logits.float()  # once: gradients of both its losses add up in float32
        if self.ce_weight != 0:
            yield "ce", self.ce_weight * label_loss(logits, batch)
        guide = teacher
        if isinstance(self.method_loss, SelfTaughtLoss):
            refined = self.method_loss.teach(student)
            yield "self_ce", label_loss(refined.logits, batch)
            guide = TeacherOutput(*refined)
        if self.method_loss is not None and guide is not None:
            per_image = self.method_loss(student, guide, batch)
            if self.gate:
                per_image = per_image * (guide.logits.argmax(1) == batch.labels)
            yield self.name, self.weight * self._warmed(progress) * per_image.mean()
        if self.kd_weight != 0 and teacher is not None:
            loss = mean_kd(logits, teacher.logits.float(), batch.labels, self.temperature)
            yield "kd", self.kd_weight * loss

    def _warmed(self, progress: float) -> float:
        return self.ramp(min(1.0, progress / self.warmup)) if self.warmup else 1.0


# All that a run's training changes, as one module whose forward gives a step's loss terms.
class Learner(nn.Module):
    """A student and what it is taught by: the method's own parts learn with it.

    Args:
        student: images (B, 3, H, W) to an ``Output``.
        distiller: from student's and teacher's output to named, weighted loss terms.
    """

    def __init__(self, student: nn.Module, distiller: nn.Module) -> None:
        super().__init__()
        self.student, self.distiller = student, distiller

    def forward(self, batch: Any, teacher: Any, progress: float) -> dict[str, Tensor]:
        """Named, weighted loss terms of a batch: scalars, float32.

        Args:
            batch: a :class:`kdlib.data.batches.Batch`, or one of detectors.
            teacher: what the teacher says of it; ``None`` for the student's own loss alone.
            progress: share of the training that is done, 0 to 1.
        """
        return self.distiller(self.student(batch.images), teacher, batch, progress)


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
    check_method_task(config)
    _check_augmentation(config)
    return Distiller(
        parts.base,
        method_loss(parts.base, config.method_options, pair),
        weight=weights.method,
        warmup=method.warmup,
        ramp=method.ramp,
        ce_weight=weights.ce,
        kd_weight=weights.kd,
        temperature=config.temperature,
        gate=parts.gate,
    )


def check_method_task(config: "RunConfig") -> None:
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
    known = {parameter.name: parameter for parameter in method.parameters}
    for name, value in options.items():
        check_kind(f"Option '{name}'", value, known[name].annotation)


def method_loss(name: str, options: Mapping[str, Any], pair: Pair | None) -> nn.Module | None:
    """The loss of a method, from its options; ``None`` where it has none of its own."""
    method = method_of(name)
    if not method.checks_options:
        checked_values(options, method.options, f"method '{name}'")
        _check_kinds(options, method)
    maker = method.maker
    if method.build is None or maker is None:
        if maker:
            maker(**options)
        return None
    if method.fitted and pair is None:
        raise KdlibError(f"'{name}' is made for two networks: give create_distiller their pair.")
    try:
        return maker(pair, **options) if method.fitted else maker(**options)
    except Exception as error:
        if isinstance(error, KdlibError) or not options:
            raise
        raise KdlibError(
            f"'{name}' cannot be built with the options {shown(dict(options))} "
            f"({shown(str(error))}); change or leave out what is out of its range."
        ) from error
