"""Losses with layers or a memory of their own: what goes through which, in numpy or by hand."""

import numpy as np
import pytest
import torch
from losses import reference
from losses.networks import IMAGES, INDICES, LABELS, STUDENT, batch, output, pair, taught
from scipy.special import softmax
from torch.nn import functional

from kdlib.errors import KdlibError
from kdlib.losses import hints, review
from kdlib.losses.contrastive import ContrastiveLoss, Negatives


def numbers(tensor):
    return tensor.detach().numpy()


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_the_hint_is_the_middle_stage_through_the_regressor():
    made, student, teacher = hints.HintLoss(pair()), output(STUDENT), taught()
    weight, bias = numbers(made.regressor.weight)[:, :, 0, 0], numbers(made.regressor.bias)
    turned = np.einsum("oc,bchw->bohw", weight, numbers(student.stages[1]))
    expected = reference.mse(turned + bias[None, :, None, None], teacher.stages[1].numpy())
    assert numbers(made(student, teacher, batch())) == pytest.approx(expected, rel=1e-4)


def test_the_variance_starts_at_its_first_value_and_every_stage_counts():
    made, student, teacher = hints.VariationalLoss(pair()), output(STUDENT), taught()
    expected = 0
    for predict, mine, theirs in zip(made.predictors, student.stages, teacher.stages, strict=True):
        variance = functional.softplus(predict.raw_variance)
        assert variance.tolist() == pytest.approx([hints.FIRST_VARIANCE] * len(variance), abs=1e-3)
        expected = expected + hints.gaussian_nll(predict.mean(mine), variance, theirs)
    torch.testing.assert_close(made(student, teacher, batch()), expected, rtol=1e-4, atol=1e-4)


def test_an_embedding_reads_similarities_to_the_batch_filled_up_with_zeros():
    embed, features = hints.Embedding(6), torch.rand(4, 3, 5, 5)
    flat = unit(features.flatten(1).numpy())
    padded = np.pad(flat @ flat.T, ((0, 0), (0, 2)))
    expected = unit(numbers(embed.layers(torch.tensor(padded))))
    assert numbers(embed(features)) == pytest.approx(expected, abs=1e-5)


def test_the_semantic_loss_is_the_attention_weighted_mean_of_all_pairs():
    made, student, teacher = hints.SemanticLoss(pair()).eval(), output(STUDENT), taught()
    queries, keys = (
        np.stack([numbers(embed(stage)) for embed, stage in zip(*pairs, strict=True)], axis=1)
        for pairs in ((made.queries, student.stages), (made.keys, teacher.stages))
    )
    attention, expected = softmax(np.einsum("bsd,btd->bst", queries, keys), axis=2), 0
    for index, layers in enumerate(made.projections):
        s, t = divmod(index, 2)
        mine, theirs = student.stages[s], teacher.stages[t]
        if s != t:  # one of the two is 8 x 8, the other 4 x 4
            mine, theirs = (functional.adaptive_avg_pool2d(one, 4) for one in (mine, theirs))
        distance = numbers((layers(mine) - theirs).square().mean((1, 2, 3)))
        expected = expected + attention[:, s, t] * distance / 2
    assert len(made.projections) == 4
    assert numbers(made(student, teacher, batch())) == pytest.approx(expected, rel=1e-4)


def test_a_review_sums_over_the_embedding_and_every_stage_each_fused_with_the_deeper():
    fuse = review.AttentionFusion(3, 4, deepest=False).eval()
    features, deeper = torch.rand(2, 3, 8, 8), torch.rand(2, 4, 4, 4)
    own, enlarged = fuse.reduce(features), deeper.repeat_interleave(2, 2).repeat_interleave(2, 3)
    maps = torch.sigmoid(fuse.attention(torch.cat([own, enlarged], 1)))
    torch.testing.assert_close(fuse(features, deeper), own * maps[:, :1] + enlarged * maps[:, 1:])

    made, student, teacher = review.ReviewLoss(pair()).eval(), output(STUDENT), taught()
    mine, theirs = ((o.embedding[..., None, None], *o.stages[::-1]) for o in (student, teacher))
    fused, expected = [None], 0
    for one, two, fuse, turn in zip(mine, theirs, made.fusions, made.to_teacher, strict=True):
        fused.append(fuse(one, fused[-1]))
        expected = expected + review.hcl_per_image(turn(fused[-1]), two)
    torch.testing.assert_close(made(student, teacher, batch()), expected)
    (to_finest,) = torch.autograd.grad(fused[3].sum(), student.embedding, retain_graph=True)
    (none,) = torch.autograd.grad(fused[2].sum(), student.stages[0], allow_unused=True)
    assert to_finest.abs().max() > 0 and none is None


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (1, 1), (4, 6), (32, 32)])
def test_frequency_attention_filters_high_frequencies_beside_the_convolution(size):
    torch.manual_seed(0)
    made, features = review.FrequencyAttention(3, 5, size), torch.rand(2, 3, *size)
    rows, columns = np.fft.fftfreq(size[0]) * 2, np.fft.rfftfreq(size[1]) * 2
    low = (np.abs(rows)[:, None] < 0.1) & (columns[None] < 0.1)
    matrices = numbers(made.filter)
    matrices = (matrices[..., 0] + 1j * matrices[..., 1]) * ~low[..., None, None]
    spectrum = np.fft.rfft2(features.numpy(), norm="ortho")
    filtered = np.fft.irfft2(np.einsum("bchw,hwcd->bdhw", spectrum, matrices), s=size, norm="ortho")
    expected = filtered + numbers(made.local(features))
    assert numbers(made(features)) == pytest.approx(expected, abs=1e-4)
    assert size != (32, 32) or low.sum() == 6
    turns = review.frequency_review(pair()).to_teacher
    assert all(isinstance(turn, review.FrequencyAttention) for turn in turns)


def test_negatives_are_of_other_classes_differ_in_each_step_and_repeat_after_an_interruption():
    labels, made = LABELS[INDICES], Negatives(LABELS, 2000, seed=0)
    drawn, second = made(labels), made(labels)
    assert drawn.shape == (len(labels), 2000) and not torch.equal(drawn, second)
    for label, row in zip(labels, drawn, strict=True):
        others = (label != LABELS).nonzero().flatten().tolist()
        assert sorted(set(row.tolist())) == others
        assert torch.bincount(row).max() < 2 * 2000 / len(others)
    resumed = Negatives(LABELS, 2000, seed=0)
    resumed.load_state_dict({"step": torch.tensor(1)})
    assert torch.equal(resumed(labels), second)
    with pytest.raises(KdlibError, match="at least two"):
        Negatives(torch.zeros(5, dtype=torch.int64), 4, seed=0)


def test_both_are_contrasted_with_the_other_s_memory_which_moves_half_way_there_alone():
    made = ContrastiveLoss(pair(), negatives=7, dimensions=8).train()
    student, teacher, expected = output(STUDENT), taught(), 0
    positions = torch.cat([INDICES[:, None], Negatives(LABELS, 7, seed=0)(LABELS[INDICES])], dim=1)
    before, own = made.memory_student.bank, made.project_student(student.embedding)
    for layer, made_by, memory in (
        (made.project_student, student, made.memory_teacher),
        (made.project_teacher, teacher, made.memory_student),
    ):
        anchors = functional.normalize(layer(made_by.embedding), dim=1)
        critic = torch.einsum("bd,bkd->bk", anchors, memory.bank[positions]) / 0.07
        critic = numbers(critic.exp() / (critic.exp().mean() * IMAGES)).astype(np.float64)
        expected = expected + reference.nce(critic, IMAGES)
    found = numbers(made(student, teacher, batch()))
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-4)
    moved = functional.normalize((before[INDICES] + functional.normalize(own, dim=1)) / 2, dim=1)
    torch.testing.assert_close(made.memory_student.bank[INDICES], moved.detach())
    rest = [index for index in range(IMAGES) if index not in INDICES]
    assert torch.equal(made.memory_student.bank[rest], before[rest])
    memory, constant = made.eval().memory_teacher, made.memory_teacher.log_constant.clone()
    after = memory.bank
    made(student, teacher, batch())
    assert memory.bank is after and memory.log_constant == constant
