"""Distillation of the response: the softened class probabilities."""

from torch import Tensor
from torch.nn import functional

from kdlib.losses.numeric import working_precision


def kd_per_image(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0
) -> Tensor:
    """``T^2 KL(softmax(z_t / T) || softmax(z_s / T))`` of each image: (B, K), (B, K) -> (B,).

    T^2 keeps the gradient's size independent of the temperature T. No gradient reaches the
    teacher. Source: Hinton, Vinyals, Dean 2015, arXiv 1503.02531, section 2.
    """
    student = functional.log_softmax(working_precision(student_logits) / temperature, dim=1)
    teacher = working_precision(teacher_logits.detach()) / temperature
    teacher = functional.log_softmax(teacher, dim=1)
    divergence = functional.kl_div(student, teacher, reduction="none", log_target=True)
    return temperature**2 * divergence.sum(dim=1)


def kd_loss(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 4.0) -> Tensor:
    """Mean over the batch of :func:`kd_per_image` (a scalar; PyTorch calls it ``batchmean``)."""
    return kd_per_image(student_logits, teacher_logits, temperature).mean()
