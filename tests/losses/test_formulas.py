"""Every formula without weights: equal to numpy and scipy, its gradient to finite differences."""

import numpy as np
import pytest
import torch
from losses import reference
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

TARGETS = torch.tensor([0, 3, 1, 1])
VARIANCE = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)


def of_maps(loss):
    return lambda student, teacher: loss(attention_map(student), attention_map(teacher))


def each(distance):
    """A reference of one image, as one of a batch."""
    return lambda *pair: np.array([distance(*images) for images in zip(*pair, strict=True)])


def dkd(student, teacher):
    return dkd_per_image(student, teacher, TARGETS)


def nll(student, teacher):
    return gaussian_nll(student, VARIANCE, teacher)


LOGITS, SAME = ((4, 5),) * 2, ((4, 3, 8, 8),) * 2
EMBEDDINGS, MAPS = ((4, 3), (4, 7)), ((4, 3, 8, 8), (4, 5, 8, 8))
LARGER = ((4, 3, 8, 8), (4, 3, 4, 4))
FORMULAS = {
    # name: the loss, the same in numpy, shapes of the student's and the teacher's part
    "at": (of_maps(at_loss_per_image), each(reference.at_distance), MAPS),
    "at, larger": (of_maps(at_loss_per_image), each(reference.at_distance), LARGER),
    "dct": (of_maps(spectral_distance), each(reference.dct_distance), MAPS),
    "kd": (kd_per_image, reference.kd, LOGITS),
    "standardised kd": (logits.standardised_kd_per_image, reference.standardised_kd, LOGITS),
    "dkd": (dkd, lambda s, t: reference.dkd(s, t, TARGETS.numpy()), LOGITS),
    "pkt": (pkt_per_image, reference.pkt, EMBEDDINGS),
    "rkd": (rkd_per_image, reference.rkd, EMBEDDINGS),
    "sp": (sp_per_image, reference.sp, ((4, 3, 4, 4), (4, 7, 2, 2))),
    "mse": (feature_mse, reference.mse, SAME),
    "mse, larger": (feature_mse, reference.mse, LARGER),
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


def assert_finite(loss, student, teacher):
    found = loss(student.requires_grad_(), teacher)
    (slope,) = torch.autograd.grad(found.sum(), student)
    assert found.isfinite().all() and slope.isfinite().all()
    return found, slope


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
        assert assert_finite(loss, student, student.detach())[0].abs().max() < 1e-12


@pytest.mark.parametrize("name", FORMULAS)
def test_parts_without_content_have_a_finite_loss_and_gradient(name):
    loss, _, shapes = FORMULAS[name]
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


def test_noise_contrastive_estimation_and_its_perfect_critic():
    critic = np.random.default_rng(0).uniform(0.01, 3, size=(4, 1 + 6))
    found = nce_per_image(torch.tensor(np.log(critic)), 40)
    assert found.numpy() == pytest.approx(reference.nce(critic, 40))
    perfect = nce_per_image(torch.tensor([[60.0, -60.0, -60.0]]), 40)
    assert perfect.item() == pytest.approx(0, abs=1e-6)


def test_kd_is_both_terms_of_dkd_and_leaves_the_teacher_alone(draw):
    student, teacher = 9 * draw(4, 5), (9 * draw(4, 5)).requires_grad_()
    doubt = 1 - functional.softmax(teacher / 4, 1).gather(1, TARGETS[:, None])[:, 0]
    target, others = (dkd_per_image(student, teacher, TARGETS, *w, 4) for w in ((1, 0), (0, 1)))
    torch.testing.assert_close(target + doubt * others, kd_per_image(student, teacher, 4))
    assert not logits.kd_loss(student, teacher).requires_grad


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
    expected = reference.kd(*(row.double().numpy() for row in rows), 3.0).mean()
    assert logits.mean_kd(student, teacher, labels, 3.0).item() == pytest.approx(expected, rel=1e-5)
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
