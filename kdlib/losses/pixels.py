"""Losses of a batch whose labels are those of images (B,) or of their pixels (B, H, W)."""

from torch import Tensor
from torch.nn import functional

from kdlib.losses.response import cross_entropy_per_image, kd_loss, kd_per_image
from kdlib.tasks import IGNORED


def counted_pixels(labels: Tensor) -> Tensor | None:
    """Which pixels count, (B, H, W) bool; ``None`` for labels of images, which all count.

    A data set of images may have so many classes that ``IGNORED`` is one of them.
    """
    return labels != IGNORED if labels.ndim > 1 else None


def mean_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean of ``-log p(label)`` over all images, or over all pixels that count: a scalar.

    Logits (B, K) with labels (B,), or (B, K, H, W) with (B, H, W). 0 where no pixel counts.
    """
    if labels.ndim == 1:
        return functional.cross_entropy(logits, labels)
    return mean_over_batch(cross_entropy_per_image(logits, labels, IGNORED), labels)


def mean_kd(
    student_logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float
) -> Tensor:
    """Mean of ``T^2 KL`` over all images, or over all pixels that count: a scalar.

    Shapes as of :func:`mean_cross_entropy`. No gradient reaches the teacher.
    """
    if labels.ndim == 1:
        return kd_loss(student_logits, teacher_logits, temperature)
    counted = counted_pixels(labels)
    per_image = kd_per_image(student_logits, teacher_logits, temperature, counted)
    return mean_over_batch(per_image, labels)


def mean_over_batch(per_image: Tensor, labels: Tensor) -> Tensor:
    """The mean (a scalar) that the means (B,) of images amount to.

    An image of which half the pixels count weighs half, as in a mean over the pixels themselves.
    """
    counted = counted_pixels(labels)
    if counted is None:
        return per_image.mean()
    weights = counted.flatten(1).sum(dim=1).to(per_image.dtype)
    return (per_image * weights).sum() / weights.sum().clamp_min(1)
