"""Logits: softened class probabilities distilled, labels learnt; per image or per pixel."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdlib.errors import KdlibError
from kdlib.losses.attention import divide, mean_of, working_precision
from kdlib.tasks import IGNORED


def kd_per_image(
    student: Tensor, teacher: Tensor, temperature: float = 4.0, counted: Tensor | None = None
) -> Tensor:
    """``T^2 KL(softmax(z_t / T) || softmax(z_s / T))``: logits (B, K, ...) twice -> (B,).

    No gradient reaches the teacher. Of pixels (B, K, H, W), it is the mean over an image's, or over
    those ``counted``, (B, H, W) bool: 0 if none is. Source: Hinton 2015, arXiv 1503.02531.
    """
    _check_logits(student, teacher, temperature)
    mine, theirs = (_classes_last(logits) for logits in (student, teacher.detach()))
    if temperature != 1:  # of many pixels a division by 1 would be a pass for nothing
        mine, theirs = mine / temperature, theirs / temperature
    mine, theirs = functional.log_softmax(mine, dim=-1), functional.log_softmax(theirs, dim=-1)
    return temperature**2 * _mean_over_pixels(_divergence(mine, theirs), counted)


class KDLoss(nn.Module):
    """:func:`kd_loss` as a module."""

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Logits (B, K) twice -> scalar."""
        return kd_loss(student, teacher, self.temperature)


def _check_logits(student: Tensor, teacher: Tensor, temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise KdlibError(f"temperature is {temperature}; it must be a number above 0.")
    if student.shape != teacher.shape:
        raise KdlibError(
            f"The student's logits are {tuple(student.shape)} and the teacher's "
            f"{tuple(teacher.shape)}; both must be of the same images and classes."
        )


def _classes_last(logits: Tensor) -> Tensor:
    """(B, K, ...) -> (B, ..., K): no move in ``channels_last``, and there softmax is vectorised."""
    return working_precision(logits).movedim(1, -1)


def _divergence(mine: Tensor, theirs: Tensor) -> Tensor:
    return functional.kl_div(mine, theirs, reduction="none", log_target=True).sum(dim=-1)


def _mean_over_pixels(values: Tensor, counted: Tensor | None) -> Tensor:
    """(B, ...) -> (B,); what has no pixels stays as it is."""
    if values.dim() == 1:
        return values
    if counted is None:
        return values.flatten(1).mean(dim=1)
    total = values.where(counted, 0).flatten(1).sum(dim=1)
    return total / counted.flatten(1).sum(dim=1).clamp_min(1)


def dkd_per_image(
    student: Tensor, teacher: Tensor, targets: Tensor, target_weight: float = 1.0,
    other_weight: float = 8.0, temperature: float = 4.0,
) -> Tensor:  # fmt: skip
    """``T^2 (alpha TCKD + beta NCKD)``: logits (B, K), (B, K), labels (B,) -> (B,).

    TCKD is the divergence of "the target" and "anything else", NCKD that of the other classes among
    themselves; KD is their sum with weights 1 and the teacher's doubt, 1 minus its probability of
    the target. Beta is chosen for each pair of networks. Source: Zhao 2022, arXiv 2203.08679.
    """
    _check_logits(student, teacher, temperature)
    if targets.shape != student.shape[:1]:
        raise KdlibError(f"Labels are {tuple(targets.shape)}; give one class an image, (B,).")
    is_target = functional.one_hot(targets.long(), student.shape[1]).bool()
    both = student, teacher.detach()
    mine, theirs = (working_precision(logits) / temperature for logits in both)
    parts = zip(_decoupled(mine, is_target), _decoupled(theirs, is_target), strict=True)
    target, others = (_divergence(*pair) for pair in parts)
    return temperature**2 * (target_weight * target + other_weight * others)


def _decoupled(logits: Tensor, is_target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities (B, 2) of the target and of all else; (B, K - 1) of the others alone."""
    log_probabilities = functional.log_softmax(logits, dim=1)
    rest = log_probabilities.masked_fill(is_target, -torch.inf).logsumexp(dim=1)
    others = functional.log_softmax(logits[~is_target].view(len(logits), -1), dim=1)
    return torch.stack([log_probabilities[is_target], rest], dim=1), others


def standardised_kd_per_image(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """KD of z-scored logits: (B, K) twice -> (B,). Source: Sun 2024, arXiv 2403.01427."""
    return kd_per_image(standardised(student), standardised(teacher), temperature)


def standardised(logits: Tensor) -> Tensor:
    """Z-score of each image's logits (B, K) over its classes; zero where they are all equal.

    The deviation is the unbiased one, of K - 1, plus 1e-7, as released.
    """
    values = working_precision(logits)
    centred = values - values.mean(dim=1, keepdim=True)
    variance = centred.square().sum(dim=1, keepdim=True) / (values.shape[1] - 1)
    varies = variance > 0  # the root of 0 has an infinite gradient; equal logits get none
    return divide(centred, variance.where(varies, 1).sqrt().where(varies, 0) + 1e-7, 1e-7)


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of ``-log p(label)`` over all images, or over all pixels that count: a scalar.

    Logits (B, K) with labels (B,), or (B, K, H, W) with (B, H, W). 0 where no pixel counts.
    """
    if labels.ndim == 1:  # of images: any class may be there
        return functional.cross_entropy(logits, labels)
    rows, flat, counted = _classes_last(logits).flatten(0, -2), labels.flatten(), labels != IGNORED
    losses = functional.cross_entropy(rows, flat, ignore_index=IGNORED, reduction="none")
    return _mean_by_pixels(_mean_over_pixels(losses.view_as(labels), counted), counted)


def mean_kd(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Mean of ``T^2 KL`` over the images or pixels that :func:`mean_cross_entropy` counts."""
    if labels.ndim == 1:
        return kd_per_image(student, teacher, temperature).mean()
    counted = labels != IGNORED
    return _mean_by_pixels(kd_per_image(student, teacher, temperature, counted), counted)


def _mean_by_pixels(per_image: Tensor, counted: Tensor) -> Tensor:
    """An image of which half the pixels count weighs half, as in a mean over all pixels."""
    weights = counted.flatten(1).sum(dim=1).to(per_image.dtype)
    return (per_image * weights).sum() / weights.sum().clamp_min(1)


kd_loss = mean_of(kd_per_image)
dkd_loss = mean_of(dkd_per_image)
