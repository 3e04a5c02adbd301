"""FitNet's hint: a mean squared difference behind a 1 x 1 convolution."""

import numpy as np
import pytest
import torch
from distillers.networks import STUDENT, TEACHER, batch, output, pair, taught

from kdlib.losses.hints import HintLoss, feature_mse


def test_feature_mse_pools_the_larger_and_averages_over_elements():
    stream = np.random.default_rng(0)
    large, small = stream.random((3, 2, 8, 8)), stream.random((3, 2, 4, 4))
    pooled = large.reshape(3, 2, 4, 2, 4, 2).mean((3, 5))
    expected = ((pooled - small) ** 2).mean((1, 2, 3))
    for mine, theirs in ((large, small), (small, large)):
        found = feature_mse(torch.tensor(mine), torch.tensor(theirs))
        assert found.numpy() == pytest.approx(expected)


def test_the_hint_is_the_middle_stage_through_the_regressor():
    made, student, teacher = HintLoss(pair()), output(STUDENT), taught(TEACHER)
    weight = made.regressor.weight.detach().numpy()[:, :, 0, 0]
    mine = student.stages[1].detach().numpy()
    turned = np.einsum("oc,bchw->bohw", weight, mine)
    turned += made.regressor.bias.detach().numpy()[None, :, None, None]
    expected = ((turned - teacher.stages[1].numpy()) ** 2).mean((1, 2, 3))
    assert made(student, teacher, batch()).detach().numpy() == pytest.approx(expected, rel=1e-4)
