"""Relational knowledge distillation, RKD (Park 2019, arXiv 1904.05068)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdlib.data.batches import Batch
from kdlib.distillers.base import TeacherOutput
from kdlib.losses.numeric import divide, working_precision
from kdlib.models.output import Output


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

    def forward(self, student: Output, teacher: TeacherOutput, batch: Batch) -> Tensor:
        """(B,); its two parts carry their weights."""
        embeddings = student.embedding, teacher.embedding
        return rkd_per_image(*embeddings, self.distance_weight, self.angle_weight)
