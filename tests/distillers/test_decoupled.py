"""DKD against scipy, and against the KD that it takes apart."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from scipy.stats import entropy

from kdlib.losses.logits import dkd_per_image, kd_per_image

TARGETS = torch.tensor([0, 3, 1, 1])


@pytest.fixture
def logits():
    return torch.tensor(3 * np.random.default_rng(0).normal(size=(2, 4, 5)))


def test_it_is_the_weighted_sum_of_both_divergences(logits):
    expected = []
    for mine, theirs, target in zip(*(softmax(z / 4, axis=1) for z in logits.numpy()),
                                    TARGETS.tolist(), strict=True):  # fmt: skip
        others = np.arange(5) != target
        binary = entropy([theirs[target], theirs[others].sum()], [mine[target], mine[others].sum()])
        expected.append(16 * (binary + 8 * entropy(theirs[others], mine[others])))
    found = dkd_per_image(*logits, TARGETS, 1, 8, 4)
    assert found.numpy() == pytest.approx(expected)


def test_kd_is_both_with_the_teachers_doubt_as_weight(logits):
    doubt = 1 - torch.softmax(logits[1] / 4, dim=1).gather(1, TARGETS[:, None])[:, 0]
    target = dkd_per_image(*logits, TARGETS, 1, 0, 4)
    others = dkd_per_image(*logits, TARGETS, 0, 1, 4)
    torch.testing.assert_close(target + doubt * others, kd_per_image(*logits, 4))


def test_certain_logits_stay_finite():
    sure = 100 * torch.nn.functional.one_hot(TARGETS, 5).float()
    student = (-sure).requires_grad_()
    loss = dkd_per_image(student, sure, TARGETS)
    loss.sum().backward()
    assert loss.isfinite().all() and student.grad.isfinite().all()
