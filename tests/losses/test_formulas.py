"""What golden values do not cover: every precision, parts without content, pixels that count."""

import numpy as np
import pytest
import torch
from scipy.fft import dctn
from torch.nn import functional

from kdlib.frskd.losses import overhaul_per_image
from kdlib.losses import logits
from kdlib.losses.attention import at_loss_per_image, attention_map
from kdlib.losses.contrastive import nce_per_image
from kdlib.losses.dct import spectral_distance
from kdlib.losses.hints import feature_mse, gaussian_nll
from kdlib.losses.logits import dkd_per_image, kd_per_image
from kdlib.losses.relations import batch_similarity, pkt_per_image, rkd_per_image, sp_per_image
from kdlib.losses.review import hcl_per_image
from kdlib.tasks import IGNORED


def of_maps(loss):
    return lambda student, teacher: loss(attention_map(student), attention_map(teacher))


def dkd(student, teacher):
    return dkd_per_image(student, teacher, torch.tensor([0, 3, 1, 1]))


def nll(student, teacher):
    return gaussian_nll(student.float(), torch.tensor([0.5, 1.0, 2.0]), teacher.float())


LOGITS, SAME = ((4, 5),) * 2, ((4, 3, 8, 8),) * 2
EMBEDDINGS, MAPS = ((4, 3), (4, 7)), ((4, 3, 8, 8), (4, 5, 8, 8))
LARGER = ((4, 3, 8, 8), (4, 3, 4, 4))
FORMULAS = {  # name: the loss, shapes of the student's and the teacher's part
    "at": (of_maps(at_loss_per_image), MAPS),
    "at, larger": (of_maps(at_loss_per_image), LARGER),
    "dct": (of_maps(spectral_distance), MAPS),
    "kd": (kd_per_image, LOGITS),
    "standardised kd": (logits.standardised_kd_per_image, LOGITS),
    "dkd": (dkd, LOGITS),
    "pkt": (pkt_per_image, EMBEDDINGS),
    "rkd": (rkd_per_image, EMBEDDINGS),
    "sp": (sp_per_image, ((4, 3, 4, 4), (4, 7, 2, 2))),
    "mse, larger": (feature_mse, LARGER),
    "hcl": (hcl_per_image, SAME),
    "hcl of a pixel": (hcl_per_image, ((4, 3, 1, 1),) * 2),
    "overhaul": (overhaul_per_image, SAME),
    "nll": (nll, SAME),
}
of_each = pytest.mark.parametrize(("loss", "shapes"), FORMULAS.values(), ids=FORMULAS)


def assert_finite(loss, student, teacher):
    found = loss(student.requires_grad_(), teacher)
    (slope,) = torch.autograd.grad(found.sum(), student)
    assert found.isfinite().all() and slope.isfinite().all()
    return found, slope


@of_each
def test_it_is_the_same_in_every_precision(loss, shapes, draw):
    exact = [3 * draw(*shape, dtype=torch.float64) - 1 for shape in shapes]
    single, double = loss(*(tensor.float() for tensor in exact)), loss(*exact)
    torch.testing.assert_close(single.double(), double.double(), rtol=1e-3, atol=1e-6)
    half = [tensor.bfloat16() for tensor in exact]
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(*half)
    assert found.shape == (4,) and found.dtype == torch.float32
    torch.testing.assert_close(found, loss(*(tensor.float() for tensor in half)))


@of_each
def test_parts_without_content_have_a_finite_loss_and_gradient(loss, shapes):
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for value in (0.0, 1.0, -100.0):
            student, teacher = (torch.full(shape, value, dtype=dtype) for shape in shapes)
            for other in (teacher, torch.zeros_like(teacher), teacher.cumsum(1)):
                assert_finite(loss, student, other)


@pytest.mark.parametrize("loss", [kd_per_image, dkd, logits.standardised_kd_per_image])
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
    assert of_maps(spectral_distance)(student, teacher).numpy() == pytest.approx(expected)
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
