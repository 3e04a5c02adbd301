"""Training steps of students beside each other, with one teacher and the same batches."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from benchmarks.compiling import CompiledLearner, CompiledTeacher, folded
from kdlib.data.batches import Batch, Batches
from kdlib.data.image_data import ImageData
from kdlib.distill import FrozenTeacher, TeacherOutput
from kdlib.models import create_model
from kdlib.runs import RunConfig
from kdlib.seeds import seed_everything
from kdlib.trainee import Group, Trainee

NOWHERE = Path("no-runs")
LEARNING_RATE = 0.01
HALFWAY = 0.5  # share of the training that is done: no weight is still warming up


class Bench:
    """A teacher and a student for each method, ready to step.

    Args:
        config: the run that all have in common.
        methods: a student for each.
        data: images that the batches are made from, endlessly.
        device: where all of it lives.
        precision: ``float32`` or ``bfloat16``.
        options: of the methods whose options are not their defaults.
        fold: fold the teacher's batch norms into its convolutions.
        compiled: put the teacher and the students through ``torch.compile``.
    """

    def __init__(
        self,
        config: RunConfig,
        methods: list[str],
        data: ImageData,
        *,
        device: torch.device,
        precision: str,
        options: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
        fold: bool = False,
        compiled: bool = False,
    ) -> None:
        classes = len(data.classes)
        seed_everything(config.teacher_seed)
        network = create_model(config.teacher, classes)
        self.teacher = FrozenTeacher(network.to(device).to(memory_format=torch.channels_last))
        self.device, self.precision = device, precision
        own = (Group(data, device, self.teacher, precision), NOWHERE)
        self.trainees = {}
        for method in methods:
            run = replace(config, method=method, method_options=dict(options.get(method, {})))
            self.trainees[method] = Trainee(run, *own)
            self.trainees[method].parts.train()
        if fold:
            self.teacher = folded(self.teacher)
        if compiled:
            self.teacher = CompiledTeacher(self.teacher)
            for trainee in self.trainees.values():
                trainee.learner = CompiledLearner(trainee.parts)
        batches = Batches(data, config.batch_size, config.augmentation, device)
        self._batches = endless(batches, config.data_seed)

    def batch(self) -> Batch:
        """The next batch, as the training loop hands it to the networks."""
        batch = next(self._batches)
        return batch._replace(images=batch.images.contiguous(memory_format=torch.channels_last))

    def step(self, batch: Batch, *methods: str) -> dict[str, torch.Tensor]:
        """One teacher forward and one step of each named method's student; their losses."""
        with torch.autocast(self.device.type, torch.bfloat16, self.precision == "bfloat16"):
            teacher = self.teacher(batch.images)
        return {method: self._step(batch, teacher, method) for method in methods}

    def own_step(self, batch: Batch, method: str) -> torch.Tensor:
        """One step of a method's student, with a teacher forward if the method reads it."""
        if self.trainees[method].distiller.needs_teacher:
            return self.step(batch, method)[method]
        return self._step(batch, None, method)

    def _step(self, batch: Batch, teacher: TeacherOutput | None, method: str) -> torch.Tensor:
        terms = self.trainees[method].step(batch, teacher, LEARNING_RATE, HALFWAY)
        return torch.stack(list(terms.values())).sum()

    def weights(self, method: str) -> dict[str, torch.Tensor]:
        """All that a method's student has learnt."""
        return self.trainees[method].parts.state_dict()


def endless(batches: Batches, seed: int) -> Iterator[Batch]:
    """Whole batches of one epoch after the other."""
    for epoch in count():
        for batch in batches.epoch(seed, epoch):
            if len(batch.labels) == batches.batch_size:
                yield batch


def same_weights(together: Bench, apart: Bench, methods: list[str], steps: int) -> bool:
    """Whether students stepped in lock-step end with the bits of students stepped one by one.

    Both benches are new and made from the same config.
    """
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
