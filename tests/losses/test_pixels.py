"""Losses of pixels against numpy: what is left out counts nothing, and images keep their own."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from torch.nn import functional

from kdlib.data.image_data import IGNORED
from kdlib.losses.logits import counted_pixels, mean_cross_entropy, mean_kd


@pytest.fixture
def batch(draw):
    """Logits twice (2, 3, 4, 5) and labels, of which a row is left out of one image."""
    labels = torch.arange(40).view(2, 4, 5) % 3
    labels[0, 1] = IGNORED
    return 4 * draw(2, 3, 4, 5), 4 * draw(2, 3, 4, 5), labels


def test_cross_entropy_is_the_mean_over_the_pixels_that_count(batch):
    logits, _, labels = batch
    logs, losses = log_softmax(logits.numpy(), axis=1), []
    for image, row, column in np.ndindex(*labels.shape):
        label = int(labels[image, row, column])
        if label != IGNORED:
            losses.append(-logs[image, label, row, column])
    assert mean_cross_entropy(logits, labels).item() == pytest.approx(np.mean(losses), rel=1e-5)
    assert len(losses) == 35


def test_kd_is_the_mean_over_the_pixels_that_count(batch):
    student, teacher, labels = batch
    logs, guides = (log_softmax(x.numpy().astype("f8") / 3, axis=1) for x in (student, teacher))
    divergence = 9 * (np.exp(guides) * (guides - logs)).sum(1)
    expected = divergence[(labels != IGNORED).numpy()].mean()
    assert mean_kd(student, teacher, labels, 3.0).item() == pytest.approx(expected, rel=1e-5)


def test_masks_without_a_pixel_that_counts_give_zero_and_no_gradient(batch):
    student, teacher, labels = batch
    student.requires_grad_()
    nothing = torch.full_like(labels, IGNORED)
    loss = mean_cross_entropy(student, nothing) + mean_kd(student, teacher, nothing, 4.0)
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None and not student.grad.any()


def test_of_images_the_class_with_that_number_counts(draw):
    logits, labels = draw(4, 300), torch.tensor([IGNORED, 1, IGNORED, 299])
    assert counted_pixels(labels) is None
    expected = functional.cross_entropy(logits, labels)
    assert torch.equal(mean_cross_entropy(logits, labels), expected)
