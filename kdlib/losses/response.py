"""The response: softened class probabilities distilled, labels learnt; of images or of pixels."""

from torch import Tensor
from torch.nn import functional

from kdlib.losses.numeric import working_precision


def kd_per_image(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float = 4.0,
    counted: Tensor | None = None,
) -> Tensor:
    """``T^2 KL(softmax(z_t / T) || softmax(z_s / T))`` of each image: (B, K, ...) twice -> (B,).

    T^2 keeps the gradient's size independent of the temperature T. No gradient reaches the
    teacher. Logits of pixels (B, K, H, W) give the mean over an image's pixels, of those that are
    ``counted`` (B, H, W) bool where that is given; 0 if it has none. Source: Hinton, Vinyals, Dean
    2015, arXiv 1503.02531, section 2.
    """
    student = functional.log_softmax(_softened(student_logits, temperature), dim=-1)
    teacher = functional.log_softmax(_softened(teacher_logits.detach(), temperature), dim=-1)
    divergence = functional.kl_div(student, teacher, reduction="none", log_target=True)
    return temperature**2 * _mean_over_pixels(divergence.sum(dim=-1), counted)


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0) -> Tensor:
    """Mean over the batch of :func:`kd_per_image` (a scalar; PyTorch calls it ``batchmean``)."""
    return kd_per_image(student_logits, teacher_logits, temperature).mean()


def cross_entropy_per_image(logits: Tensor, labels: Tensor, ignored: int = -100) -> Tensor:
    """``-log softmax(z)`` at the label, of each image: (B, K, ...) with (B, ...) -> (B,).

    Of pixels: the mean over those of an image whose label is not ``ignored``; 0 if it has none.
    """
    rows = _classes_last(logits).flatten(0, -2)
    losses = functional.cross_entropy(
        rows, labels.flatten(), ignore_index=ignored, reduction="none"
    ).view_as(labels)
    return _mean_over_pixels(losses, labels != ignored)


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
