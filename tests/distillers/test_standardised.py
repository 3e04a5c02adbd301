"""Standardised logits against scipy's z-scores."""

import numpy as np
import pytest
import torch
from distillers.networks import STUDENT, TEACHER, batch, output, taught
from scipy.special import softmax
from scipy.stats import entropy, zscore

from kdlib.losses.logits import StandardisedLoss, standardised


def test_logits_get_mean_zero_and_deviation_one():
    logits = np.random.default_rng(0).normal(2, 5, size=(4, 7))
    assert standardised(torch.tensor(logits)).numpy() == pytest.approx(zscore(logits, axis=1))


def test_equal_logits_become_zero_and_get_no_gradient():
    logits = torch.full((2, 5), 3.0, requires_grad=True)
    values = standardised(logits)
    values.sum().backward()
    assert values.abs().max() == 0 and logits.grad.abs().max() == 0


def test_the_loss_is_kd_of_z_scores_whatever_their_scale_and_offset():
    student, teacher = output(STUDENT), taught(TEACHER)
    mine, theirs = (
        softmax(zscore(made.logits.detach().numpy(), axis=1) / 2, axis=1)
        for made in (student, teacher)
    )
    expected = [4 * entropy(t, s) for s, t in zip(mine, theirs, strict=True)]
    loss = StandardisedLoss()
    found = loss(student, teacher, batch()).detach().numpy()
    assert found == pytest.approx(expected, rel=1e-4)
    scaled = student._replace(logits=7 * student.logits + 3)
    assert loss(scaled, teacher, batch()).detach().numpy() == pytest.approx(expected, rel=1e-3)
