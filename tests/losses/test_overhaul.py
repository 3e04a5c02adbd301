"""Overhaul's partial distance and margins, against numpy."""

import numpy as np
import pytest
import torch

from kdlib.losses.hints import margin_relu, negative_margins, overhaul_per_image


def in_numpy(student, teacher):
    margins = [
        channel[channel < 0].mean() if (channel < 0).any() else 0.0
        for channel in teacher.transpose(1, 0, 2, 3).reshape(teacher.shape[1], -1)
    ]
    target = np.maximum(teacher, np.reshape(margins, (1, -1, 1, 1)))
    squares = np.where((student <= target) & (target <= 0), 0, (student - target) ** 2)
    return squares.mean((1, 2, 3))


def test_equals_numpy(draw):
    student, teacher = draw(4, 3, 5, 5), draw(4, 3, 5, 5)
    found = overhaul_per_image(student, teacher)
    np.testing.assert_allclose(found, in_numpy(student.numpy(), teacher.numpy()), rtol=1e-5)


def test_what_an_activation_hides_counts_nothing():
    teacher = torch.tensor([-1.0, 2.0]).view(1, 2, 1, 1)
    hidden, seen = (torch.tensor([v, 2.0]).view(1, 2, 1, 1) for v in (-5.0, 1.0))
    assert overhaul_per_image(hidden, teacher) == 0
    assert overhaul_per_image(seen, teacher) == (1 - -1) ** 2 / 2


def test_a_margin_cuts_off_below():
    features = torch.tensor([-3.0, -1.0, 4.0, 0.0]).view(1, 1, 2, 2)
    assert negative_margins(features).tolist() == [-2.0]
    assert margin_relu(features, negative_margins(features)).flatten().tolist() == [-2, -1, 4, 0]


@pytest.mark.parametrize("value", [0.0, 1.0, -1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_constant_maps_and_low_precision_are_finite(value, dtype):
    student = torch.full((2, 3, 1, 1), value, dtype=dtype).requires_grad_()
    loss = overhaul_per_image(student, torch.zeros(2, 3, 1, 1, dtype=dtype))
    loss.sum().backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite().all() and student.grad.isfinite().all()
