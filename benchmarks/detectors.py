"""What a detector's step costs: beside the plain detector's, and beside its own floor."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any

import torch

from benchmarks.steps import HALFWAY, NOWHERE
from benchmarks.timing import peak_bytes, state_bytes
from kdlib.data.image_data import ImageData
from kdlib.detection.batches import DetectionBatch, DetectionBatches
from kdlib.detection.teacher import CropTeacher
from kdlib.detection.trainee import DetectorTrainee
from kdlib.models import create_model
from kdlib.runs import RunConfig
from kdlib.seeds import seed_everything
from kdlib.trainee import Group

PLAIN = "student"


class DetectorBench:
    """A classifier of crops, and a detector for each run and one alone, ready to step.

    The weights are random: a detector's positives follow from its anchors and the objects, so that
    there are as many of them as in a training. Only detectors with proposals learn where they are.
    """

    def __init__(
        self,
        config: RunConfig,
        runs: Mapping[str, RunConfig],
        data: ImageData,
        *,
        device: torch.device,
        precision: str,
    ) -> None:
        classes, colours = len(data.classes), (data.mean, data.std)
        seed_everything(config.teacher_seed)
        network = create_model(config.teacher, classes).to(memory_format=torch.channels_last)
        self.teacher = CropTeacher(network, config.crop_size, *colours).to(device)
        self.cutter = CropTeacher(None, config.crop_size, *colours).to(device)
        own = (Group(data, device, precision=precision), NOWHERE)
        plain = replace(config, method=PLAIN, method_options={}, weight=None).canonical()
        every = {**runs, PLAIN: plain}
        self.trainees = {method: DetectorTrainee(run, *own) for method, run in every.items()}
        for trainee in self.trainees.values():
            trainee.parts.train()
        self.batches = DetectionBatches(data, config.batch_size, config.augmentation, device)

    def batch(self) -> DetectionBatch:
        """The first whole batch of some epoch."""
        size = self.batches.batch_size
        epochs = (self.batches.epoch(0, number) for number in count())
        return next(batch for epoch in epochs for batch in epoch if len(batch.images) == size)

    def step(self, batch: DetectionBatch, method: str) -> dict[str, torch.Tensor]:
        """One step of a method's detector, with the classifier's forward if the method reads it."""
        trainee = self.trainees[method]
        teacher = self._asked(method) if trainee.distiller.needs_teacher else None
        lesson = None if teacher is None else teacher.teach(batch)
        rate = trainee.config.learning_rate / 10
        return trainee.step(batch, lesson, rate, HALFWAY)

    def floor(self, batch: DetectionBatch, method: str) -> dict[str, torch.Tensor]:
        """What a method cannot do without: the classifier's forward, if any, and a plain step."""
        if self._asked(method) is self.teacher:
            self.teacher.teach(batch)
        return self.step(batch, PLAIN)

    def peak(self, work: partial) -> int:
        """The most bytes that a step holds beyond weights and momenta.

        Gradients of the step before are let go first: how their end counts depends on whether the
        profiler saw their beginning.
        """
        for trainee in self.trainees.values():
            trainee.optimiser.zero_grad(set_to_none=True)
        return peak_bytes(work)

    def _asked(self, method: str) -> CropTeacher:
        """The classifier; or, for methods that compare pixels alone, what cuts them out."""
        return self.cutter if self.trainees[method].config.teacher == "none" else self.teacher


def detector_costs(bench: DetectorBench, method: str, timed: partial) -> dict[str, Any]:
    """Time and peak memory of a method's step over its floor's and, ``plain``, a plain step's."""
    batch = bench.batch()
    own = partial(bench.step, batch, method)
    plain = partial(bench.step, batch, PLAIN)
    floors = {"floor": partial(bench.floor, batch, method), "plain": plain}
    times = {name: timed(floor, {"own": own})["own"] for name, floor in floors.items()}
    peak = bench.peak(own) + state_bytes(bench.trainees[method].distiller)
    least = {name: bench.peak(floor) for name, floor in floors.items()}
    cost = {n: {"time": times[n].as_json(), "memory": _memory(peak, least[n])} for n in floors}
    return {**cost["floor"], "plain": cost["plain"]}


def _memory(peak: int, floor: int) -> dict[str, Any]:
    return {"peak_bytes": peak, "floor_bytes": floor, "ratio": round(peak / floor, 4)}
