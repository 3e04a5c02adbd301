"""SP against its formula in numpy."""

import numpy as np
import pytest
import torch

from kdlib.losses.relations import batch_similarity, sp_per_image


def similarity(features):
    flat = features.reshape(len(features), -1)
    gram = flat @ flat.T
    return gram / np.linalg.norm(gram, axis=1, keepdims=True)


def test_the_mean_is_the_frobenius_distance_over_the_square_of_the_batch():
    stream = np.random.default_rng(0)
    mine, theirs = stream.random((5, 3, 4, 4)), stream.random((5, 7, 2, 2))
    found = sp_per_image(torch.tensor(mine), torch.tensor(theirs)).mean().item()
    expected = np.linalg.norm(similarity(mine) - similarity(theirs), "fro") ** 2 / 5**2
    assert found == pytest.approx(expected)


def test_a_dead_image_is_like_no_other():
    features = torch.rand(3, 2, 4, 4)
    features[1] = 0
    assert batch_similarity(features)[1].tolist() == [0, 0, 0]
