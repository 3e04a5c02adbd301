import pytest
import torch
from torch.nn import functional

from kdlib.losses.response import kd_loss, kd_per_image


def test_equals_kl_div_batchmean(draw):
    student, teacher = 9 * draw(5, 7), 9 * draw(5, 7)
    expected = 16 * functional.kl_div(
        functional.log_softmax(student / 4, 1), functional.softmax(teacher / 4, 1),
        reduction="batchmean",
    )  # fmt: skip
    torch.testing.assert_close(kd_loss(student, teacher), expected)
    torch.testing.assert_close(kd_per_image(student, teacher).mean(), expected)


def test_gradient_by_finite_differences(draw):
    student = draw(3, 4, dtype=torch.float64).requires_grad_()
    teacher = draw(3, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda s: kd_per_image(s, teacher, 2.0), student)


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_finite_for_equal_zero_and_one_hot_logits(scale):
    student = (scale * torch.eye(4)).requires_grad_()
    for teacher in (student.detach(), student.detach().flip(1), torch.zeros(4, 4)):
        loss = kd_per_image(student, teacher)
        (gradient,) = torch.autograd.grad(loss.sum(), student)
        assert loss.isfinite().all() and gradient.isfinite().all()
    assert kd_loss(student, student.detach()) == 0


def test_low_precision_logits_are_compared_in_float32(draw):
    student, teacher = draw(4, 6).bfloat16(), draw(4, 6).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        loss = kd_per_image(student, teacher)
    torch.testing.assert_close(loss, kd_per_image(student.float(), teacher.float()), rtol=0, atol=0)


def test_gives_one_value_an_image_and_no_gradient_to_the_teacher(draw):
    student, teacher = draw(5, 3).requires_grad_(), draw(5, 3).requires_grad_()
    loss = kd_per_image(student, teacher, temperature=2.0)
    assert loss.shape == (5,)
    loss.sum().backward()
    assert student.grad is not None and teacher.grad is None
