"""One step of distillation: a frozen teacher, a student, and named, weighted loss terms."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import cached_property, partial
from inspect import signature
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kdlib.data.batches import Batch
from kdlib.errors import KdlibError, checked_values, shown
from kdlib.losses.attention import attention_map
from kdlib.losses.logits import mean_cross_entropy, mean_kd
from kdlib.methods import check_method, method_of, parse_method, weights_of
from kdlib.models.output import NetworkPair, Output
from kdlib.runs import RunConfig

Stages = tuple[Tensor, ...]
# Names of functions and methods of torch.
RELUS, MOVES = ("relu", "relu_", "relu6", "hardtanh"), ("cat", "view", "transpose", "contiguous")
Loss = Callable[..., Tensor]  # (student, teacher, batch) -> (B,); a module if it has weights


class TeacherOutput:
    """A teacher's output, cut off from its graph: no loss can send a gradient to a teacher."""

    def __init__(
        self, logits: Tensor, stages: Stages, embedding: Tensor, before: Callable[[], Any] = tuple
    ) -> None:
        self.logits, self.embedding = logits.detach(), embedding.detach()
        self.stages, self._before = tuple(stage.detach() for stage in stages), before

    @cached_property
    def maps(self) -> Stages:
        """Attention map (B, H, W) of each stage, computed once for all students of a step."""
        return tuple(attention_map(stage) for stage in self.stages)

    @cached_property
    def before(self) -> Stages:
        """What the last ReLU of each stage is given; the stages, if they are all that is known."""
        return self._before() or self.stages


class BeforeRelu(TorchFunctionMode):
    """While it lasts, what a ReLU returns has what it was given as its attribute ``before``.

    What joins or moves that (ShuffleNetV2's units end so) has the same of what the ReLU was given.
    """

    def __torch_function__(
        self, function: Any, types: Any, args: Any = (), named: Any = None
    ) -> Any:
        name, named = getattr(function, "__name__", ""), named or {}
        first = args[0] if args else named.get("input")
        parts = first if isinstance(first, list | tuple) else [first]
        if name in RELUS:
            before = first.clone()  # it may be changed in its place
        elif name in MOVES and any(hasattr(one, "before") for one in parts):
            given = [getattr(one, "before", one) for one in parts]
            before = function(given[0] if parts[0] is first else given, *args[1:], **named)
        else:
            return function(*args, **named)
        made = function(*args, **named)
        made.before = before
        return made


class FrozenTeacher(nn.Module):
    """A teacher that nothing can move: eval mode, whatever ``train()`` says, and no gradients."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.watched = False

    def train(self, mode: bool = True) -> "FrozenTeacher":
        """Stay in eval mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> TeacherOutput:
        """The teacher's output for normalised images (B, 3, H, W), without a graph."""
        watched = self.watched
        with BeforeRelu() if watched else nullcontext():
            answer = self.network(images)
        if not isinstance(answer, tuple):
            made = f"The teacher returns a {type(answer).__name__}, not an Output"
            raise KdlibError(f"{made}: register_model and create_model make it return one.")
        logits, stages, embedding = answer

        def before() -> Stages:
            if watched:
                return tuple(getattr(stage, "before", stage) for stage in stages)
            self.watched = True  # from now on
            return self(images).before

        return TeacherOutput(logits, stages, embedding, before)

    def teach(self, batch: Batch) -> TeacherOutput:
        """The teacher's output for a batch."""
        return self(batch.images)


def label_loss(logits: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy (a scalar) of logits (B, K, ...) with a batch's labels, mixed ones by share."""
    logits = logits.float()
    loss = mean_cross_entropy(logits, batch.labels)
    if batch.mixed is None:
        return loss
    other = mean_cross_entropy(logits, batch.mixed.labels)
    return batch.mixed.share * loss + (1 - batch.mixed.share) * other


class Distiller(nn.Module):
    """Cross-entropy, a run's method and logit KD, as named and weighted terms.

    ``method_loss`` makes the term ``name``; if it has ``teach``, from the student's output to its
    own teacher's, that one's cross-entropy is a term too, ``self_ce``. The method's term has
    ``weight`` (alpha of the DCT paper), cross-entropy ``ce_weight`` (beta) and ``T^2 KL``
    ``kd_weight`` (delta), the latter two left out if 0; the first grows over ``warmup``, a share of
    the training. With ``gate`` that term, not KD, counts only images that its teacher gets right
    (``PRED_GUIDE``). A ``pair`` tells of networks and data where layers fit them. A ``KdlibError``
    for an unknown method, modifier or option, and whatever it cannot learn with.
    """

    def __init__(self, config: RunConfig, pair: NetworkPair | None = None) -> None:
        super().__init__()
        check_method(config)
        (self.name, _, self.gate), method = parse_method(config.method), method_of(config.method)
        self.method_loss = method_loss(self.name, config.method_options, pair)
        self.weight, self.ce_weight, self.kd_weight = weights_of(config)
        self.warmup, self.temperature = method.warmup, config.temperature
        self.ramp = resolve_name(method.ramp) if isinstance(method.ramp, str) else method.ramp

    @property
    def needs_teacher(self) -> bool:
        """Whether any term reads the teacher."""
        taught = self.method_loss is not None and not hasattr(self.method_loss, "teach")
        return taught or self.kd_weight != 0

    def forward(
        self, student: Output, teacher: TeacherOutput | None, batch: Batch, progress: float = 1.0
    ) -> dict[str, Tensor]:
        """Named, weighted loss terms (scalars, float32); without a teacher those that need none.

        ``progress`` is the share of the training that is done, 0 to 1.
        """
        terms, guide = {}, teacher
        logits = student.logits.float()  # once: gradients of both its losses add up in float32
        if self.ce_weight != 0:
            terms["ce"] = self.ce_weight * label_loss(logits, batch)
        if teach := getattr(self.method_loss, "teach", None):
            refined = teach(student)
            terms["self_ce"] = label_loss(refined.logits, batch)
            guide = TeacherOutput(*refined)
        if self.method_loss is not None and guide is not None:
            per_image = self.method_loss(student, guide, batch)
            if per_image.shape != guide.logits.shape[:1]:
                shape = tuple(per_image.shape)
                raise KdlibError(f"'{self.name}' gives {shape}; a loss gives one number an image.")
            if self.gate:
                per_image = per_image * (guide.logits.argmax(1) == batch.labels)
            grown = self.ramp(min(1.0, progress / self.warmup)) if self.warmup else 1.0
            terms[self.name] = self.weight * grown * per_image.mean()
        if self.kd_weight != 0 and teacher is not None:
            loss = mean_kd(logits, teacher.logits.float(), batch.labels, self.temperature)
            terms["kd"] = self.kd_weight * loss
        return terms


create_distiller = Distiller  # as create_model


class Learner(nn.Module):
    """All that a run's training changes, in one module: a student, and the method's own layers."""

    def __init__(self, student: nn.Module, distiller: nn.Module) -> None:
        super().__init__()
        self.student, self.distiller = student, distiller
        self.answer = student.forward  # or that, compiled

    def forward(self, batch: Any, teacher: Any, progress: float) -> dict[str, Tensor]:
        """The loss terms of a step."""
        return self.distiller(self.answer(batch.images), teacher, batch, progress)


def method_loss(name: str, options: Mapping[str, Any], pair: NetworkPair | None) -> Loss | None:
    """The loss of a method, from its options; ``None`` where it has none of its own."""
    method, given = method_of(name), signature(method_of(name).maker).parameters
    if not any(one.kind is one.VAR_KEYWORD for one in given.values()):  # which are checked there
        kinds = {option: given[option].annotation for option in method.options}
        checked_values(options, kinds, f"method '{name}'")
    if method.fitted and (pair is None or not (pair.teacher or method.self_taught)):
        raise KdlibError(f"'{name}' is made for two networks: give create_distiller their pair.")
    if method.of:
        function, part = partial(method.maker, **options), method.of

        def loss_of_part(student: Any, teacher: Any, batch: Batch) -> Tensor:
            labels = [batch.labels] if "label" in method.reads else []
            return function(getattr(student, part), getattr(teacher, part), *labels)

        return loss_of_part
    try:
        built = method.maker(*[pair] * method.fitted, **options)
    except Exception as error:
        if isinstance(error, KdlibError) or not options:
            raise
        says = f"'{name}' cannot be built with the options {shown(dict(options))}"
        raise KdlibError(f"{says} ({shown(str(error))}); change what is out of range.") from error
    return built if method.build else None
