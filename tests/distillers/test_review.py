"""ReviewKD: the hierarchical context loss in numpy, and the order of the review."""

import numpy as np
import pytest
import torch
from distillers.networks import STUDENT, batch, output, pair, taught

from kdlib.losses.review import AttentionFusion, ReviewLoss, hcl_per_image


def pooled(features, side):
    count, channels, size, _ = features.shape
    block = size // side
    return features.reshape(count, channels, side, block, side, block).mean((3, 5))


def test_context_losses_of_halving_weight_over_their_sum():
    mine, theirs = np.random.default_rng(0).random((2, 3, 4, 8, 8))
    levels = [(pooled(mine, side), pooled(theirs, side)) for side in (8, 4, 2, 1)]
    losses = [((one - two) ** 2).mean((1, 2, 3)) for one, two in levels]
    expected = sum(w * loss for w, loss in zip((8, 4, 2, 1), losses, strict=True)) / 15
    found = hcl_per_image(torch.tensor(mine), torch.tensor(theirs))
    assert found.numpy() == pytest.approx(expected)


def test_small_features_have_fewer_contexts():
    mine, theirs = torch.rand(2, 3, 5, 1, 1, dtype=torch.float64)
    expected = (mine - theirs).square().mean((1, 2, 3))
    torch.testing.assert_close(hcl_per_image(mine, theirs), expected)


def test_equal_features_have_no_loss():
    features = torch.rand(2, 3, 8, 8)
    assert hcl_per_image(features, features).tolist() == [0, 0]


def test_a_fusion_weighs_its_own_and_the_deeper_features_by_attention():
    fuse = AttentionFusion(3, 4, deepest=False).eval()
    features, deeper = torch.rand(2, 3, 8, 8), torch.rand(2, 4, 4, 4)
    own = fuse.reduce(features)
    enlarged = deeper.repeat_interleave(2, 2).repeat_interleave(2, 3)
    maps = torch.sigmoid(fuse.attention(torch.cat([own, enlarged], 1)))
    expected = own * maps[:, :1] + enlarged * maps[:, 1:]
    torch.testing.assert_close(fuse(features, deeper), expected)


def test_what_a_deep_stage_knows_reaches_all_finer_ones_and_none_deeper():
    made, student = ReviewLoss(pair()).eval(), output(STUDENT)
    deepest, middle, finest = (student.embedding[..., None, None], *student.stages[::-1])
    fused = [made.fusions[0](deepest, None)]
    fused.append(made.fusions[1](middle, fused[0]))
    fused.append(made.fusions[2](finest, fused[1]))
    (to_finest,) = torch.autograd.grad(fused[2].sum(), student.embedding, retain_graph=True)
    assert to_finest.abs().max() > 0
    (none,) = torch.autograd.grad(fused[1].sum(), student.stages[0], allow_unused=True)
    assert none is None


def test_the_loss_is_the_sum_over_the_embedding_and_every_stage():
    made, student, teacher = ReviewLoss(pair()).eval(), output(STUDENT), taught()
    deeper, expected = None, 0
    mine = (student.embedding[..., None, None], *student.stages[::-1])
    theirs = (teacher.embedding[..., None, None], *teacher.stages[::-1])
    for one, two, fuse, turn in zip(mine, theirs, made.fusions, made.to_teacher, strict=True):
        deeper = fuse(one, deeper)
        expected = expected + hcl_per_image(turn(deeper), two)
    torch.testing.assert_close(made(student, teacher, batch()), expected)
