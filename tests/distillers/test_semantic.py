"""SemCKD: its attention over teacher stages, and the distances that it weighs."""

import numpy as np
import pytest
import torch
from distillers.networks import STUDENT, batch, output, pair, taught
from scipy.special import softmax

from kdlib.losses.semantic import Embedding, SemanticLoss, layer_attention


def test_attention_is_a_softmax_over_the_teachers_stages():
    stream = np.random.default_rng(0)
    queries, keys = stream.normal(size=(4, 2, 5)), stream.normal(size=(4, 3, 5))
    expected = softmax(np.einsum("bsd,btd->bst", queries, keys), axis=2)
    found = layer_attention(torch.tensor(queries), torch.tensor(keys))
    assert found.numpy() == pytest.approx(expected)


def test_an_embedding_reads_similarities_to_the_batch_filled_up_with_zeros():
    embed, features = Embedding(6), torch.rand(4, 3, 5, 5)
    flat = features.flatten(1).numpy()
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    padded = np.pad(flat @ flat.T, ((0, 0), (0, 2)))
    expected = embed.layers(torch.tensor(padded)).detach().numpy()
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert embed(features).detach().numpy() == pytest.approx(expected, abs=1e-5)


def test_the_loss_is_the_attention_weighted_mean_of_all_pairs():
    made, student, teacher = SemanticLoss(pair()).eval(), output(STUDENT), taught()
    queries, keys = (
        torch.stack([embed(stage) for embed, stage in zip(*pairs, strict=True)], dim=1)
        for pairs in ((made.queries, student.stages), (made.keys, teacher.stages))
    )
    attention = layer_attention(queries, keys)
    pool = torch.nn.AdaptiveAvgPool2d(4)
    expected = 0
    for index, layers in enumerate(made.projections):
        s, t = divmod(index, 2)
        mine, theirs = student.stages[s], teacher.stages[t]
        if s != t:  # one of the two is 8 pixels a side, the other 4
            mine, theirs = pool(mine), pool(theirs)
        distance = (layers(mine) - theirs).square().mean((1, 2, 3))
        expected = expected + attention[:, s, t] * distance / 2
    assert len(made.projections) == 4
    torch.testing.assert_close(made(student, teacher, batch()), expected)
