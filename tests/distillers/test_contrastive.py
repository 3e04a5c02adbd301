"""CRD: its loss in numpy, whom it contrasts, what it remembers."""

import numpy as np
import pytest
import torch
from distillers.networks import IMAGES, INDICES, LABELS, STUDENT, batch, output, pair, taught

from kdlib.errors import KdlibError
from kdlib.losses.contrastive import ContrastiveLoss, Memory, Negatives, nce_per_image


def test_the_loss_is_the_noise_contrastive_one():
    critic = np.random.default_rng(0).uniform(0.01, 3, size=(4, 1 + 6))
    noise = 6 / IMAGES
    chance = critic / (critic + noise)
    expected = -np.log(chance[:, 0]) - np.log(1 - chance[:, 1:]).sum(1)
    found = nce_per_image(torch.tensor(np.log(critic)), IMAGES)
    assert found.numpy() == pytest.approx(expected)


def test_a_perfect_critic_reaches_zero():
    scores = torch.tensor([[60.0, -60.0, -60.0]])
    assert nce_per_image(scores, IMAGES).item() == pytest.approx(0, abs=1e-6)


def test_negatives_are_of_other_classes_and_reach_all_of_their_images():
    labels = LABELS[INDICES]
    drawn = Negatives(LABELS, 2000, seed=0)(labels)
    assert drawn.shape == (len(labels), 2000)
    for label, row in zip(labels, drawn, strict=True):
        others = (label != LABELS).nonzero().flatten().tolist()
        assert sorted(set(row.tolist())) == others
        assert torch.bincount(row).max() < 2 * 2000 / len(others)


def test_draws_differ_from_step_to_step_and_repeat_after_an_interruption():
    labels, whole = LABELS[INDICES], Negatives(LABELS, 9, seed=3)
    first, second = whole(labels), whole(labels)
    assert not torch.equal(first, second)
    resumed = Negatives(LABELS, 9, seed=3)
    resumed.load_state_dict({"step": torch.tensor(1)})
    assert torch.equal(resumed(labels), second)


def test_one_class_has_nothing_to_contrast():
    with pytest.raises(KdlibError, match="at least two"):
        Negatives(torch.zeros(5, dtype=torch.int64), 4, seed=0)


def test_the_constant_makes_the_first_critic_a_probability_and_stays():
    memory = Memory(IMAGES, 8, momentum=0.5)
    anchors = torch.nn.functional.normalize(torch.randn(3, 8), dim=1)
    positions = torch.randint(0, IMAGES, (3, 5))
    scores = memory.scores(anchors, positions, 0.07)
    assert scores.exp().mean().item() == pytest.approx(1 / IMAGES, rel=1e-4)
    raw = torch.einsum("bd,bkd->bk", anchors, memory.bank[positions]) / 0.07
    torch.testing.assert_close(scores, raw - memory.log_constant)
    constant = memory.log_constant.clone()
    memory.scores(-anchors, positions, 0.07)
    assert memory.log_constant == constant


def test_the_memory_moves_half_way_at_the_batchs_positions_alone():
    made = ContrastiveLoss(pair(), negatives=7, dimensions=8).train()
    before = made.memory_student.bank.clone()
    student = output(STUDENT)
    made(student, taught(), batch())
    anchors = torch.nn.functional.normalize(made.project_student(student.embedding), dim=1)
    moved = torch.nn.functional.normalize((before[INDICES] + anchors) / 2, dim=1)
    torch.testing.assert_close(made.memory_student.bank[INDICES], moved.detach())
    rest = torch.ones(IMAGES, dtype=torch.bool)
    rest[INDICES] = False
    assert torch.equal(made.memory_student.bank[rest], before[rest])


def test_the_student_is_contrasted_with_the_teachers_memory():
    made = ContrastiveLoss(pair(), negatives=7, dimensions=8).eval()
    student, teacher = output(STUDENT), taught()
    positions = torch.cat([INDICES[:, None], Negatives(LABELS, 7, seed=0)(LABELS[INDICES])], dim=1)
    expected = 0
    for layer, made_by, memory in (
        (made.project_student, student, made.memory_teacher),
        (made.project_teacher, teacher, made.memory_student),
    ):
        anchors = torch.nn.functional.normalize(layer(made_by.embedding), dim=1)
        critic = (torch.einsum("bd,bkd->bk", anchors, memory.bank[positions]) / 0.07).exp()
        critic = critic / (critic.mean() * IMAGES)
        chance = critic / (critic + 7 / IMAGES)
        expected = expected - chance[:, 0].log() - (1 - chance[:, 1:]).log().sum(1)
    torch.testing.assert_close(made(student, teacher, batch()), expected, rtol=1e-4, atol=1e-4)
