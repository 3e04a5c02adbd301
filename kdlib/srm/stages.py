"""The three runs of SRM, as states: dictionaries, initialised student, student that goes on."""

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn, optim

from kdlib.data.image_data import ImageData
from kdlib.distill import Distiller
from kdlib.errors import KdlibError
from kdlib.files import OURS, check_identity, load_tensors, load_weights
from kdlib.methods import run_before
from kdlib.models.output import Shapes, count_parameters
from kdlib.runs import RunConfig, finished_record, is_finished, run_directory
from kdlib.srm import probe
from kdlib.srm.losses import Blocks, InitialisationLoss, ReconstructionLoss, dictionaries
from kdlib.srm.options import SrmOptions
from kdlib.train_state import MONITORED, TrainState

INIT_DECAY = 1e-4  # weight decay of an initialisation by Adam, as released
DRAWN, DRAWN_FROM = 8000, 400
"""Pixels, and the images that they are drawn from, for the comparison with k-means."""


def learned_dictionaries(config: RunConfig, root: Path, **sources: Any) -> Blocks:
    """What a run of ``srm_dictionary`` learned, a block a stage, from these ``sources``.

    A ``KdlibError`` if it did not, or if the file says that it is of other ones.
    """
    path = run_directory(config, Path(root)) / "weights.safetensors"
    tensors, facts = load_tensors(path)
    check_identity(path, facts, {"run": config.run_id, **sources}, OURS)
    return blocks_of(tensors, config.method_options)


def blocks_of(tensors: Mapping[str, Tensor], options: Mapping[str, Any]) -> Blocks:
    """A block a stage, from the tensors that a run of ``srm_dictionary`` left; frozen."""
    widths = [tensor.shape[0] for name, tensor in tensors.items() if name.endswith(".atoms")]
    shapes = Shapes(tuple((channels, 1, 1) for channels in widths), 0)
    made = dictionaries(shapes, SrmOptions(**options))
    made.load_state_dict({name.removeprefix("blocks."): tensor for name, tensor in tensors.items()})
    return made.requires_grad_(False)


def finished_before(config: RunConfig, root: Path) -> RunConfig:
    """The run that ``config`` starts from; a ``KdlibError`` if it is not finished."""
    before = cast("RunConfig", run_before(config))
    if not is_finished(before, root):
        raise KdlibError(
            f"'{config.method}' starts from a run of '{before.method}' that is not finished: "
            f"{run_directory(before, root)}. Train it first; make reproduce and notebook "
            "batch/train do that by themselves."
        )
    return before


class DictionaryStep(nn.Module):
    """A distiller that describes a frozen teacher, without a student; and its best state so far."""

    def __init__(self, distiller: Distiller, best: nn.Module) -> None:
        super().__init__()
        self.distiller, self.best = distiller, best

    def forward(self, batch: Any, teacher: Any, progress: float) -> dict[str, Tensor]:
        """As :meth:`Learner.forward`; the teacher is described as it is."""
        return self.distiller(teacher, teacher, batch, progress)


class DictionaryLearner(TrainState):
    """Learns the dictionaries of a frozen teacher; what is kept is the state of least loss."""

    loss: ReconstructionLoss
    best: ReconstructionLoss
    """Part of the checkpoint, so that a run that was killed keeps the best state too."""

    def _build(self) -> nn.Module:
        if self.teacher is None:
            raise KdlibError("A dictionary describes a teacher: give the run one, not 'none'.")
        self.options = SrmOptions(**self.config.method_options)
        self.distiller = self._distiller(self.teacher.network, self.classes)
        self.loss = cast("ReconstructionLoss", self.distiller.method_loss)
        self.best = deepcopy(self.loss).requires_grad_(False)
        return DictionaryStep(self.distiller, self.best)

    def _optimise(self) -> optim.Optimizer:
        return optim.Adam(self.distiller.parameters(), lr=self.options.dictionary_rate)

    def rate(self, done: int, steps_per_epoch: int) -> float:
        """Learning rate after ``done`` steps: a tenth of it after each of the options' shares."""
        share = done / (self.config.epochs * steps_per_epoch)
        return _fallen(self.options.dictionary_rate, self.options.dictionary_steps, share)

    def end_epoch(self, row: dict[str, Any]) -> None:
        """Keep the state if no epoch before had a lower training loss."""
        name = self.distiller.name
        if row[name] < min((old[name] for old in self.history), default=math.inf):
            self.best.load_state_dict(self.loss.state_dict())
        super().end_epoch(row)

    def monitor(self) -> dict[str, float]:
        """Share of the energy of held-out features that each stage's codes explain."""
        few = self.evaluation.first(MONITORED)
        stages = probe.dictionary_quality(self.loss.blocks, self.teacher, few, **self.shared)
        return {f"explained_{n}": stage["explained"] for n, stage in enumerate(stages, 1)}

    @property
    def counts(self) -> bool:
        """A dictionary that diverged stays at its best state, if it has one."""
        return super().counts and bool(self.history)

    def start_over(self) -> None:
        """The state of least loss is what is measured."""

    def _drawn(self, data: ImageData) -> tuple[Tensor, ...]:
        return probe.stage_pixels(self.teacher, data.first(DRAWN_FROM), DRAWN, **self.shared)

    def measure(self) -> dict[str, Any]:
        """Quality of each stage's dictionary on held-out images, instead of accuracies.

        No codings of fewer pixels than atoms.
        """
        data = self.evaluation
        stages = probe.dictionary_quality(self.best.blocks, self.teacher, data, **self.shared)
        pixels = zip(self.best.blocks, self._drawn(self.group.data), self._drawn(data), strict=True)
        for stage, (block, seen, unseen) in zip(stages, pixels, strict=True):
            enough = len(seen) >= stage["atoms"]
            stage["codings"] = probe.compare_with_centroids(block, seen, unseen) if enough else []
        losses = [row[self.distiller.name] for row in self.history]
        epochs = {"last_epoch": self.epoch, "best_epoch": 1 + losses.index(min(losses))}
        return {"dictionary": {"stages": stages, "images": len(data), **epochs}}

    def deployed(self) -> nn.Module:
        """The dictionaries."""
        return self.best

    def cost(self) -> dict[str, Any]:
        """Its parameters; a dictionary is no network that answers, so it has no latency."""
        return {"parameters": count_parameters(self.best), "flops": None, "latency_ms": {}}


def _fallen(rate: float, steps: Sequence[float], share: float) -> float:
    """``rate``, and a tenth of it after each of these shares of the training."""
    return rate * 0.1 ** sum(share >= step for step in steps)


class Initialised(TrainState):
    """A student that learns from the labels of the teacher's codes; a linear probe judges it."""

    def _build(self) -> nn.Module:
        parts = super()._build()
        self.options = SrmOptions(**self.config.method_options)
        before = finished_before(self.config, self.root)
        learned = learned_dictionaries(before, self.root, **self.sources)
        loss = cast("InitialisationLoss", self.distiller.method_loss)
        loss.teachers.load_state_dict(learned.state_dict())
        return parts

    def _optimise(self) -> optim.Optimizer:
        if self.options.init_optimiser == "run":
            return super()._optimise()
        learned = [one for one in self.parts.parameters() if one.requires_grad]
        return optim.Adam(learned, lr=self.options.init_rate, weight_decay=INIT_DECAY)

    def rate(self, done: int, steps_per_epoch: int) -> float:
        """Learning rate after ``done`` steps: Adam's falls after each of the options' shares."""
        if self.options.init_optimiser == "run":
            return super().rate(done, steps_per_epoch)
        share = done / (self.config.epochs * steps_per_epoch)
        return _fallen(self.options.init_rate, self.options.init_steps, share)

    def monitor(self) -> dict[str, float]:
        """Nothing: the classifier knows nothing before the probe."""
        return {}

    def measure(self) -> dict[str, Any]:
        """As of any student, whose classifier is a linear probe of the frozen features."""
        data = self.group.data
        features = probe.embeddings(self.student, data, **self.shared)
        probe.install(self.student, *probe.fit_probe(features, data.labels.cpu(), self.classes))
        return super().measure()


class Continued(TrainState):
    """A student that learns its task from where its initialisation left it."""

    def _build(self) -> nn.Module:
        parts = super()._build()
        fresh = deepcopy(probe.classifier_of(self.student).state_dict())
        before = finished_before(self.config, self.root)
        directory = run_directory(before, self.root)
        own = {"run": before.run_id, **self.sources}
        load_weights(self.student, directory / "weights.safetensors", self.classes, own)
        if SrmOptions(**self.config.method_options).classifier == "fresh":
            probe.classifier_of(self.student).load_state_dict(fresh)
        # The initialisation is part of the student's budget; at least one epoch of it is left.
        self.first = min(before.epochs, self.config.epochs - 1)
        self.first_s = finished_record(before, self.root)["cost"]["train_seconds"]
        return parts
