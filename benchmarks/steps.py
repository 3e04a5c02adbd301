"""Step times of methods over their floor, and of students in lock-step over separate runs."""

import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch

from kdlib.data.batches import Batch
from kdlib.distillers.base import FrozenTeacher
from kdlib.models import create_model
from kdlib.runs import RunConfig
from kdlib.trainee import Trainee

CLASSES = 16
LEARNING_RATE = 0.01


class Bench:
    """A teacher, students and one batch of random images, ready to step.

    Args:
        teacher: name of the teacher's network.
        student: name of the student's network.
        methods: a student for each.
        image_size: pixels a side.
        batch_size: images a step.
        device: where all of it lives.
        precision: ``float32`` or ``bfloat16``.
    """

    def __init__(
        self,
        teacher: str,
        student: str,
        methods: list[str],
        *,
        image_size: int,
        batch_size: int,
        device: torch.device,
        precision: str,
    ) -> None:
        network = create_model(teacher, CLASSES)
        self.teacher = FrozenTeacher(network.to(device).to(memory_format=torch.channels_last))
        self.device, self.precision = device, precision
        base = {"teacher": teacher, "student": student, "image_size": image_size}
        self.trainees = {
            method: self._trainee(RunConfig.from_dict({**base, "method": method}))
            for method in methods
        }
        images = torch.randn(batch_size, 3, image_size, image_size, device=device)
        images = images.contiguous(memory_format=torch.channels_last)
        labels = torch.randint(CLASSES, (batch_size,), device=device)
        self.batch = Batch(images, labels, torch.arange(batch_size, device=device))

    def _trainee(self, config: RunConfig) -> Trainee:
        trainee = Trainee(config, CLASSES, Path("unused"), self.device, self.precision)
        trainee.parts.train()
        return trainee

    def step(self, *methods: str) -> None:
        """One teacher forward and one step of each named method's student."""
        with torch.autocast(self.device.type, torch.bfloat16, self.precision == "bfloat16"):
            teacher = self.teacher(self.batch.images)
        for method in methods:
            self.trainees[method].step(self.batch, teacher, LEARNING_RATE)


def seconds(work: Callable[[], object]) -> float:
    """Wall seconds of one call, the device's queue drained."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def ratios(
    baseline: Callable[[], object], others: dict[str, Callable[[], object]], rounds: int
) -> dict[str, float]:
    """Median over rounds of each one's time over the baseline's, taken in turn in each round.

    In a round the baseline is timed before and after each of the others, so that a machine
    whose speed drifts does not favour either.
    """
    found: dict[str, list[float]] = {name: [] for name in others}
    for work in (baseline, *others.values()):
        work()
    for _ in range(rounds):
        before = seconds(baseline)
        for name, work in others.items():
            middle, after = seconds(work), seconds(baseline)
            found[name].append(2 * middle / (before + after))
            before = after
    return {name: median(values) for name, values in found.items()}


def overheads(bench: Bench, methods: list[str], rounds: int) -> dict[str, float]:
    """Step time of each method over the floor: teacher forward and a plain student's step."""
    works = {method: (lambda m=method: bench.step(m)) for method in methods}
    return ratios(lambda: bench.step("student"), works, rounds)


def lockstep_speedup(bench: Bench, methods: list[str], rounds: int) -> float:
    """How many times faster one lock-step of all methods is than a step of each by itself."""

    def separate() -> None:
        for method in methods:
            bench.step(method)

    together = ratios(separate, {"lock-step": lambda: bench.step(*methods)}, rounds)
    return 1 / together["lock-step"]
