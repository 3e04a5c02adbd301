"""RKD against distances of scipy and angles computed one by one."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from kdlib.losses.relations import pairwise_distances, rkd_per_image, triplet_angles


def huber(difference):
    size = np.abs(difference)
    return np.where(size < 1, difference**2 / 2, size - 0.5)


def scaled_distances(embedding):
    distances = cdist(embedding, embedding)
    return distances / distances[distances > 0].mean()


def angles(embedding):
    count = len(embedding)
    found = np.zeros((count, count, count))
    for j in range(count):
        for i in range(count):
            for k in range(count):
                if j not in (i, k):
                    one, two = embedding[i] - embedding[j], embedding[k] - embedding[j]
                    found[j, i, k] = one @ two / np.linalg.norm(one) / np.linalg.norm(two)
    return found


@pytest.fixture
def embeddings():
    stream = np.random.default_rng(0)
    return stream.normal(size=(6, 4)), stream.normal(size=(6, 9))


def test_both_potentials_are_those_of_the_paper(embeddings):
    for embedding in embeddings:
        tensor = torch.tensor(embedding)
        assert pairwise_distances(tensor).numpy() == pytest.approx(scaled_distances(embedding))
        assert triplet_angles(tensor).numpy() == pytest.approx(angles(embedding), abs=1e-7)


def test_the_loss_is_their_weighted_huber_losses(embeddings):
    mine, theirs = embeddings
    distance = huber(scaled_distances(mine) - scaled_distances(theirs)).mean(1)
    angle = huber(angles(mine) - angles(theirs)).mean((1, 2))
    found = rkd_per_image(*map(torch.tensor, embeddings), 25, 50)
    assert found.numpy() == pytest.approx(25 * distance + 50 * angle)


def test_it_ignores_scale_shift_and_rotation(embeddings):
    mine = torch.tensor(embeddings[0])
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    assert rkd_per_image(3 * mine @ turn + 1, mine).max() < 1e-12


def test_equal_images_get_no_gradient_from_each_other():
    embedding = torch.ones(3, 4, requires_grad=True)
    rkd_per_image(embedding, torch.randn(3, 4)).sum().backward()
    assert embedding.grad.isfinite().all()
