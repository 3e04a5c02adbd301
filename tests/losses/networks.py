"""Outputs of a student and a teacher that were made up, and the pair that they are."""

from typing import Any

import torch
from torch import Tensor

from kdlib.data.batches import Batch
from kdlib.distill import Distiller, TeacherOutput
from kdlib.models.output import NetworkPair, Output, Shapes

BATCH, CLASSES, IMAGES = 6, 5, 40
LABELS = torch.arange(IMAGES) % CLASSES
INDICES = torch.tensor([0, 6, 12, 23, 9, 31])
STUDENT = Shapes(((6, 8, 8), (12, 4, 4)), 12)
TEACHER = Shapes(((9, 8, 8), (18, 4, 4)), 18)
# Wider, deeper, and larger maps: nothing that a method could take for granted.
OTHER_TEACHER = Shapes(((5, 16, 16), (9, 12, 12), (18, 6, 6)), 20)


def batch() -> Batch:
    """Labels and positions; methods see no images."""
    return Batch(torch.empty(BATCH, 0), LABELS[INDICES], INDICES)


def output(shapes: Shapes, seed: int = 0, dtype: torch.dtype = torch.float32) -> Output:
    """Features of a network after its activations, and logits; all ask for gradients."""
    stream = torch.Generator().manual_seed(seed)
    stages = [torch.rand(BATCH, *shape, generator=stream) for shape in shapes.stages]
    embedding = torch.rand(BATCH, shapes.embedding, generator=stream)
    logits = torch.randn(BATCH, CLASSES, generator=stream)
    made = [tensor.to(dtype).requires_grad_() for tensor in (logits, *stages, embedding)]
    return Output(made[0], tuple(made[1:-1]), made[-1])


def taught(shapes: Shapes = TEACHER, seed: int = 1, **kind: torch.dtype) -> TeacherOutput:
    """A teacher's output."""
    return TeacherOutput(*output(shapes, seed, **kind))


def pair(student: Shapes = STUDENT, teacher: Shapes = TEACHER, **changes: Any) -> NetworkPair:
    """What a fitted method is built from."""
    return NetworkPair(
        student, teacher, LABELS, **{"batch_size": BATCH, "seed": 0, "classes": CLASSES, **changes}
    )


def guided(made: Distiller, teacher: TeacherOutput) -> Distiller:
    """A distiller in which a self-taught method is taught by ``teacher``, as others are."""
    if hasattr(made.method_loss, "teach"):
        given = Output(teacher.logits, teacher.stages, teacher.embedding)
        made.method_loss.teach = lambda student: given  # type: ignore[method-assign]
    return made


def tensors(made: Output) -> list[Tensor]:
    """All that an output holds."""
    return [made.logits, *made.stages, made.embedding]
