"""KD of standardised logits (Sun 2024, arXiv 2403.01427)."""

from torch import Tensor, nn

from kdlib.data.batches import Batch
from kdlib.distillers.base import TeacherOutput
from kdlib.losses.numeric import divide, working_precision
from kdlib.losses.response import kd_per_image
from kdlib.models.output import Output


def standardised(logits: Tensor) -> Tensor:
    """Z-score of each image's logits (B, K) over its classes; zero where they are all equal."""
    values = working_precision(logits)
    centred = values - values.mean(dim=1, keepdim=True)
    # The root of 0 has an infinite gradient; equal logits get none.
    variance = centred.square().mean(dim=1, keepdim=True)
    varies = variance > 0
    return divide(centred, variance.where(varies, 1).sqrt().where(varies, 0))


class StandardisedLoss(nn.Module):
    """KD between logits of mean 0 and standard deviation 1: order and proportion alone, per image.

    Args:
        temperature: the base temperature (tau) by which the standardised logits are divided.
    """

    def __init__(self, *, temperature: float = 2.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Output, teacher: TeacherOutput, batch: Batch) -> Tensor:
        """(B,), unweighted."""
        logits = standardised(student.logits), standardised(teacher.logits)
        return kd_per_image(*logits, self.temperature)
