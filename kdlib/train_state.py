"""One student in training: network, distiller, optimiser, schedule, precision, history."""

import math
import os
import platform
import re
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from torch import Tensor, nn, optim

from kdlib import files
from kdlib.data.batches import Batches
from kdlib.data.image_data import ImageData
from kdlib.distill import FrozenTeacher, Learner, create_distiller
from kdlib.errors import KdlibError, check_known
from kdlib.evaluate import evaluate_student, predict
from kdlib.kept import KeptTeacher
from kdlib.models import create_model
from kdlib.models.output import NetworkPair, latency, measure_cost, output_shapes
from kdlib.process_group import ALONE, ProcessGroup
from kdlib.runs import SCHEMA_VERSION, RunConfig, data_of, provenance, run_directory
from kdlib.seeds import derive_seed, seed_everything
from kdlib.tasks import TASKS

MONITORED = 2000  # images of the evaluation that an epoch's row is measured on
RESUME = "KDLIB_RESUME"  # the variable; "anew": what was begun otherwise is begun again
NO_EPOCHS = ("epoch", "learning_rate", "accuracy", "seconds")  # columns of an empty history


class DivergedError(KdlibError):
    """A loss that is not finite: the run cannot go on, others beside it can."""


@dataclass(frozen=True)
class Group:
    """What the students of one lock-step group share; losses are float32 in ``bfloat16`` too."""

    data: ImageData
    device: torch.device
    teacher: Any = None
    precision: str = "float32"
    world: ProcessGroup = ALONE
    batches: Any = None
    evaluation: Any = None
    compiled: bool = False  # students' forward passes in training


class TrainState:
    """A student with all that its training changes, saved as one; a paper's own are subclasses."""

    student: nn.Module
    distiller: Any  # makes the loss terms; has a ``name`` and says whether it ``needs_teacher``
    shared: dict[str, Any]  # how and with whom networks answer
    batches: Any = Batches  # what hands out the batches of a group of runs
    first, first_s = 0, 0.0  # epochs of the budget, and seconds, that a run before this one took

    def __init__(self, config: RunConfig, group: Group, root: Path) -> None:
        self.config, self.group, self.root, self.world = config, group, root, group.world
        self.device, self.precision = group.device, group.precision
        self.evaluation, self.measures = group.evaluation, TASKS[config.task]
        self.teacher: Any = None if config.teacher == "none" else group.teacher
        self.classes = len(group.data.classes)
        self.outputs = config.outputs(self.classes)
        self.directory = run_directory(config, root)
        self.checkpoint = self.directory / "checkpoint.safetensors"
        self.history: list[dict[str, Any]] = []
        self.failure: DivergedError | None = None
        network = getattr(self.teacher, "network", None)
        self.sources = {  # fingerprints of what it learns from, and is judged by
            "data": group.data.fingerprint,
            "evaluation": getattr(group.evaluation, "fingerprint", None),
            "teacher": None if network is None else files.checksum(network.state_dict()),
        }
        self.way = self.world.from_main(self.world.conditions(self.device))
        self.way |= {"compiled": group.compiled or None}  # it changes bits
        self._begin_epoch()
        self.network_options: dict[str, Any] = {}  # what the student is built with besides
        self.parts = self._build()  # all that has weights, which checkpoints hold
        self.optimiser = self._optimise()
        self.guide = lambda _, output: output  # from batch and teacher's output to what is shown
        if config.guide != "teacher":
            guide_of = resolve_name("kdlib.guides:guide_of")
            self.guide = guide_of(config, self.teacher, group.data, self.distiller)
        if self.checkpoint.exists():
            self._restore()
        self.shared = {"device": self.device, "precision": self.precision, "world": self.world}
        # Without cross-entropy nothing reads a classifier's logits; a detector's parts may rest.
        unread = not getattr(self.distiller, "ce_weight", 0)
        if group.compiled:
            vars(self.parts)["answer"] = torch.compile(self.student.forward)
        self.learner = self.world.wrapped(self.parts, some_unused=unread)

    @staticmethod
    def teacher_for(
        configs: Sequence[RunConfig], root: Path, data: ImageData, device: torch.device
    ) -> Any:
        """The frozen teacher that a group of runs shares; ``None`` if all are untaught."""
        config = next((one for one in configs if one.teacher != "none"), None)
        if config is None:
            return None
        usual, classes = run_directory(config.teacher_config(), root), len(data.classes)
        path = Path(config.teacher_weights or usual / "weights.safetensors")
        taught = data.fingerprint  # from other scenes, if it says so; two of them tell which
        if config.sample != config.teacher_sample:
            few = replace(config.teacher_config(), train_size=2)
            taught = data_of(few, "train", None).fingerprint
        own = {"run": usual.name, "data": taught}
        if not path.exists():
            recorded = not config.teacher_weights and (usual / "record.json").exists()
            first = f"It has a record all the same: delete {usual}. " if recorded else ""
            raise KdlibError(
                f"The teacher's weights are missing: {path}. {first}Train it first, by "
                "fit(config.teacher_config(), root); notebook batch/train does so by itself. Or "
                "name a file with teacher_weights."
            )
        network = create_model(config.teacher, classes)
        files.load_weights(network, path, classes, None if config.teacher_weights else own)
        return FrozenTeacher(network.to(device).to(memory_format=torch.channels_last))

    def _build(self) -> nn.Module:
        self.student = self._untrained()
        self.distiller = self._distiller(self.student, self.outputs)
        return Learner(self.student, self.distiller)

    def _distiller(self, student: nn.Module, outputs: int) -> Any:
        config, seed = self.config, derive_seed(self.config.init_seed, "distiller")
        seed_everything(seed)
        shapes = partial(output_shapes, image_size=config.input_size)
        given = None if self.teacher is None else shapes(self.teacher.network)
        sizes = (self.group.data.labels, config.batch_size, seed, outputs, config.pixels)
        return create_distiller(config, NetworkPair(shapes(student), given, *sizes)).to(self.device)

    def _optimise(self) -> optim.Optimizer:
        return create_optimiser(self.config, self.parts)

    def _untrained(self) -> nn.Module:
        seed_everything(derive_seed(self.config.init_seed, "weights"))
        start = {"weights": self.config.start} if self.config.start else {}
        student = create_model(self.config.student, self.outputs, **self.network_options, **start)
        return student.to(self.device).to(memory_format=torch.channels_last)

    def _begin_epoch(self) -> None:
        self.sums: dict[str, float] = defaultdict(float)  # of terms, over images
        self.images, self.steps, self.busy_s, self.lr = 0, 0, 0.0, 0.0

    @property
    def epoch(self) -> int:
        """Epochs done, those of a run before this one included."""
        return self.first + len(self.history)

    def progress(self, done: float, steps_per_epoch: int) -> float:
        """Share of this run's training, 0 to 1, after ``done`` steps, earlier runs' included."""
        own = self.config.epochs - self.first
        return (done - self.first * steps_per_epoch) / (own * steps_per_epoch)

    def rate(self, done: int, steps_per_epoch: int) -> float:
        """Learning rate of the step after ``done`` steps: of its middle."""
        share = self.progress(done + 0.5, steps_per_epoch)
        return learning_rate(self.config, share, self.config.epochs - self.first)

    def learn(self, batch: Any, teacher: Any, done: int, steps_per_epoch: int) -> dict[str, Tensor]:
        """A step, after ``done`` others; no terms, and a ``failure``, if its loss is not finite."""
        start, self.lr = time.perf_counter(), self.rate(done, steps_per_epoch)
        given = self.guide(batch, teacher) if self.distiller.needs_teacher else None
        try:
            terms = self.step(batch, given, self.lr, self.progress(done, steps_per_epoch))
        except DivergedError as error:
            self.failure = error
            return {}
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise KdlibError(
                f"'{self.config.student}' cannot learn by '{self.config.method}' from one image of "
                f"{self.config.input_size} pixels a side: a batch norm would see one value per "
                "channel. Set batch_size to 2 or more, with as many images, or choose larger ones."
            ) from error
        images = batch.shard.whole if batch.shard else len(batch.indices)
        for name, term in terms.items():
            self.sums[name] += term.item() * images
        self.images += images
        self.busy_s += time.perf_counter() - start
        return terms

    def step(self, batch: Any, teacher: Any, lr: float, progress: float) -> dict[str, Tensor]:
        """Learn from a batch and the teacher's output; returns the terms of the whole batch."""
        self.optimiser.param_groups[0]["lr"] = lr
        self.steps += 1
        with torch.autocast(self.device.type, torch.bfloat16, self.precision == "bfloat16"):
            terms = self.learner(batch, teacher, progress)
        loss = torch.stack(list(terms.values())).sum()
        logged = {name: term.detach() for name, term in terms.items()}
        if part := batch.shard:  # so that the mean of all processes' gradients is the batch's
            loss = loss * (self.world.size * (part.counted / part.whole))
            logged = self.world.means(logged, part)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # before the loss is looked at: meanwhile a GPU has work
        if not math.isfinite(torch.stack(list(logged.values())).sum().item()):
            values = ", ".join(f"{name} {term.item():.4g}" for name, term in logged.items())
            raise self._diverged("The loss", f"{values}; ")
        if self.config.gradient_clip is not None:
            nn.utils.clip_grad_norm_(self.parts.parameters(), self.config.gradient_clip)
        self.optimiser.step()
        return logged

    def monitor(self) -> dict[str, float]:
        """What an epoch's row tells of held-out images: for curves, never for choosing."""
        few, column = self.evaluation.first(MONITORED), self.measures.monitored
        if self.config.task == "segmentation":
            quality = evaluate_student(self.student, None, few, **self.shared)
            return {column: quality["results"][self.measures.metric]}
        logits = predict(self.student, few, **self.shared)
        if not logits.isfinite().all():
            self.failure = self._diverged("An answer", "")
        upright = logits[:, : self.classes]  # a student with more was taught rotations too
        return {column: (upright.argmax(1) == few.labels).float().mean().item()}

    def row(self, epoch: int, teaching_s: float) -> dict[str, Any]:
        """The epoch's row of ``history.csv``; the teacher took ``teaching_s`` seconds."""
        means = {name: total / self.images for name, total in self.sums.items()}
        own = {"epoch": epoch + 1, "learning_rate": self.lr, **means, **self.monitor()}
        seconds = self.busy_s + (teaching_s if self.distiller.needs_teacher else 0.0)
        return {**own, "seconds": round(seconds, 3)}

    def end_epoch(self, row: dict[str, Any]) -> None:
        """Add a row of history and save a checkpoint that a killed run goes on from.

        Neither if a weight or an answer is not finite: from there no run can go on.
        """
        tensors = {f"model.{name}": value for name, value in self.parts.state_dict().items()}
        for position, memory in self.optimiser.state_dict()["state"].items():
            for name, value in memory.items():
                if isinstance(value, Tensor):
                    tensors[f"momentum.{position}.{name}"] = value
        if lost := files.not_finite(tensors):
            self.failure = self._diverged(f"'{lost}'", "")
        if self.failure is not None:
            return
        self.history.append(row)
        self._begin_epoch()
        if self.world.is_main:
            facts = {"history": self.history, "precision": self.precision, "way": self.way}
            files.save_tensors(self.checkpoint, tensors, {**self.identity, **facts})

    def _diverged(self, what: str, values: str) -> DivergedError:
        kept = f"; the last good epoch is kept in {self.checkpoint}" if self.history else ""
        return DivergedError(
            f"{what} of '{self.config.method}' is not finite in epoch {self.epoch + 1}, step "
            f"{self.steps} ({values}learning rate {self.lr:.4g}). Lower learning_rate or "
            f"weight{kept}."
        )

    @property
    def identity(self) -> dict[str, Any]:
        """What every file of the run says that it is of, and is compared when it is read."""
        names = {"run": self.config.run_id, "config_hash": self.config.config_hash}
        return {**names, "model": self.config.student, **self.sources, "epoch": self.epoch}

    def _restore(self) -> None:
        tensors, facts = files.load_tensors(self.checkpoint)
        remedy = "Put this run's own file back, or delete it to begin anew."
        files.check_identity(self.checkpoint, facts, {"run": self.config.run_id}, remedy)
        if wish := os.environ.get(RESUME):
            check_known(RESUME, wish, ["anew"])
        advice = f"Start it as it was begun, or set {RESUME}=anew to begin it anew."
        began, now = {**facts, **facts.get("way", {})}, {**self.sources, **self.way}
        try:  # in another way it would end with numbers of no run
            told = "It is begun anew." if wish else advice
            files.check_identity(self.checkpoint, began, now, told)
        except KdlibError as error:
            if not wish:
                raise
            print(error, file=sys.stderr)
            return
        memory: dict[int, dict[str, Tensor]] = defaultdict(dict)
        try:
            parts = {name: tensors.pop(f"model.{name}") for name in self.parts.state_dict()}
            for key, tensor in tensors.items():
                _, position, name = key.split(".")
                memory[int(position)][name] = tensor
            self.parts.load_state_dict(parts)
            self.optimiser.load_state_dict({**self.optimiser.state_dict(), "state": memory})
            self.history, self.precision = facts["history"], facts["precision"]
        except (KeyError, ValueError, RuntimeError) as error:
            raise KdlibError(
                f"{self.checkpoint} is no checkpoint of this run ({type(error).__name__}). "
                "Delete it and run again."
            ) from error
        files.check_identity(self.checkpoint, facts, self.identity, remedy)

    # When all epochs are done.
    @property
    def counts(self) -> bool:
        """Whether there is a result; that a weight diverges is one where weights are chosen."""
        return self.failure is None or self.config.split == "dev"

    def start_over(self) -> None:
        """Take what was learnt back: a run that diverged has learnt nothing."""
        self.student.load_state_dict(self._untrained().state_dict())

    def deployed(self) -> nn.Module:
        """The network that is kept; of one that tells rotations (``sla``), upright logits alone."""
        if self.outputs == self.classes:
            return self.student
        own, plain = self.student.state_dict(), create_model(self.config.student, self.classes)
        for name, tensor in plain.state_dict().items():  # upright classes are the first rows
            tensor.copy_(own[name][: len(tensor)] if tensor.dim() else own[name])
        return plain.to(self.device).to(memory_format=torch.channels_last)

    def measure(self) -> dict[str, Any]:
        """What the record says of its quality."""
        teacher, data = self.teacher, self.evaluation
        teacher = teacher.on(data) if isinstance(teacher, KeptTeacher) else teacher
        quality = evaluate_student(self.deployed(), teacher, data, **self.shared)
        return {**quality, "self_teacher": None}

    def cost(self) -> dict[str, Any]:
        """Parameters, operations and latency of the network that is kept."""
        size = self.config.input_size
        batches = [torch.randn(count, 3, size, size, device=self.device) for count in (1, 64)]
        return measure_cost(self.deployed(), *batches)

    def finish(self) -> None:
        """Write the weights of the network that is kept, and the history; the record comes last."""
        facts = {"classes": self.classes, **self.identity}
        path = self.directory / "weights.safetensors"
        files.save_tensors(path, self.deployed().state_dict(), facts)
        columns = self.history[0] if self.history else NO_EPOCHS
        lines = [columns, *([row[name] for name in columns] for row in self.history)]
        text = "".join(",".join(map(str, line)) + "\n" for line in lines)
        files.write_text(self.directory / "history.csv", text)

    def record(self, measured: Mapping[str, Any], watched: Mapping[str, Any]) -> dict[str, Any]:
        """What ``record.json`` holds; ``watched``, of now, stands for a history that is empty."""
        config, data = self.config, self.group.data
        if "results" in measured:
            epochs = self._epochs(self.history or [{"epoch": self.epoch, **watched}])
            measured = {**measured, "results": {**measured["results"], **epochs}}
        seconds = self.first_s + sum(row["seconds"] for row in self.history)
        speed = len(data) * self.epoch / seconds if seconds else 0.0
        source = provenance(config, str(self.device), self.precision, data.fingerprint)
        source |= {f"{name}_fingerprint": self.sources[name] for name in ("evaluation", "teacher")}
        source |= {"compiled": True} if self.group.compiled else {}
        return {
            "schema_version": SCHEMA_VERSION,
            "run_id": config.run_id,
            "config": config.to_file(),
            "config_hash": config.config_hash,
            **files.finite(measured),
            "diverged": str(self.failure) if self.failure else None,
            "cost": {**self.cost(), "train_seconds": seconds, "images_per_second": speed},
            "provenance": {**source, **self.world.facts},
        }

    def _epochs(self, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Which epoch is the result, and which was the best of those whose quality was watched."""
        name, column, last = self.measures.metric, self.measures.monitored, history[-1]
        best = max(history, key=lambda row: row.get(column, row["epoch"]))
        ends = {"best": best, "last": last} if column in last else {}
        monitored = {f"{end}_monitored_{name}": row[column] for end, row in ends.items()}
        return {"last_epoch": self.epoch, "best_epoch": best["epoch"], **monitored}


def create_optimiser(config: RunConfig, network: nn.Module) -> optim.Optimizer:
    """The optimiser of a run, over all parameters of ``network`` that are not frozen."""
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    shared: dict[str, Any] = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    if config.optimiser == "sgd":
        return optim.SGD(learned, momentum=config.momentum, **shared)
    # Weight decay is added to the gradient, as in the papers that use Adam.
    return optim.Adam(learned, betas=(config.momentum, 0.999), **shared)


def learning_rate(config: RunConfig, share: float, epochs: int) -> float:
    """Learning rate at a ``share`` of ``epochs``; a function, so that resuming needs no state.

    Milestones are epochs that are done: after 150 the 151st, counted from 1, is the first slower.
    """
    factor = 1.0
    if config.schedule == "one_cycle":  # a rise over a fifth, a cosine to zero (Smith, 1708.07120)
        falling = (1 + math.cos(math.pi * (share - 0.2) / (1 - 0.2))) / 2
        factor = share / 0.2 if share < 0.2 else falling
    if config.schedule == "step":  # a tenth at each milestone, as both published protocols have it
        factor = 0.1 ** sum(share * epochs >= milestone for milestone in config.milestones)
    return config.learning_rate * factor


def resolve_precision(precision: str, device: torch.device) -> str:
    """``auto`` becomes ``bfloat16`` where it makes a convolution a tenth faster, or ``float32``."""
    if precision != "auto":
        return precision
    kind = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    name = re.sub("[ /]", "_", f"precision-{device.type}-{kind}-{torch.__version__}")
    path = files.cache_root() / f"{name}.txt"
    # Measured once on a machine: a busy moment must not give one comparison's runs two of them.
    if not path.exists():
        layer = nn.Conv2d(32, 32, 3, padding=1).to(device).to(memory_format=torch.channels_last)
        images = torch.randn(32, 32, 32, 32).to(device, memory_format=torch.channels_last)

        @torch.enable_grad()
        def step(enabled: bool) -> None:
            with torch.autocast(device.type, torch.bfloat16, enabled):
                layer(images).float().square().mean().backward()

        slow, fast = (latency(partial(step, enabled)) for enabled in (False, True))
        files.write_text(path, "bfloat16" if slow >= 1.1 * fast else "float32")
    return path.read_text()
