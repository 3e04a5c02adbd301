"""Losses of dense answers, a class for each pixel, where masks leave pixels out.

They take the logits (B, K) and labels (B,) of a classifier too, and every one of these counts.
"""

import torch
from torch import Tensor
from torch.nn import functional

from kdlib.losses.numeric import working_precision
from kdlib.losses.response import kd_loss
from kdlib.tasks import IGNORED


def counts(labels: Tensor) -> Tensor:
    """Which labels count: all of images (B,), those of pixels (B, H, W) that are not ``IGNORED``.

    A data set of images may have so many classes that ``IGNORED`` is one of them.
    """
    return labels != IGNORED if labels.ndim > 1 else torch.ones_like(labels, dtype=torch.bool)


def cross_entropy_per_image(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of ``-log p(label)`` over an image's pixels that count: (B, K, ...), (B, ...) -> (B,).

    An image without such pixels gives 0.
    """
    counted = counts(labels)
    losses = functional.cross_entropy(
        working_precision(logits), labels.where(counted, 0), reduction="none"
    )
    return _mean_per_image(losses, counted)


def kl_per_image(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float = 1.0
) -> Tensor:
    """Mean of ``T^2 KL(softmax(z_t / T) || softmax(z_s / T))`` over an image's pixels that count.

    (B, K, ...), (B, K, ...), (B, ...) -> (B,). An image without such pixels gives 0. No gradient
    reaches the teacher.
    """
    student, teacher = (
        functional.log_softmax(working_precision(logits) / temperature, dim=1)
        for logits in (student_logits, teacher_logits.detach())
    )
    divergence = functional.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
    return temperature**2 * _mean_per_image(divergence, counts(labels))


def batch_mean(per_image: Tensor, labels: Tensor) -> Tensor:
    """Mean over all pixels of a batch that count, from the means (B,) of its images; 0 of none.

    An image of which half counts weighs half, as in a mean over the pixels themselves.
    """
    if labels.ndim == 1:
        return per_image.mean()
    weights = counts(labels).flatten(1).sum(dim=1).to(per_image.dtype)
    return (per_image * weights).sum() / weights.sum().clamp_min(1)


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of a batch of images (B,) or of pixels (B, H, W): a scalar."""
    if labels.ndim == 1:
        return functional.cross_entropy(logits, labels)
    return batch_mean(cross_entropy_per_image(logits, labels), labels)


def mean_kd(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """``T^2 KL`` of a batch of images (labels (B,)) or of pixels (labels (B, H, W)): a scalar."""
    if labels.ndim == 1:
        return kd_loss(student_logits, teacher_logits, temperature)
    return batch_mean(kl_per_image(student_logits, teacher_logits, labels, temperature), labels)


def _mean_per_image(values: Tensor, counted: Tensor) -> Tensor:
    total = values.where(counted, 0).reshape(len(values), -1).sum(dim=1)
    return total / counted.reshape(len(values), -1).sum(dim=1).clamp_min(1)
