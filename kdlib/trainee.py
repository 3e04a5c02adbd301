"""One student in training: its network, its distiller, its optimiser, its history."""

import csv
import io
import json
import math
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn, optim

from kdlib.checkpoints import (
    load_tensors,
    load_weights,
    optimiser_state,
    restore_optimiser,
    save_tensors,
)
from kdlib.data.batches import Batch, Batches, output_count
from kdlib.data.cache import cache_root
from kdlib.data.image_data import ImageData
from kdlib.distill import Distiller, Learner, SelfTaughtLoss, create_distiller
from kdlib.errors import KdlibError
from kdlib.evaluate import evaluate_students, predict
from kdlib.files import write_json, write_text
from kdlib.losses.attention import attention_maps
from kdlib.losses.pair import Pair
from kdlib.models import create_model
from kdlib.models.cost import count_parameters, flops, measure_cost, output_shapes
from kdlib.models.output import Shapes
from kdlib.runs import RunConfig, is_finished, run_directory
from kdlib.seeds import derive_seed, seed_everything
from kdlib.tasks import TASKS
from kdlib.team import ALONE, Team

if TYPE_CHECKING:
    from kdlib.detection.batches import DetectionBatch
    from kdlib.detection.losses import BoxDistiller
    from kdlib.frskd.self_teacher import RefinedNetwork


# The optimisers that a run may ask for, by name.
ADAM_SECOND_BETA = 0.999
"""Decay of Adam's second moment, as nearly everybody has it; ``momentum`` is the first one's."""


def _sgd(config: RunConfig, parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
    return optim.SGD(
        parameters,
        lr=config.learning_rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )


def _adam(config: RunConfig, parameters: Iterable[nn.Parameter]) -> optim.Optimizer:
    """Weight decay is added to the gradient, as in PyTorch's Adam and the papers that use it."""
    return optim.Adam(
        parameters,
        lr=config.learning_rate,
        betas=(config.momentum, ADAM_SECOND_BETA),
        weight_decay=config.weight_decay,
    )


OPTIMISERS: dict[str, Callable[[RunConfig, Iterable[nn.Parameter]], optim.Optimizer]] = {
    "sgd": _sgd,
    "adam": _adam,
}


def create_optimiser(config: RunConfig, network: nn.Module) -> optim.Optimizer:
    """The optimiser of a run, over all parameters of ``network`` that are not frozen."""
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return OPTIMISERS[config.optimiser](config, learned)


# Which precision a device trains fastest in.
GAIN = 1.1
REPEATS = 5


def resolve_precision(precision: str, device: torch.device) -> str:
    """``auto`` becomes ``bfloat16`` where it is at least a tenth faster, else ``float32``.

    Measured once on a machine and kept beside the caches: a busy moment must not give the runs
    of one comparison different precisions.
    """
    if precision != "auto":
        return precision
    path = cache_root() / f"precision-{_describe(device)}.json"
    if not path.exists():
        gain = bfloat16_gain(device)
        chosen = "bfloat16" if gain >= GAIN else "float32"
        write_json(path, {"precision": chosen, "bfloat16_gain": round(gain, 2)})
    return json.loads(path.read_text())["precision"]


def _describe(device: torch.device) -> str:
    """A file name for the device and the PyTorch that drives it."""
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return f"{device.type}-{kind}-{torch.__version__}".replace(" ", "_").replace("/", "_")


def bfloat16_gain(device: torch.device) -> float:
    """Speed of a convolution, forward and backward, in bfloat16 over that in float32."""
    layer = nn.Conv2d(32, 32, 3, padding=1).to(device).to(memory_format=torch.channels_last)
    images = torch.randn(32, 32, 32, 32, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    return _seconds(layer, images, False) / _seconds(layer, images, True)


def _seconds(layer: nn.Module, images: torch.Tensor, enabled: bool) -> float:
    best = float("inf")
    for _ in range(REPEATS):
        start = time.perf_counter()
        with torch.autocast(images.device.type, torch.bfloat16, enabled):
            layer(images).float().square().mean().backward()
        if images.is_cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


# Learning-rate schedules as pure functions of the step, so that a resumed run needs no state.
WARM_UP = 0.2
STEP_FACTOR = 0.1


def one_cycle(config: RunConfig, progress: float) -> float:
    """Linear rise over the first fifth of the run, then a cosine to zero (Smith, 1708.07120)."""
    if progress < WARM_UP:
        return progress / WARM_UP
    return (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP))) / 2


def step(config: RunConfig, progress: float) -> float:
    """A tenth at each milestone (in epochs), as both published protocols have it."""
    epoch = progress * config.epochs
    return STEP_FACTOR ** sum(epoch >= milestone for milestone in config.milestones)


def constant(config: RunConfig, progress: float) -> float:
    """The same learning rate throughout."""
    return 1.0


SCHEDULES: dict[str, Callable[[RunConfig, float], float]] = {
    "one_cycle": one_cycle,
    "step": step,
    "constant": constant,
}


def learning_rate(config: RunConfig, done: int, total: int) -> float:
    """Learning rate of the step after ``done`` of ``total`` steps."""
    factor = SCHEDULES[config.schedule](config, (done + 0.5) / total)
    return config.learning_rate * factor


# What a self-teacher is worth and what it costs, beside the student that it teaches.
ACCURACIES = {"classification": ("top1", "top5", "mca"), "segmentation": ("miou", "pixel_accuracy")}


def measure_self_teacher(
    network: "RefinedNetwork",
    data: ImageData,
    image_size: int,
    *,
    device: torch.device | str = "cpu",
    precision: str = "float32",
    team: Team = ALONE,
) -> dict[str, Any]:
    """The ``self_teacher`` of a record.

    Returns:
        ``top1``, ``top5`` and ``mca``, or ``miou`` and ``pixel_accuracy``, as fractions;
        ``relevance`` of the refined maps, as a student's, ``None`` without ground truth;
        ``parameters`` of the self-teacher alone and the ``flops`` of one image that it adds to the
        student's.
    """
    place: dict[str, Any] = {"device": device, "precision": precision, "team": team}
    (quality,) = evaluate_students([network], None, data, **place)
    relevance = quality["relevance"]
    return {
        **{name: quality["results"][name] for name in ACCURACIES[data.task]},
        "relevance": relevance and relevance["student"],
        "parameters": count_parameters(network.self_teacher),
        "flops": flops(network, image_size) - flops(network.student, image_size),
    }


SELF_TEACHER = "self_teacher.safetensors"
AnyBatch: TypeAlias = "Batch | DetectionBatch"


class DivergedError(KdlibError):
    """A loss that is not finite: the run cannot go on, others beside it can."""


class Lesson(NamedTuple):
    """What a student must know of what it is taught with.

    Attributes:
        shapes: the teacher's; ``None`` where there is none whose stages could be read.
        labels: (N,) of all training images.
        mean: of each channel of these, 0 to 1.
        std: standard deviation of each channel.
    """

    shapes: Shapes | None
    labels: Tensor
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)


class Trainee:
    """A student with all that its training changes; saved and restored as one.

    Args:
        config: the run.
        classes: number of classes of the data.
        root: the folder of all runs.
        device: where the student lives.
        precision: ``float32`` or ``bfloat16`` (autocast; losses stay in float32).
        lesson: the teacher's shapes and the labels of the training set; ``None`` is enough for a
            method without parts of its own.
        team: the processes that train it.
    """

    student: nn.Module
    distiller: "Distiller | BoxDistiller"
    parts: nn.Module
    """All that has weights, which checkpoints hold."""
    learner: nn.Module
    """What a step calls: ``parts``, or what wraps them."""

    def __init__(
        self,
        config: RunConfig,
        classes: int,
        root: Path,
        device: torch.device,
        precision: str,
        lesson: Lesson | None = None,
        team: Team = ALONE,
    ) -> None:
        self.config, self.classes, self.device, self.team = config, classes, device, team
        self.outputs = output_count(classes, config.augmentation)
        self.root, self.directory = root, run_directory(config, root)
        self.precision = precision
        self.history: list[dict[str, Any]] = []
        self.failure: DivergedError | None = None
        self.steps = 0  # of this epoch
        self.parts = team.readied(self._build(lesson))
        self.optimiser = self._optimise()
        self._restore()
        # Without cross-entropy nothing reads a classifier's logits; a detector's parts may rest.
        self.learner = team.wrapped(self.parts, not getattr(self.distiller, "ce_weight", 0))

    def _build(self, lesson: Lesson | None) -> nn.Module:
        """All that has weights: the student, and its distiller."""
        self.student = self._untrained()
        seed_everything(derive_seed(self.config.init_seed, "distiller"))
        distiller = create_distiller(self.config, self._pair(lesson))
        self.distiller = distiller.to(self.device)
        return Learner(self.student, self.distiller)

    def _optimise(self) -> optim.Optimizer:
        return create_optimiser(self.config, self.parts)

    def start_over(self) -> None:
        """Take what was learnt back: a run that diverged has learnt nothing."""
        self.student.load_state_dict(self._untrained().state_dict())

    def _untrained(self) -> nn.Module:
        seed_everything(derive_seed(self.config.init_seed, "weights"))
        start = {"weights": self.config.start} if self.config.start else {}
        student = create_model(self.config.student, self.outputs, **start)
        return student.to(self.device).to(memory_format=torch.channels_last)

    def deployed(self) -> nn.Module:
        """The network that is kept: a plain classifier, whatever the student was trained with.

        Of a student that also tells rotations (``sla``), the logits of upright images.
        """
        if self.outputs == self.classes:
            return self.student
        plain = create_model(self.config.student, self.classes).to(self.device)
        sizes = {name: tensor.shape for name, tensor in plain.state_dict().items()}
        own = self.student.state_dict().items()
        plain.load_state_dict({n: t if t.shape == sizes[n] else t[: self.classes] for n, t in own})
        return plain.to(memory_format=torch.channels_last)

    def refined(self) -> "RefinedNetwork | None":
        """The student with its self-teacher; ``None`` without one, or if the run diverged."""
        loss = self.distiller.method_loss
        if not isinstance(loss, SelfTaughtLoss) or self.failure is not None:
            return None
        from kdlib.frskd.self_teacher import RefinedNetwork

        return RefinedNetwork(self.student, loss.self_teacher, self.classes)

    @property
    def first(self) -> int:
        """Epochs of the student's budget that a run before this one has had."""
        return 0

    @property
    def epoch(self) -> int:
        """Epochs done, those of a run before this one included."""
        return self.first + len(self.history)

    @property
    def seconds(self) -> float:
        """Seconds that all epochs of the student took."""
        return sum(row["seconds"] for row in self.history)

    @property
    def _place(self) -> dict[str, Any]:
        """Where and how precisely networks answer."""
        return {"device": self.device, "precision": self.precision}

    @property
    def _shared(self) -> dict[str, Any]:
        """The same, and with whom the images are shared."""
        return {**self._place, "team": self.team}

    @property
    def taught(self) -> bool:
        """Whether the student has a teacher to be compared with."""
        return self.config.teacher != "none"

    @property
    def label(self) -> str:
        """Short name for progress bars."""
        return self.config.method

    def step(self, batch: AnyBatch, teacher: Any, lr: float, progress: float) -> dict[str, Tensor]:
        """Learn from one batch; returns the loss terms of the whole batch, detached.

        Args:
            batch: the images, on the student's device; of several processes, this one's part.
            teacher: what the teacher says of them; ``None`` for the student's own loss alone.
            lr: learning rate.
            progress: share of the training that is done, 0 to 1.

        Raises:
            DivergedError: the loss is not finite; names the terms and the learning rate.
        """
        self.optimiser.param_groups[0]["lr"] = lr
        self.steps += 1
        with torch.autocast(self.device.type, torch.bfloat16, self.precision == "bfloat16"):
            terms = self.learner(batch, teacher, progress)
        loss = torch.stack(list(terms.values())).sum()
        told = self.team.means(terms, batch.portion)
        if not math.isfinite(torch.stack(list(told.values())).sum().item()):
            raise DivergedError(self._not_finite(told, lr))
        self.optimiser.zero_grad(set_to_none=True)
        self.team.weighted(loss, batch.portion).backward()
        if self.config.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.parts.parameters(), self.config.gradient_clip)
        self.optimiser.step()
        return told

    def rate(self, done: int, steps_per_epoch: int) -> float:
        """Learning rate after ``done`` steps, those of a run before this one included."""
        own = replace(self.config, epochs=self.config.epochs - self.first)
        return learning_rate(own, done - self.first * steps_per_epoch, own.epochs * steps_per_epoch)

    def progress(self, done: int, steps_per_epoch: int) -> float:
        """Share of this run's training that is done after so many steps, 0 to 1."""
        own = self.config.epochs - self.first
        return (done - self.first * steps_per_epoch) / (own * steps_per_epoch)

    def monitor(self, few: ImageData, teacher: nn.Module | None) -> dict[str, float]:
        """What an epoch's row tells of held-out images: for curves, never for choosing."""
        measures = TASKS[self.config.task]
        if few.task == "segmentation":
            (quality,) = evaluate_students([self.student], None, few, **self._shared)
            return {measures.monitored: quality["results"][measures.metric]}
        logits = predict(self.student, few, **self._shared)
        logits = logits[:, : self.classes]  # a student with more was taught rotations too
        return {measures.monitored: (logits.argmax(1) == few.labels).float().mean().item()}

    def round_off(self, data: ImageData, teacher: nn.Module | None) -> None:
        """What is left to do with the training images when all epochs are done: nothing."""

    @staticmethod
    def measure(
        trainees: "Sequence[Trainee]", teacher: nn.Module | None, data: ImageData
    ) -> list[dict[str, Any]]:
        """What the records say of the quality of trainees of this kind, one an entry."""
        students = [trainee.deployed() for trainee in trainees]
        qualities = evaluate_students(students, teacher, data, **trainees[0]._shared)
        return [
            {**quality, "self_teacher": trainee._self_teacher(data)}
            for trainee, quality in zip(trainees, qualities, strict=True)
        ]

    def _self_teacher(self, data: ImageData) -> dict[str, Any] | None:
        network = self.refined()
        if network is None:
            return None
        return measure_self_teacher(network, data, self.config.input_size, **self._shared)

    def cost(self) -> dict[str, Any]:
        """Parameters, operations and latency of the network that is kept."""
        return measure_cost(self.deployed(), self.config.input_size, self.device)

    def end_epoch(self, row: dict[str, Any]) -> None:
        """Add a row of history and save a checkpoint that a killed run goes on from."""
        self.history.append(row)
        self.steps = 0
        if self.team.is_main:
            self._save()

    def _save(self) -> None:
        tensors = {f"model.{name}": value for name, value in self.parts.state_dict().items()}
        for name, value in optimiser_state(self.optimiser).items():
            tensors[f"momentum.{name}"] = value
        facts = {"history": self.history, "precision": self.precision, "team": self.team.facts}
        save_tensors(self._checkpoint, tensors, facts)

    def finish(self) -> None:
        """Write the student's weights and the history; the record comes after these.

        A self-teacher's weights are a file of their own, for looking at it: no deployed network
        has a trace of them.
        """
        save_tensors(
            self.directory / "weights.safetensors",
            self.deployed().state_dict(),
            {"classes": self.classes, "model": self.config.student},
        )
        if (network := self.refined()) is not None:
            tensors = network.self_teacher.state_dict()
            save_tensors(self.directory / SELF_TEACHER, tensors, {"classes": self.classes})
        write_text(self.directory / "history.csv", as_csv(self.history))

    def forget_checkpoint(self) -> None:
        """Remove the checkpoint of a run whose record is written."""
        self._checkpoint.unlink(missing_ok=True)

    def _pair(self, lesson: Lesson | None) -> Pair | None:
        if lesson is None:
            return None
        shapes = output_shapes(self.student, self.config.input_size)
        seed = derive_seed(self.config.init_seed, "distiller")
        known = (shapes, lesson.shapes, lesson.labels)
        return Pair(*known, self.config.batch_size, seed, self.outputs, self.config.pixels)

    @property
    def _checkpoint(self) -> Path:
        return self.directory / "checkpoint.safetensors"

    def _restore(self) -> None:
        if not self._checkpoint.exists():
            return
        tensors, facts = load_tensors(self._checkpoint)
        try:
            self.parts.load_state_dict(_under(tensors, "model."))
            restore_optimiser(self.optimiser, _under(tensors, "momentum."))
            self.history, self.precision = facts["history"], facts["precision"]
        except (KeyError, ValueError, RuntimeError) as error:
            raise KdlibError(
                f"{self._checkpoint} is no checkpoint of this run ({type(error).__name__}). "
                "Delete it and run again."
            ) from error
        self._check_team(facts.get("team", ALONE.facts))

    def _check_team(self, began: dict[str, Any]) -> None:
        """Refuse to go on in another way than a run was begun: its numbers would be no one's."""
        if began != self.team.facts:
            raise KdlibError(
                f"{self._checkpoint} is of a run that was begun with {_described(began)}; this "
                f"launch has {_described(self.team.facts)}. Start it as it was begun, or delete "
                "the checkpoint to begin anew."
            )

    def _not_finite(self, terms: dict[str, Tensor], lr: float) -> str:
        values = ", ".join(f"{name} {term.item():.4g}" for name, term in terms.items())
        when = f"epoch {self.epoch + 1}, step {self.steps}"
        kept = f"; the last good epoch is kept in {self._checkpoint}" if self.history else ""
        return (
            f"The loss of '{self.label}' is not finite in {when} ({values}; "
            f"learning rate {lr:.4g}). Lower learning_rate or weight{kept}."
        )


def _described(team: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in team.items())


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def as_csv(rows: list[dict[str, Any]]) -> str:
    """A history as text; the rows have the same columns."""
    text = io.StringIO()
    columns = list(rows[0]) if rows else ["epoch", "learning_rate", "accuracy", "seconds"]
    writer = csv.DictWriter(text, fieldnames=columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


# Networks of finished runs, and what they attend to.
def trained_network(config: RunConfig, root: Path, classes: int, **options: Any) -> nn.Module:
    """The network that a finished run left, on the CPU and in eval mode.

    Args:
        config: the run.
        root: the folder of all runs.
        classes: number of classes.
        options: of :func:`kdlib.models.create_model`; a detector's ``image_size``, ``mean`` and
            ``std`` are no weights.

    Raises:
        KdlibError: the run is not finished, or its weights are for other classes.
    """
    directory = run_directory(config, Path(root))
    if not is_finished(config, Path(root)):
        raise KdlibError(f"{directory} holds no finished run; train it first with fit.")
    network = create_model(config.student, classes, **options)
    load_weights(network, directory / "weights.safetensors", classes)
    return network.eval()


def refined_network(config: RunConfig, root: Path, classes: int) -> "RefinedNetwork":
    """The student of a finished self-taught run with its self-teacher, in eval mode.

    Raises:
        KdlibError: the run is not finished, or its method has no self-teacher.
    """
    student = trained_network(config, root, classes)
    outputs = output_count(classes, config.augmentation)
    shapes = output_shapes(student, config.image_size)
    pair = Pair(shapes, None, torch.zeros(0), config.batch_size, 0, outputs, config.pixels)
    loss = create_distiller(config, pair).method_loss
    if not isinstance(loss, SelfTaughtLoss):
        raise KdlibError(f"'{config.method}' has no self-teacher; ask for one such as 'frskd'.")
    path = run_directory(config, Path(root)) / SELF_TEACHER
    load_weights(loss.self_teacher, path, classes)
    from kdlib.frskd.self_teacher import RefinedNetwork

    return RefinedNetwork(student, loss.self_teacher, classes).eval()


@torch.no_grad()
def attention_on(network: nn.Module, data: ImageData) -> tuple[Tensor, ...]:
    """Attention maps (N, h, w) of each stage, fine to coarse, for all images of ``data``."""
    batch = next(Batches(data, len(data)).in_order())
    return attention_maps(network.eval()(batch.images).stages)


def predicted(network: nn.Module, data: ImageData) -> Tensor:
    """The class (N,) that a network gives each image of ``data``."""
    return predict(network, data).argmax(1)
