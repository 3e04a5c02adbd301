"""Similarity-preserving distillation, SP (Tung, Mori 2019, arXiv 1907.09682)."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdlib.distill import TeacherOutput
from kdlib.losses.attention import divide, working_precision
from kdlib.models.output import Output

if TYPE_CHECKING:
    from kdlib.data.batches import Batch


# Probabilistic knowledge transfer, PKT (Passalis, Tefas 2018, arXiv 1803.10837).
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

    def forward(self, student: Output, teacher: TeacherOutput, batch: "Batch") -> Tensor:
        """(B,), unweighted."""
        return pkt_per_image(student.embedding, teacher.embedding)


# Relational knowledge distillation, RKD (Park 2019, arXiv 1904.05068).
def pairwise_distances(embedding: Tensor) -> Tensor:
    """Euclidean distances over their mean: (B, D) -> (B, B), diagonal 0."""
    differences = embedding[:, None] - embedding[None]
    squared = differences.square().sum(dim=2)
    # The root of 0 has an infinite gradient: equal images, the diagonal first, get none.
    apart = squared > 0
    distances = squared.where(apart, 1).sqrt().where(apart, 0)
    return divide(distances, distances.sum() / apart.sum().clamp_min(1))


def triplet_angles(embedding: Tensor) -> Tensor:
    """Cosine of the angle at image j of i, j, k: (B, D) -> (B, B, B), [j, i, k]."""
    directions = functional.normalize(embedding[None] - embedding[:, None], dim=2)
    return directions @ directions.transpose(1, 2)


def rkd_per_image(
    student: Tensor, teacher: Tensor, distance_weight: float = 25.0, angle_weight: float = 50.0
) -> Tensor:
    """Weighted sum of both potentials' Huber losses: embeddings (B, D), (B, D') -> (B,).

    Averaged over all pairs, and all triplets, in which an image is the first, or the vertex.
    """
    mine, theirs = working_precision(student), working_precision(teacher)
    with torch.autocast(student.device.type, enabled=False):
        distance = _huber(pairwise_distances(mine), pairwise_distances(theirs))
        angle = _huber(triplet_angles(mine), triplet_angles(theirs))
    return distance_weight * distance + angle_weight * angle


def _huber(mine: Tensor, theirs: Tensor) -> Tensor:
    """The mean for each first index of the Huber loss with delta 1."""
    return functional.smooth_l1_loss(mine, theirs, reduction="none").flatten(1).mean(dim=1)


class RelationalLoss(nn.Module):
    """Huber losses of distances and angles between the images of a batch, per image.

    Args:
        distance_weight: weight of the distances.
        angle_weight: weight of the angles; twice that of the distances in the paper.
    """

    def __init__(self, *, distance_weight: float = 25.0, angle_weight: float = 50.0) -> None:
        super().__init__()
        self.distance_weight, self.angle_weight = distance_weight, angle_weight

    def forward(self, student: Output, teacher: TeacherOutput, batch: "Batch") -> Tensor:
        """(B,); its two parts carry their weights."""
        embeddings = student.embedding, teacher.embedding
        return rkd_per_image(*embeddings, self.distance_weight, self.angle_weight)


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

    def forward(self, student: Output, teacher: TeacherOutput, batch: "Batch") -> Tensor:
        """(B,), unweighted."""
        return sp_per_image(student.stages[-1], teacher.stages[-1])
