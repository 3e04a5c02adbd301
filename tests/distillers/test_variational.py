"""VID against the normal density of scipy."""

import numpy as np
import pytest
import torch
from distillers.networks import STUDENT, batch, output, pair, taught
from scipy.stats import norm
from torch.nn import functional

from kdlib.losses.hints import FIRST_VARIANCE, VariationalLoss, gaussian_nll


def test_it_is_the_negative_log_density_without_its_constant():
    stream = np.random.default_rng(0)
    mean, teacher = stream.normal(size=(2, 4, 3, 5, 5))
    variance = stream.uniform(0.5, 2, size=3)
    density = norm.logpdf(teacher, mean, np.sqrt(variance)[None, :, None, None])
    expected = -density.mean((1, 2, 3)) - np.log(2 * np.pi) / 2
    found = gaussian_nll(*map(torch.tensor, (mean, variance, teacher)))
    assert found.numpy() == pytest.approx(expected)


def test_its_minimum_is_at_the_teachers_features():
    teacher, variance = torch.randn(2, 3, 4, 4), torch.full((3,), 2.0)
    least = gaussian_nll(teacher, variance, teacher)
    assert least.tolist() == pytest.approx([np.log(2) / 2] * 2)
    assert (gaussian_nll(teacher + 0.1, variance, teacher) > least).all()


def test_the_variance_starts_at_its_first_value_and_every_stage_counts():
    made, student, teacher = VariationalLoss(pair()), output(STUDENT), taught()
    expected = 0
    for predict, mine, theirs in zip(made.predictors, student.stages, teacher.stages, strict=True):
        variance = functional.softplus(predict.raw_variance)
        assert variance.tolist() == pytest.approx([FIRST_VARIANCE] * len(variance), abs=1e-3)
        expected = expected + gaussian_nll(predict.mean(mine), variance, theirs)
    assert len(made.predictors) == 2
    torch.testing.assert_close(made(student, teacher, batch()), expected, rtol=1e-4, atol=1e-4)
