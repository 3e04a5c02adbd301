"""All that a run's training changes, as one module whose forward gives a step's loss terms.

What makes a step faster or spreads it over processes (a compiler, a wrapper that averages
gradients) takes this one module, whatever the method.
"""

from typing import Any, cast

from torch import Tensor, nn

from kdlib.distillers import Distiller
from kdlib.distillers.boxes import BoxDistiller
from kdlib.models.detectors import Detector


class Learner(nn.Module):
    """A student and what it is taught by: the method's own parts learn with it.

    Args:
        student: images (B, 3, H, W) to an ``Output``.
        distiller: from student's and teacher's output to named, weighted loss terms.
    """

    def __init__(self, student: nn.Module, distiller: Distiller | BoxDistiller) -> None:
        super().__init__()
        self.student, self.distiller = student, distiller

    def forward(self, batch: Any, teacher: Any, progress: float) -> dict[str, Tensor]:
        """Named, weighted loss terms of a batch: scalars, float32.

        Args:
            batch: a :class:`kdlib.data.batches.Batch`, or one of detectors.
            teacher: what the teacher says of it; ``None`` for the student's own loss alone.
            progress: share of the training that is done, 0 to 1.
        """
        return self.distiller(self.student(batch.images), teacher, batch, progress)


class DetectorLearner(Learner):
    """A detector, which has losses of its own, and a classifier of crops that adds to them."""

    def forward(self, batch: Any, teacher: Any, progress: float) -> dict[str, Tensor]:
        """As :meth:`Learner.forward`, of a :class:`kdlib.data.detection_batches.DetectionBatch`."""
        answer = self.student(batch.images, batch.targets)
        student = cast("Detector", self.student)
        added = cast("BoxDistiller", self.distiller)(answer.positives, student, batch, teacher)
        return {**answer.losses, **added}


class Describer(nn.Module):
    """Dictionaries that describe a frozen teacher: there is no student.

    Args:
        distiller: whose method's loss holds the dictionaries.
        best: the dictionaries of the least loss so far; they do not learn.
    """

    def __init__(self, distiller: Distiller, best: nn.Module) -> None:
        super().__init__()
        self.distiller, self.best = distiller, best

    def forward(self, batch: Any, teacher: Any, progress: float) -> dict[str, Tensor]:
        """As :meth:`Learner.forward`; the teacher is described as it is."""
        return self.distiller(teacher, teacher, batch, progress)
