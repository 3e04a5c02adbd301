"""A student, its frozen teacher and a batch, small enough for every test of SRM."""

import torch
from torch import nn

from kdlib.data.batches import Batch
from kdlib.distill import Distiller, FrozenTeacher, create_distiller
from kdlib.losses.pair import Pair
from kdlib.models import create_model
from kdlib.models.cost import output_shapes
from kdlib.runs import RunConfig

SIZE, CLASSES, IMAGES = 32, 16, 6
LABELS = torch.arange(IMAGES) % CLASSES


def network(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return create_model(name, CLASSES)


def frozen(name: str = "scenes_medium") -> FrozenTeacher:
    return FrozenTeacher(network(name, 1))


def pair_of(student: nn.Module, teacher: FrozenTeacher) -> Pair:
    shapes = output_shapes(student, SIZE), output_shapes(teacher.network, SIZE)
    return Pair(*shapes, LABELS, IMAGES, 0, CLASSES)


def distiller(method: str, pair: Pair, **options: object) -> Distiller:
    torch.manual_seed(2)
    return create_distiller(RunConfig(method=method, method_options=options), pair)


def batch() -> Batch:
    images = torch.randn(IMAGES, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
    return Batch(images, LABELS, torch.arange(IMAGES))
