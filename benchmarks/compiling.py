"""A step's two modules, the teacher and the learner, put through ``torch.compile``.

Compiled numbers differ from the reference's by rounding, so nothing is compiled unless asked for.
An epoch's last batch may be smaller: to compile once more for it, or for any size, would cost more
than it saves, so batches of another size than the first run as they are.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from kdlib.distill import FrozenTeacher, TeacherOutput
from kdlib.errors import KdlibError
from kdlib.losses.dct import dct_matrix, frequency_mask
from kdlib.models.output import Output

BACKEND = "inductor"
CONSTANTS = (dct_matrix, frequency_mask)
"""Cached functions of sizes alone: the compiler takes their results and does not look inside."""


class CompiledLearner(nn.Module):
    """Runs a learner compiled; ``parts`` is what has the weights: ``Trainee.parts``."""

    def __init__(self, parts: nn.Module, backend: str = BACKEND) -> None:
        super().__init__()
        for function in CONSTANTS:
            torch.compiler.assume_constant_result(function.__wrapped__)
        self.parts, self._compiled = parts, _compiled(parts, backend)
        self._size: int | None = None

    def forward(self, batch: Any, teacher: Any, progress: float) -> dict[str, Tensor]:
        """As :meth:`kdlib.distill.Learner.forward`."""
        self._size = self._size or len(batch.labels)
        if len(batch.labels) != self._size:
            return self.parts(batch, teacher, progress)
        return self._compiled(batch, _plain(teacher), progress)


class CompiledTeacher(FrozenTeacher):
    """The same frozen network, compiled for batches of the first one's size."""

    def __init__(self, teacher: FrozenTeacher, backend: str = BACKEND) -> None:
        super().__init__(teacher.network)
        self._compiled = _compiled(teacher.network, backend)
        self._size: int | None = None

    @torch.no_grad()
    def forward(self, images: Tensor) -> TeacherOutput:
        """As :meth:`FrozenTeacher.forward`."""
        self._size = self._size or len(images)
        network = self._compiled if len(images) == self._size else self.network
        return TeacherOutput(*network(images))


def _compiled(module: nn.Module, backend: str) -> Any:
    """By itself: else the students of a step would share, and use up, one limit of recompiling.

    Sizes are those of the first call. Of the numbers only a weight's warm-up reads one that changes
    (``progress``); its second value makes the compiler take it for any number.
    """
    compiler: Any = torch.compile  # whose types do not know the last argument yet
    return compiler(module, backend=backend, isolate_recompiles=True)


def _plain(teacher: Any) -> Any:
    """A teacher's output without its lazily computed maps, which would break the graph in two."""
    if isinstance(teacher, TeacherOutput):
        return Output(teacher.logits, teacher.stages, teacher.embedding)
    return teacher


def folded(teacher: FrozenTeacher) -> FrozenTeacher:
    """A copy of a teacher with its batch norms folded into the convolutions before them.

    Raises:
        KdlibError: its network cannot be traced, so that what follows what is unknown.
    """
    try:  # the copy of a network that was traced would train
        return FrozenTeacher(fuse(copy.deepcopy(teacher.network).eval(), inplace=True))
    except Exception as error:
        raise KdlibError(
            f"The batch norms of this {type(teacher.network).__name__} cannot be folded: {error}. "
            "Train with the teacher as it is."
        ) from error
