"""Probabilistic knowledge transfer, PKT (Passalis, Tefas 2018, arXiv 1803.10837)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdlib.data.batches import Batch
from kdlib.distillers.base import TeacherOutput
from kdlib.losses.numeric import working_precision
from kdlib.models.output import Output

SMALLEST_PROBABILITY = 1e-7


def neighbour_probabilities(embedding: Tensor) -> Tensor:
    """How likely j is picked as i's neighbour: (B, D) -> (B, B), rows sum to 1, diagonal 0.

    By the cosine kernel, (1 + cos) / 2, over the sum of its row.
    """
    directions = functional.normalize(working_precision(embedding), dim=1)
    kernel = (1 + directions @ directions.T).clamp_min(0) / 2
    others = kernel.masked_fill(torch.eye(len(kernel), dtype=torch.bool, device=kernel.device), 0)
    return others / others.sum(dim=1, keepdim=True).clamp_min(SMALLEST_PROBABILITY)


def pkt_per_image(student: Tensor, teacher: Tensor) -> Tensor:
    """``mean_j p_t(j|i) log(p_t(j|i) / p_s(j|i))``: embeddings (B, D), (B, D') -> (B,).

    The mean over pairs, in place of the paper's sum, is what the usual weight of 30000 belongs to.
    """
    with torch.autocast(student.device.type, enabled=False):
        mine, theirs = map(neighbour_probabilities, (student, teacher))
        ratio = (theirs + SMALLEST_PROBABILITY) / (mine + SMALLEST_PROBABILITY)
        return (theirs * ratio.log()).mean(dim=1)


class ProbabilisticLoss(nn.Module):
    """Divergence of the batch's neighbour probabilities in embedding space, per image."""

    def forward(self, student: Output, teacher: TeacherOutput, batch: Batch) -> Tensor:
        """(B,), unweighted."""
        return pkt_per_image(student.embedding, teacher.embedding)
