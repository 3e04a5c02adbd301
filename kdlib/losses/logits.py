"""Logits: softened class probabilities distilled, labels learnt; per image or per pixel."""

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

    T^2 keeps the gradient's size independent of the temperature T. No gradient reaches the
    teacher. Logits of pixels (B, K, H, W) give the mean over an image's pixels, of those that are
    ``counted`` (B, H, W) bool where that is given; 0 if it has none. Source: Hinton, Vinyals, Dean
    2015, arXiv 1503.02531, section 2.
    """
    _check_logits(student, teacher)
    mine = functional.log_softmax(_softened(student, temperature), dim=-1)
    theirs = functional.log_softmax(_softened(teacher.detach(), temperature), dim=-1)
    divergence = functional.kl_div(mine, theirs, reduction="none", log_target=True)
    return temperature**2 * _mean_over_pixels(divergence.sum(dim=-1), counted)


def kd_loss(student: Tensor, teacher: Tensor, temperature: float = 4.0) -> Tensor:
    """Mean over the batch of :func:`kd_per_image`: logits (B, K) twice -> scalar."""
    return kd_per_image(student, teacher, temperature).mean()


class KDLoss(nn.Module):
    """:func:`kd_loss` as a module."""

    def __init__(self, temperature: float = 4.0) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Logits (B, K) twice -> scalar."""
        return kd_loss(student, teacher, self.temperature)


def _check_logits(student: Tensor, teacher: Tensor) -> None:
    if student.shape != teacher.shape:
        raise KdlibError(
            f"The student's logits are {tuple(student.shape)} and the teacher's "
            f"{tuple(teacher.shape)}; both must be of the same images and classes."
        )


def _softened(logits: Tensor, temperature: float) -> Tensor:
    """Logits over T, classes last; of many pixels a division by 1 would be a pass for nothing."""
    rows = _classes_last(logits)
    return rows if temperature == 1 else rows / temperature


def _classes_last(logits: Tensor) -> Tensor:
    """(B, K, ...) -> (B, ..., K), where a softmax over K is vectorised.

    Networks compute in ``channels_last``, so nothing is moved; PyTorch's softmax over the second of
    four dimensions would move it all, there and back.
    """
    return working_precision(logits).movedim(1, -1)


def _mean_over_pixels(values: Tensor, counted: Tensor | None) -> Tensor:
    """(B, ...) -> (B,); what has no pixels stays as it is."""
    if values.dim() == 1:
        return values
    if counted is None:
        return values.flatten(1).mean(dim=1)
    total = values.where(counted, 0).flatten(1).sum(dim=1)
    return total / counted.flatten(1).sum(dim=1).clamp_min(1)


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
    the teacher's doubt, 1 minus its probability of the target. The paper chooses beta for each
    pair of networks; 8 is usual on CIFAR-100. Source: Zhao 2022, arXiv 2203.08679.
    """
    _check_logits(student, teacher)
    mine, theirs = (working_precision(logits) / temperature for logits in (student, teacher))
    is_target = functional.one_hot(targets, mine.shape[1]).bool()
    target = _divergence(*(_target_or_not(logits, is_target) for logits in (mine, theirs)))
    others = _divergence(*(_others(logits, is_target) for logits in (mine, theirs)))
    return temperature**2 * (target_weight * target + other_weight * others)


dkd_loss = mean_of(dkd_per_image)


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


def standardised_kd_per_image(student: Tensor, teacher: Tensor, temperature: float = 2.0) -> Tensor:
    """KD of z-scored logits, whose order and proportion alone count: (B, K) twice -> (B,).

    Source: Sun 2024, arXiv 2403.01427.
    """
    return kd_per_image(standardised(student), standardised(teacher), temperature)


def standardised(logits: Tensor) -> Tensor:
    """Z-score of each image's logits (B, K) over its classes; zero where they are all equal."""
    values = working_precision(logits)
    centred = values - values.mean(dim=1, keepdim=True)
    # The root of 0 has an infinite gradient; equal logits get none.
    variance = centred.square().mean(dim=1, keepdim=True)
    varies = variance > 0
    return divide(centred, variance.where(varies, 1).sqrt().where(varies, 0))


# A batch's mean, where labels are those of images (B,) or of their pixels (B, H, W).
def counted_pixels(labels: Tensor) -> Tensor | None:
    """Which pixels count, (B, H, W) bool; ``None`` for labels of images, which all count.

    A data set of images may have so many classes that ``IGNORED`` is one of them.
    """
    return labels != IGNORED if labels.ndim > 1 else None


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of ``-log p(label)`` over all images, or over all pixels that count: a scalar.

    Logits (B, K) with labels (B,), or (B, K, H, W) with (B, H, W). 0 where no pixel counts.
    """
    counted = counted_pixels(labels)
    if counted is None:
        return functional.cross_entropy(logits, labels)
    rows = _classes_last(logits).flatten(0, -2)
    losses = functional.cross_entropy(
        rows, labels.flatten(), ignore_index=IGNORED, reduction="none"
    ).view_as(labels)
    return _mean_by_pixels(_mean_over_pixels(losses, counted), counted)


def mean_kd(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Mean of ``T^2 KL`` over all images, or over all pixels that count: a scalar.

    Shapes as of :func:`mean_cross_entropy`. No gradient reaches the teacher.
    """
    counted = counted_pixels(labels)
    per_image = kd_per_image(student, teacher, temperature, counted)
    return per_image.mean() if counted is None else _mean_by_pixels(per_image, counted)


def _mean_by_pixels(per_image: Tensor, counted: Tensor) -> Tensor:
    """An image of which half the pixels count weighs half, as in a mean over all pixels."""
    weights = counted.flatten(1).sum(dim=1).to(per_image.dtype)
    return (per_image * weights).sum() / weights.sum().clamp_min(1)
