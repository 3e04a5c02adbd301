"""KD_cls: what its three forms are, and where their gradients go."""

import pytest
import torch
from torch.distributions import Bernoulli, kl_divergence

from kdlib.detection.losses import (
    RECOGNITION,
    binary_recognition,
    sigmoid_recognition,
    softmax_recognition,
)
from kdlib.losses.logits import kd_per_image

POSITIVES, CLASSES = 5, 7


@pytest.fixture
def logits():
    stream = torch.Generator().manual_seed(0)
    student = torch.randn(POSITIVES, CLASSES + 1, generator=stream, dtype=torch.float64) * 3
    teacher = torch.randn(POSITIVES, CLASSES, generator=stream, dtype=torch.float64) * 3
    return student.requires_grad_(), teacher.requires_grad_()


@pytest.mark.parametrize("form", RECOGNITION)
def test_is_a_number_for_each_positive_and_never_negative(form, logits):
    losses = RECOGNITION[form](*logits, 2.0)
    assert losses.shape == (POSITIVES,)
    assert (losses > 0).all()


@pytest.mark.parametrize("form", RECOGNITION)
def test_gradient_is_the_numeric_one_and_none_reaches_the_teacher(form, logits):
    student, teacher = logits
    assert torch.autograd.gradcheck(lambda z: RECOGNITION[form](z, teacher, 2.0), student)
    RECOGNITION[form](student, teacher, 2.0).sum().backward()
    assert student.grad is not None and student.grad.abs().sum() > 0
    assert teacher.grad is None


@pytest.mark.parametrize("form", ["kl_ce", "kl_bce"])
def test_sigmoid_forms_leave_the_unused_background_alone(form, logits):
    student, teacher = logits
    RECOGNITION[form](student, teacher, 2.0).sum().backward()
    assert torch.equal(student.grad[:, 0], torch.zeros(POSITIVES, dtype=torch.float64))


def test_softmax_form_teaches_that_a_positive_is_not_background(logits):
    student, teacher = logits
    softmax_recognition(student, teacher).sum().backward()
    assert (student.grad[:, 0] > 0).all()  # descending lowers the background's logit


def test_softmax_form_is_kd_with_a_teacher_that_gives_background_nothing(logits):
    student, teacher = logits
    surely_not = torch.cat([torch.full((POSITIVES, 1), -1e9), teacher], dim=1)
    expected = kd_per_image(student, surely_not, 3.0)
    torch.testing.assert_close(softmax_recognition(student, teacher, 3.0), expected)


@pytest.mark.parametrize("form", ["kl_ce", "kl_bce"])
def test_sigmoid_forms_vanish_where_the_networks_agree(form, logits):
    _, teacher = logits
    student = torch.cat([torch.zeros(POSITIVES, 1), teacher.detach()], dim=1)
    assert RECOGNITION[form](student, teacher, 2.0).abs().max() < 1e-12


def test_binary_form_is_the_kl_of_bernoullis(logits):
    student, teacher = logits
    told, answer = Bernoulli(logits=teacher / 2), Bernoulli(logits=student[:, 1:] / 2)
    expected = 4 * kl_divergence(told, answer).mean(1)
    torch.testing.assert_close(binary_recognition(student, teacher, 2.0), expected)


def test_swapping_yes_and_no_of_the_true_class_changes_nothing(logits):
    """The release does it; the sum over yes and no is the same."""
    student, teacher = (one.detach().clone() for one in logits)
    before = binary_recognition(student, teacher)
    student[:, 3] *= -1  # output 3 is class 2, since output 0 is the background
    teacher[:, 2] *= -1
    torch.testing.assert_close(binary_recognition(student, teacher), before)


def test_shares_ignore_a_common_factor_of_the_sigmoids():
    few = torch.tensor([[0.0, -9.0, -10.0]])  # far from saturation a sigmoid is an exponential
    more = few - torch.tensor([0.0, 2.0, 2.0])
    teacher = torch.tensor([[-5.0, -6.0]])
    close = sigmoid_recognition(few, teacher, 1.0), sigmoid_recognition(more, teacher, 1.0)
    torch.testing.assert_close(*close, atol=1e-2, rtol=0)


@pytest.mark.parametrize("form", RECOGNITION)
def test_sure_answers_stay_finite(form):
    student = torch.tensor([[-300.0, 300.0, -300.0]], requires_grad=True)
    teacher = torch.tensor([[-300.0, 300.0]])
    loss = RECOGNITION[form](student, teacher, 1.0).sum()
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(student.grad).all()


@pytest.mark.parametrize("form", RECOGNITION)
def test_half_precision_is_computed_in_float32(form, logits):
    student, teacher = (one.detach().bfloat16() for one in logits)
    assert RECOGNITION[form](student, teacher, 2.0).dtype == torch.float32
