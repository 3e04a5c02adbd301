"""Features that are refused; attention maps; how stages are weighted against each other."""

from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import kdlib
from kdlib import DCTLoss, KdlibError, at_loss, dct_loss, kd_loss
from kdlib.losses.attention import LevelBalance, attention_map, check_features


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_map_and_gradient_equal_the_plain_formula(draw, layout, dtype):
    features = (draw(2, 3, 4, 5) - 0.5).to(dtype).contiguous(memory_format=layout).requires_grad_()
    weights = draw(2, 4, 5)
    exact = features.detach().double().requires_grad_()
    (exact.square().mean(1) * weights).sum().backward()
    maps = attention_map(features)
    (maps * weights).sum().backward()
    assert maps.dtype == (dtype if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(maps.double(), exact.detach().square().mean(1), rtol=1e-6, atol=0)
    tolerance = 5e-3 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(features.grad.double(), exact.grad, rtol=tolerance, atol=1e-9)
    assert features.grad.dtype == dtype
    torch.testing.assert_close(attention_map(exact, 4), exact.pow(4).mean(1))
    if dtype == torch.float64:  # the second derivatives are the numeric ones
        assert torch.autograd.gradgradcheck(attention_map, features)


def test_levels_count_equally_or_by_explicit_weights_and_invalid_ones_are_refused(draw):
    terms = [draw(3), draw(3)]
    torch.testing.assert_close(LevelBalance()(terms), terms[0] + terms[1])
    torch.testing.assert_close(LevelBalance([1, 0.5])(terms), terms[0] + 0.5 * terms[1])
    assert not LevelBalance().state_dict()
    with pytest.raises(KdlibError, match="2 level_weights for 1 stages"):
        LevelBalance([1, 2])([torch.ones(1)])
    for bad in ("equal", [], [1, -1], [1, "x"], [float("nan"), 1], 3, None):
        with pytest.raises(KdlibError, match="equal_scale"):
            LevelBalance(bad)


def test_the_running_mean_is_plain_at_first_then_forgets_and_survives_a_checkpoint():
    balance, restored = LevelBalance("equal_scale"), LevelBalance("equal_scale")
    for value in (1.0, 3.0, 5.0):
        balance([torch.full((2,), value)])
    assert balance.means[0] == pytest.approx(3.0)
    for _ in range(900):
        balance([torch.full((2,), 9.0)])
    assert balance.means[0] == pytest.approx(9.0, rel=1e-3)
    restored.load_state_dict(balance.state_dict())
    assert torch.equal(balance([torch.tensor([2.0])]), restored([torch.tensor([2.0])]))


def test_the_gradient_takes_the_mean_for_constant_and_evaluation_leaves_it():
    balance = LevelBalance("equal_scale")
    term = torch.tensor([1.0, 3.0], requires_grad=True)
    total = balance([term, 100 * term])
    total.sum().backward()
    torch.testing.assert_close(total, torch.tensor([1.0, 3.0]))  # every level counts about 1
    torch.testing.assert_close(term.grad, torch.full((2,), 1.0))
    balance.eval()([10 * term.detach()])
    assert balance.means[:2].tolist() == [2, 200] and balance.batches == 1
    nothing = torch.zeros(4, requires_grad=True)
    loss = LevelBalance("equal_scale")([nothing, nothing])
    loss.sum().backward()
    assert torch.equal(loss, torch.zeros(4)) and nothing.grad.isfinite().all()


def maps(*shapes):
    return [torch.rand(shape) for shape in shapes]


SWIN = maps((2, 28, 28, 64), (2, 14, 14, 128), (2, 7, 7, 256))
RESNET = maps((2, 64, 28, 28), (2, 128, 14, 14), (2, 256, 7, 7))


@pytest.mark.parametrize(("student", "teacher", "says"), [
    (SWIN, RESNET, r"student look like \(B, H, W, C\): \(2, 28, 28, 64\), .*permute"),
    (RESNET, SWIN, "teacher look like"),
    (SWIN[-1], RESNET[-1], r"look like \(B, H, W, C\)"),
    (RESNET[-1], SWIN[-1], "look like"),
    (SWIN[-1], SWIN[-2], "look like"),
    (SWIN[-1], maps((2, 7, 7, 384)), "look like"),  # both alike
    (RESNET[::-1], RESNET[::-1], r"student grow: .*\(2, 128, 14, 14\), .*fine to coarse"),
    (RESNET, RESNET[::-1], "teacher grow"),
    ([RESNET[0], RESNET[1][:1]], RESNET, "2 images are compared with 1"),
    (RESNET, maps((3, 256, 7, 7)), "2 images are compared with 3: show student and teacher"),
    (maps((2, 49, 256)), RESNET, r"student is \(2, 49, 256\).*tokens"),
    (RESNET, maps((2, 7, 7)), r"\(B, C, H, W\)"),
    (RESNET, [None], "teacher is None; it must be a tensor"),
    (maps((0, 64, 7, 7)), maps((0, 64, 7, 7)), r"student is \(0, 64, 7, 7\)"),
    ([], RESNET, "student's features are .*one per stage"),
    (RESNET, {"layer4": RESNET[-1]}, "teacher's features are .*one per stage"),
])  # fmt: skip
def test_features_that_would_be_mistaken_are_refused(student, teacher, says):
    for loss in (at_loss, dct_loss, DCTLoss(), kdlib.sp_loss):
        with pytest.raises(KdlibError, match=says):
            loss(student, teacher)


def test_one_map_that_is_none_and_maps_that_show_nothing_are_refused():
    with pytest.raises(KdlibError, match=r"is \(2, 7, 7\)"):
        attention_map(torch.rand(2, 7, 7))
    for loss in (at_loss, dct_loss):
        with pytest.raises(KdlibError, match="one pixel show no attention"):
            loss(maps((2, 3, 1, 1)), RESNET[-1].mean((2, 3), keepdim=True))
    assert torch.equal(dct_loss(RESNET, RESNET[::1], "release_a"), torch.tensor(0.0))


def test_what_arithmetic_would_broadcast_is_refused():
    for loss in (kd_loss, partial(kdlib.dkd_loss, targets=torch.tensor([0, 3, 1, 1]))):
        with pytest.raises(KdlibError, match=r"\(4, 5\).*\(4, 1\)"):
            loss(torch.rand(4, 5), torch.rand(4, 1))
    for loss, one in ((kdlib.pkt_loss, 5), (kdlib.rkd_loss, 5), (kdlib.sp_loss, (5, 3, 3))):
        sizes = one if isinstance(one, tuple) else (one,)
        with pytest.raises(KdlibError, match="4 images.*1"):
            loss(torch.rand(4, *sizes), torch.rand(1, *sizes))
    with pytest.raises(KdlibError, match=r"Labels are \(4, 1\)"):
        kdlib.dkd_loss(torch.rand(4, 5), torch.rand(4, 5), torch.tensor([[0], [3], [1], [1]]))
    for temperature in (0, -1.0, float("nan"), float("inf")):
        for loss in (kdlib.KDLoss(temperature), partial(kd_loss, temperature=temperature)):
            with pytest.raises(KdlibError, match="temperature is .*above 0"):
                loss(torch.rand(4, 5), torch.rand(4, 5))


def of_strides(height, width, channels, strides):
    """Shapes of a network's stages, as its strides make them of an image."""
    pairs = zip(channels, strides, strict=True)
    return [torch.empty(1, c, -(-height // s), -(-width // s)) for c, s in pairs]


SIZES = st.integers(20, 70)  # no image is four times as wide as high
STAGES = st.lists(
    st.tuples(st.integers(2, 40), st.sampled_from([1, 2, 4, 8])), min_size=1, max_size=4
).map(lambda pairs: ([c for c, _ in pairs], sorted(s for _, s in pairs)))


@given(SIZES, SIZES, STAGES, STAGES)
def test_features_of_two_networks_are_never_refused(height, width, student, teacher):
    check_features(of_strides(height, width, *student), of_strides(height, width, *teacher))


@given(SIZES, SIZES, STAGES, st.booleans())
def test_channels_last_is_always_seen_where_it_shows(height, width, stages, first):
    channels, strides = sorted(stages[0]), stages[1]
    right = of_strides(height, width, channels, strides)
    turned = [stage.permute(0, 2, 3, 1) for stage in right]
    if len(set(channels)) > 1 and strides[0] < strides[-1]:  # else none grows where another falls
        with pytest.raises(KdlibError, match="look like"):
            check_features(*((turned, right) if first else (right, turned)))
