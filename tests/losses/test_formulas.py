"""Every formula without weights: equal to numpy and scipy, its gradient to finite differences."""

import math

import numpy as np
import pytest
import torch
from losses import reference
from scipy.stats import zscore
from torch.nn import functional

from kdlib.losses.attention import at_loss_per_image, attention_map
from kdlib.losses.contrastive import nce_per_image
from kdlib.losses.dct import spectral_distance
from kdlib.losses.hints import feature_mse, gaussian_nll, negative_margins, overhaul_per_image
from kdlib.losses.logits import (
    dkd_per_image,
    kd_loss,
    kd_per_image,
    mean_cross_entropy,
    mean_kd,
    standardised,
    standardised_kd_per_image,
)
from kdlib.losses.relations import batch_similarity, pkt_per_image, rkd_per_image, sp_per_image
from kdlib.losses.review import hcl_per_image
from kdlib.tasks import IGNORED

TARGETS = torch.tensor([0, 3, 1, 1])
VARIANCE = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)


def at(student, teacher):
    return at_loss_per_image(attention_map(student), attention_map(teacher))


def dct(student, teacher):
    return spectral_distance(attention_map(student), attention_map(teacher))


def each(distance):
    """A reference of one image, as one of a batch."""
    return lambda *pair: np.array([distance(*images) for images in zip(*pair, strict=True)])


def dkd(student, teacher):
    return dkd_per_image(student, teacher, TARGETS)


def nll(student, teacher):
    return gaussian_nll(student, VARIANCE, teacher)


LOGITS, SAME = ((4, 5),) * 2, ((4, 3, 8, 8),) * 2
EMBEDDINGS, MAPS = ((4, 3), (4, 7)), ((4, 3, 8, 8), (4, 5, 8, 8))
FORMULAS = {
    # name: the loss, the same in numpy, shapes of the student's and the teacher's part
    "at": (at, each(reference.at_distance), MAPS),
    "dct": (dct, each(reference.dct_distance), MAPS),
    "kd": (kd_per_image, reference.kd, LOGITS),
    "standardised kd": (standardised_kd_per_image, reference.standardised_kd, LOGITS),
    "dkd": (dkd, lambda s, t: reference.dkd(s, t, TARGETS.numpy()), LOGITS),
    "pkt": (pkt_per_image, reference.pkt, EMBEDDINGS),
    "rkd": (rkd_per_image, reference.rkd, EMBEDDINGS),
    "sp": (sp_per_image, reference.sp, ((4, 3, 4, 4), (4, 7, 2, 2))),
    "mse": (feature_mse, reference.mse, SAME),
    "mse, larger": (feature_mse, reference.mse, ((4, 3, 8, 8), (4, 3, 4, 4))),
    "mse, smaller": (feature_mse, reference.mse, ((4, 3, 2, 2), (4, 3, 8, 8))),
    "hcl": (hcl_per_image, reference.hcl, SAME),
    "hcl of a pixel": (hcl_per_image, reference.hcl, ((4, 3, 1, 1),) * 2),
    "overhaul": (overhaul_per_image, reference.overhaul, SAME),
    "nll": (nll, lambda s, t: reference.nll(s, VARIANCE.numpy(), t), SAME),
}


@pytest.fixture(params=FORMULAS)
def case(request, draw):
    loss, expected, shapes = FORMULAS[request.param]
    return loss, expected, [3 * draw(*shape, dtype=torch.float64) - 1 for shape in shapes]


def test_it_is_what_numpy_computes_in_every_precision(case):
    loss, expected, exact = case
    wanted = expected(*(tensor.numpy() for tensor in exact))
    assert loss(*exact).numpy() == pytest.approx(wanted, rel=1e-5)
    assert loss(*(t.float() for t in exact)).numpy() == pytest.approx(wanted, rel=1e-3)
    half = [tensor.bfloat16() for tensor in exact]
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(*half)
    assert found.shape == (4,) and found.dtype in (torch.float32, torch.float64)
    torch.testing.assert_close(found, loss(*(tensor.float() for tensor in half)))


def test_its_gradient_is_the_numeric_one_and_the_least_is_at_the_teacher(case):
    loss, _, (student, teacher) = case
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), student.requires_grad_())
    if student.shape == teacher.shape and loss is not nll:
        equal = loss(student, student.detach())
        (slope,) = torch.autograd.grad(equal.sum(), student)
        assert equal.abs().max() < 1e-12 and slope.isfinite().all()


@pytest.mark.parametrize("value", [0.0, 1.0, -100.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", FORMULAS)
def test_parts_without_content_have_a_finite_loss_and_gradient(name, dtype, value):
    loss, _, shapes = FORMULAS[name]
    student, teacher = (torch.full(shape, value, dtype=dtype) for shape in shapes)
    for other in (teacher, torch.zeros_like(teacher), teacher.cumsum(1)):
        found = loss(student.requires_grad_(), other)
        (slope,) = torch.autograd.grad(found.sum(), student)
        assert found.isfinite().all() and slope.isfinite().all()


def test_noise_contrastive_estimation_and_its_perfect_critic():
    critic = np.random.default_rng(0).uniform(0.01, 3, size=(4, 1 + 6))
    found = nce_per_image(torch.tensor(np.log(critic)), 40)
    assert found.numpy() == pytest.approx(reference.nce(critic, 40))
    perfect = nce_per_image(torch.tensor([[60.0, -60.0, -60.0]]), 40)
    assert perfect.item() == pytest.approx(0, abs=1e-6)


def test_kd_is_pytorch_s_batchmean_and_leaves_the_teacher_alone(draw):
    student, teacher = 9 * draw(5, 7), (9 * draw(5, 7)).requires_grad_()
    expected = 16 * functional.kl_div(
        functional.log_softmax(student / 4, 1), functional.softmax(teacher / 4, 1),
        reduction="batchmean",
    )  # fmt: skip
    torch.testing.assert_close(kd_loss(student, teacher), expected.detach())
    assert not kd_loss(student, teacher).requires_grad


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e4])
def test_sure_logits_stay_finite(scale):
    student = (scale * torch.eye(4)).requires_grad_()
    for teacher in (student.detach(), student.detach().flip(1), torch.zeros(4, 4)):
        for loss in (kd_per_image, dkd, standardised_kd_per_image):
            found = loss(student, teacher)
            (slope,) = torch.autograd.grad(found.sum(), student)
            assert found.isfinite().all() and slope.isfinite().all()


def test_kd_is_both_terms_of_dkd_with_the_teachers_doubt_as_weight(draw):
    student, teacher = 3 * draw(4, 5), 3 * draw(4, 5)
    doubt = 1 - torch.softmax(teacher / 4, dim=1).gather(1, TARGETS[:, None])[:, 0]
    target, others = (dkd_per_image(student, teacher, TARGETS, *w, 4) for w in ((1, 0), (0, 1)))
    torch.testing.assert_close(target + doubt * others, kd_per_image(student, teacher, 4))


def test_standardised_logits_have_mean_zero_and_deviation_one_or_are_zero(draw):
    logits = 5 * draw(4, 7, dtype=torch.float64)
    assert standardised(logits).numpy() == pytest.approx(zscore(logits.numpy(), axis=1))
    equal = torch.full((2, 5), 3.0, requires_grad=True)
    standardised(equal).sum().backward()
    assert not standardised(equal).any() and not equal.grad.any()


def test_relations_are_blind_to_turns_shifts_and_scale(draw):
    embedding = draw(6, 4, dtype=torch.float64)
    turn = torch.linalg.qr(draw(4, 4, dtype=torch.float64)).Q
    assert rkd_per_image(3 * embedding @ turn + 1, embedding).max() < 1e-12
    assert pkt_per_image(3 * embedding @ turn, embedding).max() < 1e-7


def test_opposite_and_equal_images_get_a_finite_gradient(draw):
    for rows in ([[1.0, 0.0], [-1.0, 0.0]], [[1.0, 1.0]] * 3):
        for loss in (pkt_per_image, rkd_per_image):
            embedding = torch.tensor(rows, requires_grad=True)
            loss(embedding, draw(len(rows), 3)).sum().backward()
            assert embedding.grad.isfinite().all()
    features = draw(3, 2, 4, 4)
    features[1] = 0
    assert batch_similarity(features)[1].tolist() == [0, 0, 0]


def test_overhaul_counts_nothing_that_an_activation_hides():
    teacher = torch.tensor([-1.0, 2.0]).view(1, 2, 1, 1)
    hidden, seen = (torch.tensor([v, 2.0]).view(1, 2, 1, 1) for v in (-5.0, 1.0))
    assert overhaul_per_image(hidden, teacher) == 0
    assert overhaul_per_image(seen, teacher) == (1 - -1) ** 2 / 2
    assert negative_margins(torch.tensor([-3.0, -1.0, 4.0, 0.0]).view(1, 1, 2, 2)).tolist() == [-2]


def test_a_normal_density_is_highest_at_the_teachers_features(draw):
    teacher, variance = draw(2, 3, 4, 4), torch.full((3,), 2.0)
    least = gaussian_nll(teacher, variance, teacher)
    assert least.tolist() == pytest.approx([math.log(2) / 2] * 2)
    assert (gaussian_nll(teacher + 0.1, variance, teacher) > least).all()


@pytest.fixture
def pixels(draw):
    """Logits twice (2, 3, 4, 5) and labels, of which a row is left out of one image."""
    labels = torch.arange(40).view(2, 4, 5) % 3
    labels[0, 1] = IGNORED
    return 4 * draw(2, 3, 4, 5), 4 * draw(2, 3, 4, 5), labels


def test_losses_of_pixels_are_means_over_those_that_count(pixels):
    student, teacher, labels = pixels
    counted = labels != IGNORED
    rows = [logits.movedim(1, -1)[counted] for logits in (student, teacher)]
    expected = functional.cross_entropy(rows[0], labels[counted])
    torch.testing.assert_close(mean_cross_entropy(student, labels), expected)
    expected = reference.kd(*(row.double().numpy() for row in rows), 3.0).mean()
    assert mean_kd(student, teacher, labels, 3.0).item() == pytest.approx(expected, rel=1e-5)
    of_rows = [one[1].flatten(1).T for one in (student, teacher)]
    torch.testing.assert_close(kd_per_image(student, teacher)[1], kd_per_image(*of_rows).mean())


def test_masks_without_a_pixel_that_counts_give_zero_and_no_gradient(pixels):
    student, teacher, labels = pixels
    nothing = torch.full_like(labels, IGNORED)
    student.requires_grad_()
    loss = mean_cross_entropy(student, nothing) + mean_kd(student, teacher, nothing, 4.0)
    loss.backward()
    assert loss.item() == 0 and not student.grad.any()


def test_of_images_the_class_with_that_number_counts(draw):
    logits, labels = draw(4, 300), torch.tensor([IGNORED, 1, IGNORED, 299])
    expected = functional.cross_entropy(logits, labels)
    assert torch.equal(mean_cross_entropy(logits, labels), expected)
