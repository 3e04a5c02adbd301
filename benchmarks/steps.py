"""Training steps of students beside each other, with one teacher and the same batches."""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.optimization import fuse

from kdlib.data.batches import Batch, Batches
from kdlib.data.image_data import ImageData
from kdlib.distill import FrozenTeacher, TeacherOutput
from kdlib.kept import KeptTeacher
from kdlib.models import create_model
from kdlib.process_group import ALONE
from kdlib.runs import RunConfig
from kdlib.seeds import seed_everything
from kdlib.train_state import Group, TrainState

NOWHERE = Path("no-runs")
LEARNING_RATE = 0.01
HALFWAY = 0.5  # share of the training that is done: no weight is still warming up


def folded(teacher: FrozenTeacher) -> FrozenTeacher:
    """A copy of a teacher with its batch norms folded into the convolutions before them."""
    # Of a copy in eval mode: that of a network that was traced would train.
    return FrozenTeacher(fuse(copy.deepcopy(teacher.network).eval(), inplace=True))


class Bench:
    """A teacher and a student for each method, ready to step on endless batches of ``data``.

    ``options`` are of methods whose options are not their defaults; ``fold`` folds the teacher's
    batch norms, ``compiled`` puts the networks' forward passes through ``torch.compile``.
    """

    def __init__(
        self, config: RunConfig, methods: Sequence[str], data: ImageData, *, device: torch.device,
        precision: str, options: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
        fold: bool = False, compiled: bool = False,
    ) -> None:  # fmt: skip
        seed_everything(config.teacher_seed)
        network = create_model(config.teacher, len(data.classes))
        self.teacher = FrozenTeacher(network.to(device).to(memory_format=torch.channels_last))
        self.device, self.precision = device, precision
        group = Group(data, device, self.teacher, precision, compiled=compiled)
        self.states: dict[str, TrainState] = {}
        for method in methods:
            run = replace(config, method=method, method_options=dict(options.get(method, {})))
            self.states[method] = TrainState(run, group, NOWHERE)
            self.states[method].parts.train()
        if fold:
            self.teacher = folded(self.teacher)
        if compiled:
            self.teacher.network.compile()
        batches = Batches(data, config.batch_size, config.augmentation, device)
        how = (data, batches.mirrors, precision, ALONE.conditions(device))
        self.kept = KeptTeacher(network, *how)  # asked only where it is timed
        self._batches = endless(batches, config.data_seed)

    def batch(self) -> Batch:
        """The next batch, as the training loop hands it to the networks."""
        batch = next(self._batches)
        return batch._replace(images=batch.images.contiguous(memory_format=torch.channels_last))

    def step(self, batch: Batch, *methods: str, kept: bool = False) -> dict[str, Tensor]:
        """One teacher forward and one step of each named method's student; their losses.

        ``kept``: what the teacher said is read instead.
        """
        with torch.autocast(self.device.type, torch.bfloat16, self.precision == "bfloat16"):
            teacher = (self.kept if kept else self.teacher).teach(batch)
        return {method: self._step(batch, teacher, method) for method in methods}

    def own_step(self, batch: Batch, method: str) -> Tensor:
        """One step of a method's student, with a teacher forward if the method reads it."""
        if self.states[method].distiller.needs_teacher:
            return self.step(batch, method)[method]
        return self._step(batch, None, method)

    def _step(self, batch: Batch, teacher: TeacherOutput | None, method: str) -> Tensor:
        terms = self.states[method].step(batch, teacher, LEARNING_RATE, HALFWAY)
        return torch.stack(list(terms.values())).sum()

    def weights(self, method: str) -> dict[str, Tensor]:
        """All that a method's student has learnt."""
        return self.states[method].parts.state_dict()


def endless(batches: Any, seed: int) -> Iterator[Any]:
    """Whole batches of one epoch after the other."""
    every = (batch for epoch in count() for batch in batches.epoch(seed, epoch))
    return (batch for batch in every if len(batch.images) == batches.batch_size)


def same_weights(together: Bench, apart: Bench, methods: Sequence[str], steps: int) -> bool:
    """Whether students of two new, same benches end with one's bits, in lock-step and not."""
    batches = [together.batch() for _ in range(steps)]
    for batch in batches:
        together.step(batch, *methods)
    for method in methods:
        for batch in batches:
            apart.step(batch, method)
    return all(
        torch.equal(value, apart.weights(method)[name])
        for method in methods
        for name, value in together.weights(method).items()
    )


def plan_of(config: RunConfig) -> dict[str, Any]:
    """Networks, image size and batch size: what a plan says of a run."""
    names = ("teacher", "student", "image_size", "batch_size")
    return {name: getattr(config, name) for name in names}
