"""A student, its frozen teacher and a batch, small enough for every test of SRM."""

import torch
from torch import nn

from kdlib.data.batches import Batch
from kdlib.distill import Distiller, FrozenTeacher, create_distiller
from kdlib.losses.pair import Pair
from kdlib.models import create_model
from kdlib.models.output import Shapes, output_shapes
from kdlib.runs import RunConfig

SIZE, CLASSES, BATCH = 32, 16, 6
LABELS = torch.arange(BATCH) % CLASSES


def network(name: str, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return create_model(name, CLASSES)


def frozen() -> FrozenTeacher:
    return FrozenTeacher(network("scenes_medium", 1))


def pair_of(student: Shapes, teacher: Shapes | None = None) -> Pair:
    """Of two networks by their shapes; by itself if there is one alone."""
    return Pair(student, teacher or student, LABELS, BATCH, 0, CLASSES)


def scenes_pair(student: nn.Module, teacher: FrozenTeacher) -> Pair:
    return pair_of(output_shapes(student, SIZE), output_shapes(teacher.network, SIZE))


def distiller(method: str, pair: Pair, **options: object) -> Distiller:
    torch.manual_seed(2)
    return create_distiller(RunConfig(method=method, method_options=options), pair)


def batch() -> Batch:
    images = torch.randn(BATCH, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
    return Batch(images, LABELS, torch.arange(BATCH))
