"""Similarity-preserving distillation, SP (Tung, Mori 2019, arXiv 1907.09682)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdlib.data.batches import Batch
from kdlib.distillers.base import TeacherOutput
from kdlib.losses.numeric import working_precision
from kdlib.models.output import Output


def batch_similarity(features: Tensor) -> Tensor:
    """Rows of ``Q Q^T`` of unit L2 norm, Q the flattened features.

    (B, C, H, W) -> (B, B). A dead image, all zero, has similarity 0 to all.
    """
    flat = working_precision(features).flatten(1)
    with torch.autocast(flat.device.type, enabled=False):
        return functional.normalize(flat @ flat.T, dim=1)


def sp_per_image(student: Tensor, teacher: Tensor) -> Tensor:
    """``sum_j (G_s - G_t)_ij^2 / B``: features of one stage -> (B,).

    Its mean over the batch is ``|G_s - G_t|_F^2 / B^2``.
    """
    difference = batch_similarity(student) - batch_similarity(teacher)
    return difference.square().mean(dim=1)


class SimilarityLoss(nn.Module):
    """Difference of the batch's similarity matrices, at the last stage, per image."""

    def forward(self, student: Output, teacher: TeacherOutput, batch: Batch) -> Tensor:
        """(B,), unweighted."""
        return sp_per_image(student.stages[-1], teacher.stages[-1])
