"""Relations between the images of a batch: PKT, RKD and SP, of embeddings or features."""

import torch
from torch import Tensor
from torch.nn import functional

from kdlib.losses import attention
from kdlib.losses.attention import Features, check_batches, mean_of, working_precision


def pkt_per_image(student: Tensor, teacher: Tensor) -> Tensor:
    """``mean_j p_t(j|i) log(p_t(j|i) / p_s(j|i))``: embeddings (B, D), (B, D') -> (B,).

    Passalis 2018, arXiv 1803.10837, with a mean for its sum, as released: to that belongs the usual
    weight of 30000. The release counts an image among its own neighbours.
    """
    check_batches(student, teacher)
    with torch.autocast(student.device.type, enabled=False):
        mine, theirs = map(neighbour_probabilities, (student, teacher.detach()))
        ratio = (theirs + 1e-7) / (mine + 1e-7)
        return (theirs * ratio.log()).mean(dim=1)


def neighbour_probabilities(embedding: Tensor) -> Tensor:
    """The cosine kernel (1 + cos) / 2 over its rows' sums: (B, D) -> (B, B)."""
    values = working_precision(embedding)
    directions = values / (torch.linalg.vector_norm(values, dim=1, keepdim=True) + 1e-7)
    kernel = (1 + directions @ directions.T).clamp_min(0) / 2
    return kernel / kernel.sum(dim=1, keepdim=True)


def rkd_per_image(
    student: Tensor, teacher: Tensor, distance_weight: float = 25.0, angle_weight: float = 50.0
) -> Tensor:
    """Weighted Huber losses of distances and angles: embeddings (B, D), (B, D') -> (B,).

    Means over pairs with an image first, triplets with it as vertex. Park 2019, arXiv 1904.05068.
    """
    check_batches(student, teacher)
    mine, theirs = working_precision(student), working_precision(teacher.detach())
    with torch.autocast(student.device.type, enabled=False):
        distance = _huber(pairwise_distances(mine), pairwise_distances(theirs))
        angle = _huber(triplet_angles(mine), triplet_angles(theirs))
    return distance_weight * distance + angle_weight * angle


def pairwise_distances(embedding: Tensor) -> Tensor:
    """Euclidean distances over their mean: (B, D) -> (B, B), diagonal 0."""
    squared = (embedding[:, None] - embedding[None]).square().sum(dim=2)
    apart = squared > 0  # the root of 0 has an infinite gradient: equal images get none
    distances = squared.where(apart, 1).sqrt().where(apart, 0)
    return attention.divide(distances, distances.sum() / apart.sum().clamp_min(1))


def triplet_angles(embedding: Tensor) -> Tensor:
    """Cosine of the angle at image j of i, j, k: (B, D) -> (B, B, B), [j, i, k]."""
    directions = functional.normalize(embedding[None] - embedding[:, None], dim=2)
    return directions @ directions.transpose(1, 2)


def _huber(mine: Tensor, theirs: Tensor) -> Tensor:
    return functional.smooth_l1_loss(mine, theirs, reduction="none").flatten(1).mean(dim=1)


def sp_per_image(student: Features, teacher: Features) -> Tensor:
    """``sum_j (G_s - G_t)_ij^2 / B`` of the last stage's features (B, C, H, W) -> (B,).

    Its mean over the batch is ``|G_s - G_t|_F^2 / B^2``. Tung, Mori 2019, arXiv 1907.09682.
    """
    attention.check_features(student, teacher)
    mine, theirs = (attention.stages_of(features)[-1] for features in (student, teacher))
    return (batch_similarity(mine) - batch_similarity(theirs.detach())).square().mean(dim=1)


def batch_similarity(features: Tensor) -> Tensor:
    """Rows of ``Q Q^T`` over their L2 norm (0 for a dead image): (B, C, H, W) -> (B, B)."""
    flat = working_precision(features).flatten(1)
    with torch.autocast(flat.device.type, enabled=False):
        return functional.normalize(flat @ flat.T, dim=1)


pkt_loss = mean_of(pkt_per_image)
rkd_loss = mean_of(rkd_per_image)
sp_loss = mean_of(sp_per_image)
