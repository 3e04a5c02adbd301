"""What golden values do not cover: sure logits, a true DCT's distance, pixels that count."""

from functools import partial

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from torch.nn import functional

from kdlib.frskd.losses import overhaul_per_image
from kdlib.losses import logits
from kdlib.losses.attention import attention_map
from kdlib.losses.contrastive import nce_per_image
from kdlib.losses.dct import spectral_distance
from kdlib.losses.logits import dkd_per_image, kd_per_image
from kdlib.losses.relations import batch_similarity, pkt_per_image, rkd_per_image
from kdlib.tasks import IGNORED


def assert_finite(loss, student, teacher):
    found = loss(student.requires_grad_(), teacher)
    (slope,) = torch.autograd.grad(found.sum(), student)
    assert found.isfinite().all() and slope.isfinite().all()
    return found, slope


DKD = partial(dkd_per_image, targets=torch.tensor([0, 3, 1, 1]))


@pytest.mark.parametrize("loss", [kd_per_image, DKD, logits.standardised_kd_per_image])
def test_sure_logits_stay_finite(loss):
    for scale in (0.0, 1.0, 1e4):
        student = scale * torch.eye(4)
        for teacher in (student.clone(), student.flip(1), torch.zeros(4, 4)):
            assert_finite(loss, student, teacher)


def test_a_dct_s_distance_and_overhaul_s_are_what_numpy_computes(draw):
    student, teacher = (3 * draw(4, 3, 8, 8, dtype=torch.float64) - 1 for _ in range(2))
    spectra = [dctn((one**2).mean(1), norm="ortho", axes=(1, 2)) for one in (student, teacher)]
    for spectrum in spectra:
        spectrum[:, 0, 0] = 0
        spectrum /= np.linalg.norm(spectrum, axis=(1, 2), keepdims=True)
    expected = np.linalg.norm(np.subtract(*spectra), axis=(1, 2))
    found = spectral_distance(*map(attention_map, (student, teacher)))
    assert found.numpy() == pytest.approx(expected)
    mine, theirs = student.numpy(), teacher.numpy()
    negative = np.ma.masked_greater_equal(theirs, 0)
    target = np.maximum(theirs, negative.mean((0, 2, 3), keepdims=True).filled(0))
    learned = np.where((mine <= target) & (target <= 0), 0, (mine - target) ** 2)
    assert overhaul_per_image(student, teacher).numpy() == pytest.approx(learned.mean((1, 2, 3)))
    assert torch.autograd.gradcheck(overhaul_per_image, (student.requires_grad_(), teacher))


def test_a_perfect_critic_has_no_loss():
    perfect = nce_per_image(torch.tensor([[60.0, -60.0, -60.0]]), 40)
    assert perfect.item() == pytest.approx(0, abs=1e-6)


def test_relations_are_finite_for_opposite_and_equal_images(draw):
    for rows in ([[1.0, 0.0], [-1.0, 0.0]], [[1.0, 1.0]] * 3):
        for loss in (pkt_per_image, rkd_per_image):
            assert_finite(loss, torch.tensor(rows), draw(len(rows), 3))
    features = draw(3, 2, 4, 4)
    features[1] = 0
    assert batch_similarity(features)[1].tolist() == [0, 0, 0]


def test_losses_of_pixels_are_means_over_those_that_count(draw):
    student, teacher, labels = 4 * draw(2, 3, 4, 5), 4 * draw(2, 3, 4, 5), torch.arange(40) % 3
    labels = labels.view(2, 4, 5)
    labels[0, 1] = IGNORED
    counted = labels != IGNORED
    rows = [logits.movedim(1, -1)[counted] for logits in (student, teacher)]
    expected = functional.cross_entropy(rows[0], labels[counted])
    torch.testing.assert_close(logits.mean_cross_entropy(student, labels), expected)
    expected = kd_per_image(*rows, 3.0).mean()
    torch.testing.assert_close(logits.mean_kd(student, teacher, labels, 3.0), expected)
    of_rows = [one[1].flatten(1).T for one in (student, teacher)]
    torch.testing.assert_close(kd_per_image(student, teacher)[1], kd_per_image(*of_rows).mean())
    nothing = torch.full_like(labels, IGNORED)
    for loss in (
        lambda s, _: logits.mean_cross_entropy(s, nothing),
        lambda s, t: logits.mean_kd(s, t, nothing, 4),
    ):
        assert not any(one.any() for one in assert_finite(loss, student, teacher))
    # Of images the class with that number counts.
    student, labels = draw(4, 300), torch.tensor([IGNORED, 1, IGNORED, 299])
    expected = functional.cross_entropy(student, labels)
    assert torch.equal(logits.mean_cross_entropy(student, labels), expected)
