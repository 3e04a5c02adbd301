import pytest
import torch
from torch.nn import functional

from kdlib.losses.logits import cross_entropy_per_image, kd_loss, kd_per_image


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


def test_logits_of_pixels_give_the_mean_over_an_images_pixels(draw):
    student, teacher = draw(3, 4, 5, 6), draw(3, 4, 5, 6)
    pixels = [logits.permute(0, 2, 3, 1).reshape(-1, 4) for logits in (student, teacher)]
    expected = kd_per_image(*pixels).view(3, 30).mean(1)
    torch.testing.assert_close(kd_per_image(student, teacher), expected)


def test_cross_entropy_of_images_and_of_pixels(draw):
    logits, labels = draw(6, 5), torch.tensor([0, 4, 2, 1, 3, 0])
    expected = [-row.softmax(0)[label].log() for row, label in zip(logits, labels, strict=True)]
    torch.testing.assert_close(cross_entropy_per_image(logits, labels), torch.stack(expected))
    pixels = logits.view(2, 3, 5).permute(0, 2, 1)[..., None]
    found = cross_entropy_per_image(pixels, labels.view(2, 3, 1))
    torch.testing.assert_close(found, torch.stack(expected).view(2, 3).mean(1))


def test_pixels_that_are_ignored_count_nothing(draw):
    logits, labels = draw(2, 4, 3, 3), torch.zeros(2, 3, 3, dtype=torch.long)
    labels[0, 1:], labels[1] = 255, 255
    found = cross_entropy_per_image(logits, labels, ignored=255)
    torch.testing.assert_close(found[0], -logits[0].log_softmax(0)[0, 0].mean())
    assert found[1] == 0
