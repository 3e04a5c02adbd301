"""PKT against its formula in numpy and scipy."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import entropy

from kdlib.losses.relations import neighbour_probabilities, pkt_per_image


def probabilities(embedding):
    kernel = (2 - cdist(embedding, embedding, "cosine")) / 2
    np.fill_diagonal(kernel, 0)
    return kernel / kernel.sum(1, keepdims=True)


@pytest.fixture
def embeddings():
    stream = np.random.default_rng(0)
    return stream.normal(size=(6, 4)), stream.normal(size=(6, 9))


def test_an_image_is_not_its_own_neighbour(embeddings):
    found = neighbour_probabilities(torch.tensor(embeddings[0])).numpy()
    assert found == pytest.approx(probabilities(embeddings[0]))
    assert np.diag(found).tolist() == [0] * 6


def test_the_loss_is_the_divergence_of_the_neighbours(embeddings):
    mine, theirs = map(probabilities, embeddings)
    expected = [entropy(t, s) / 6 for s, t in zip(mine, theirs, strict=True)]
    found = pkt_per_image(*map(torch.tensor, embeddings)).numpy()
    assert found == pytest.approx(expected, rel=1e-4)


def test_opposite_embeddings_stay_finite():
    embedding = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], requires_grad=True)
    pkt_per_image(embedding, torch.randn(2, 3)).sum().backward()
    assert embedding.grad.isfinite().all()
