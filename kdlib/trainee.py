"""One student in training: its network, its distiller, its optimiser, its history."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn, optim

from kdlib.checkpoints import load_tensors, optimiser_state, restore_optimiser, save_tensors
from kdlib.cost import measure_cost
from kdlib.data.batches import Batch
from kdlib.data.image_data import ImageData
from kdlib.distillers import Pair, create_distiller
from kdlib.distillers.base import TeacherOutput
from kdlib.errors import KdlibError
from kdlib.evaluate import evaluate_students, predict
from kdlib.files import write_text
from kdlib.models import Shapes, create_model, output_shapes
from kdlib.optimisers import create_optimiser
from kdlib.runs import RunConfig, run_directory
from kdlib.schedules import learning_rate
from kdlib.seeds import derive_seed, seed_everything


class DivergedError(KdlibError):
    """A loss that is not finite: the run cannot go on, others beside it can."""


class Lesson(NamedTuple):
    """What a student must know of what it is taught: the teacher's shapes and all labels (N,)."""

    shapes: Shapes
    labels: Tensor


class Trainee:
    """A student with all that its training changes; saved and restored as one.

    Args:
        config: the run.
        classes: number of classes of the data.
        root: the folder of all runs.
        device: where the student lives.
        precision: ``float32`` or ``bfloat16`` (autocast; losses stay in float32).
        lesson: the teacher's shapes and the labels of the training set; ``None`` without teacher.
    """

    def __init__(
        self,
        config: RunConfig,
        classes: int,
        root: Path,
        device: torch.device,
        precision: str,
        lesson: Lesson | None = None,
    ) -> None:
        self.config, self.classes, self.device = config, classes, device
        self.root, self.directory = root, run_directory(config, root)
        self.precision = precision
        self.history: list[dict[str, Any]] = []
        self.failure: DivergedError | None = None
        self.parts = self._build(lesson)
        self.optimiser = self._optimise()
        self._restore()

    def _build(self, lesson: Lesson | None) -> nn.ModuleDict:
        """All that has weights: the student, and its distiller."""
        self.student = self._untrained()
        seed_everything(derive_seed(self.config.init_seed, "distiller"))
        self.distiller = create_distiller(self.config, self._pair(lesson)).to(self.device)
        return nn.ModuleDict({"student": self.student, "distiller": self.distiller})

    def _optimise(self) -> optim.Optimizer:
        return create_optimiser(self.config, self.parts)

    def start_over(self) -> None:
        """Take what was learnt back: a run that diverged has learnt nothing."""
        self.student.load_state_dict(self._untrained().state_dict())

    def _untrained(self) -> nn.Module:
        seed_everything(derive_seed(self.config.init_seed, "weights"))
        start = {"weights": self.config.start} if self.config.start else {}
        student = create_model(self.config.student, self.classes, **start)
        return student.to(self.device).to(memory_format=torch.channels_last)

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
    def taught(self) -> bool:
        """Whether the student has a teacher to be compared with."""
        return self.config.teacher != "none"

    @property
    def label(self) -> str:
        """Short name for progress bars."""
        return self.config.method

    def step(
        self, batch: Batch, teacher: TeacherOutput | None, lr: float, progress: float
    ) -> dict[str, Tensor]:
        """Learn from one batch; returns the loss terms, detached.

        Args:
            batch: the images, on the student's device.
            teacher: the teacher's output for them; ``None`` for cross-entropy alone.
            lr: learning rate.
            progress: share of the training that is done, 0 to 1.

        Raises:
            DivergedError: the loss is not finite; names the terms and the learning rate.
        """
        self.optimiser.param_groups[0]["lr"] = lr
        with torch.autocast(self.device.type, torch.bfloat16, self.precision == "bfloat16"):
            terms = self._terms(batch, teacher, progress)
        loss = torch.stack(list(terms.values())).sum()
        if not math.isfinite(loss.item()):
            raise DivergedError(self._not_finite(terms, lr))
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return {name: term.detach() for name, term in terms.items()}

    def _terms(
        self, batch: Batch, teacher: TeacherOutput | None, progress: float
    ) -> dict[str, Tensor]:
        """Named loss terms of a batch."""
        return self.distiller(self.student(batch.images), teacher, batch, progress)

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
        logits = predict(self.student, few, device=self.device, precision=self.precision)
        return {"accuracy": (logits.argmax(1) == few.labels).float().mean().item()}

    def round_off(self, data: ImageData) -> None:
        """What is left to do with the training images when all epochs are done: nothing."""

    @staticmethod
    def measure(
        trainees: "Sequence[Trainee]", teacher: nn.Module | None, data: ImageData
    ) -> list[dict[str, Any]]:
        """What the records say of the quality of trainees of this kind, one an entry."""
        return evaluate_students(
            [trainee.student for trainee in trainees],
            teacher,
            data,
            device=trainees[0].device,
            precision=trainees[0].precision,
        )

    def cost(self) -> dict[str, Any]:
        """Parameters, operations and latency of what was trained."""
        return measure_cost(self.student, self.config.image_size, self.device)

    def end_epoch(self, row: dict[str, Any]) -> None:
        """Add a row of history and save a checkpoint that a killed run goes on from."""
        self.history.append(row)
        tensors = {f"model.{name}": value for name, value in self.parts.state_dict().items()}
        for name, value in optimiser_state(self.optimiser).items():
            tensors[f"momentum.{name}"] = value
        facts = {"history": self.history, "precision": self.precision}
        save_tensors(self._checkpoint, tensors, facts)

    def finish(self) -> None:
        """Write the student's weights and the history; the record comes after these."""
        save_tensors(
            self.directory / "weights.safetensors",
            self.student.state_dict(),
            {"classes": self.classes, "model": self.config.student},
        )
        write_text(self.directory / "history.csv", as_csv(self.history))

    def forget_checkpoint(self) -> None:
        """Remove the checkpoint of a run whose record is written."""
        self._checkpoint.unlink(missing_ok=True)

    def _pair(self, lesson: Lesson | None) -> Pair | None:
        if lesson is None:
            return None
        shapes = output_shapes(self.student, self.config.image_size)
        seed = derive_seed(self.config.init_seed, "distiller")
        return Pair(shapes, lesson.shapes, lesson.labels, self.config.batch_size, seed)

    @property
    def _checkpoint(self) -> Path:
        return self.directory / "checkpoint.safetensors"

    def _restore(self) -> None:
        if not self._checkpoint.exists():
            return
        tensors, facts = load_tensors(self._checkpoint)
        self.parts.load_state_dict(_under(tensors, "model."))
        restore_optimiser(self.optimiser, _under(tensors, "momentum."))
        self.history, self.precision = facts["history"], facts["precision"]

    def _not_finite(self, terms: dict[str, Tensor], lr: float) -> str:
        values = ", ".join(f"{name} {term.item():.4g}" for name, term in terms.items())
        return (
            f"The loss of '{self.label}' is not finite in epoch {self.epoch + 1} "
            f"({values}; learning rate {lr:.4g}). Lower learning_rate or weight; "
            f"the last good epoch is kept in {self._checkpoint}."
        )


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
