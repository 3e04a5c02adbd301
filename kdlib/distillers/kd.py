"""Logit distillation (Hinton, Vinyals, Dean 2015, arXiv 1503.02531)."""

from torch import Tensor, nn

from kdlib.losses.response import kd_per_image
from kdlib.models.output import Output


class KDLoss(nn.Module):
    """``T^2 KL`` of the softened class probabilities, per image."""

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Output, teacher: Output, targets: Tensor) -> Tensor:
        """(B,), unweighted."""
        return kd_per_image(student.logits, teacher.logits, self.temperature)
