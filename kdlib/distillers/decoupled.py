"""Decoupled knowledge distillation, DKD (Zhao 2022, arXiv 2203.08679)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdlib.data.batches import Batch
from kdlib.distillers.base import TeacherOutput
from kdlib.losses.numeric import working_precision
from kdlib.models.output import Output


def dkd_per_image(
    student: Tensor,
    teacher: Tensor,
    targets: Tensor,
    target_weight: float = 1.0,
    other_weight: float = 8.0,
    temperature: float = 4.0,
) -> Tensor:
    """``T^2 (alpha TCKD + beta NCKD)``: logits (B, K), (B, K), labels (B,) -> (B,).

    TCKD is the divergence of the two probabilities "the target" and "anything else", NCKD that
    of the classes other than the target among themselves. KD is their sum with weights 1 and
    the teacher's doubt, 1 minus its probability of the target.
    """
    mine, theirs = (working_precision(logits) / temperature for logits in (student, teacher))
    is_target = functional.one_hot(targets, mine.shape[1]).bool()
    target = _divergence(*(_target_or_not(logits, is_target) for logits in (mine, theirs)))
    others = _divergence(*(_others(logits, is_target) for logits in (mine, theirs)))
    return temperature**2 * (target_weight * target + other_weight * others)


def _target_or_not(logits: Tensor, is_target: Tensor) -> Tensor:
    """Log-probabilities (B, 2) of the target, and of all else together."""
    log_probabilities = functional.log_softmax(logits, dim=1)
    target = log_probabilities[is_target]
    rest = log_probabilities.masked_fill(is_target, -torch.inf).logsumexp(dim=1)
    return torch.stack([target, rest], dim=1)


def _others(logits: Tensor, is_target: Tensor) -> Tensor:
    """Log-probabilities (B, K - 1) of the other classes among themselves."""
    return functional.log_softmax(logits[~is_target].view(len(logits), -1), dim=1)


def _divergence(mine: Tensor, theirs: Tensor) -> Tensor:
    return functional.kl_div(mine, theirs, reduction="none", log_target=True).sum(dim=1)


class DecoupledLoss(nn.Module):
    """Divergence of the target's probability, and of the other classes', each weighted, per image.

    Args:
        target_weight: alpha of the paper.
        other_weight: beta; chosen for each pair of networks, 8 being usual on CIFAR-100.
        temperature: T.
    """

    def __init__(
        self,
        *,
        target_weight: float = 1.0,
        other_weight: float = 8.0,
        temperature: float = 4.0,
    ) -> None:
        super().__init__()
        self.weights = target_weight, other_weight
        self.temperature = temperature

    def forward(self, student: Output, teacher: TeacherOutput, batch: Batch) -> Tensor:
        """(B,); its two parts carry their weights."""
        logits = student.logits, teacher.logits
        return dkd_per_image(*logits, batch.labels, *self.weights, self.temperature)
