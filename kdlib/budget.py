"""What a training step costs in operations, and how far the same operations would take another.

Operations are counted, not timed: they are the same on every machine and beside any other job, so
a run whose length depends on them is still a function of its configuration. The seconds that
records hold say what those operations took.
"""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from kdlib.data.batches import Batch
from kdlib.distillers.base import FrozenTeacher
from kdlib.errors import KdlibError
from kdlib.models import create_model, output_shapes
from kdlib.runs import RunConfig
from kdlib.trainee import Lesson, Trainee

NOWHERE = Path("no-runs")
DECISIVE = ("student", "teacher", "method", "method_options", "image_size", "task")
"""Fields that the operations of one image depend on."""
CLASSES = 100  # of the heads, whose operations hardly count
IMAGES = 2  # the fewest that a batch norm of single pixels takes


def training_flops(config: RunConfig) -> int:
    """Floating-point operations of one image's step: forward and backward, a teacher's forward.

    Whatever the run has: student, self-teacher, connecting layers, teacher. A multiply-add counts
    as two; norms and activations are not counted, nor are joint labels or mixtures.

    Raises:
        KdlibError: a detector, whose step depends on how many positives its images have.
    """
    if config.task == "detection":
        raise KdlibError(
            "A detector's step has as many operations as its images have positives, so no budget "
            "can be counted in advance: leave as_costly_as out of sweeps of task 'detection'."
        )
    labels = torch.arange(CLASSES)
    images = torch.zeros(IMAGES, 3, config.image_size, config.image_size)
    truth = labels[:IMAGES] if config.pixels is None else images[:, 0].long()
    batch = Batch(images, truth, labels[:IMAGES])
    teacher = _teacher(config)
    shapes = None if teacher is None else output_shapes(teacher.network, config.image_size)
    cpu, lesson = torch.device("cpu"), Lesson(shapes, labels)
    trainee = Trainee(config, CLASSES, NOWHERE, cpu, "float32", lesson)
    trainee.parts.train()
    with FlopCounterMode(display=False) as counter:
        taught = None if teacher is None else teacher(images)
        terms = trainee.distiller(trainee.student(images), taught, batch)
        torch.stack(list(terms.values())).sum().backward()
    return counter.get_total_flops() // IMAGES


def _teacher(config: RunConfig) -> FrozenTeacher | None:
    if config.canonical().teacher == "none":
        return None
    return FrozenTeacher(create_model(config.teacher, CLASSES))


def plain_epochs(config: RunConfig) -> int:
    """Epochs that the student alone gets out of the operations of a run's whole training."""
    own = {name: value for name, value in config.to_dict().items() if name in DECISIVE}
    return round(config.epochs * _cost_over_plain(json.dumps(own)))


@cache
def _cost_over_plain(fields: str) -> float:
    config = RunConfig.from_dict(json.loads(fields))
    plain = replace(config, method="student", method_options={})
    return training_flops(config) / training_flops(plain)
