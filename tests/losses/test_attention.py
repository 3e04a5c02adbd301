"""Attention maps, and how the terms of the stages are weighted against each other."""

import pytest
import torch

from kdlib.errors import KdlibError
from kdlib.losses.attention import LevelBalance, at_loss_per_image, attention_map

LAYOUTS = (torch.contiguous_format, torch.channels_last)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_map_and_gradient_equal_the_plain_formula(draw, layout, dtype):
    features = (draw(3, 8, 5, 6) - 0.5).to(dtype).contiguous(memory_format=layout).requires_grad_()
    weights = draw(3, 5, 6)
    exact = features.detach().double().requires_grad_()
    (exact.square().mean(1) * weights).sum().backward()
    maps = attention_map(features)
    (maps * weights).sum().backward()
    assert maps.dtype == (dtype if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(maps.double(), exact.detach().square().mean(1), rtol=1e-6, atol=0)
    tolerance = 5e-3 if dtype == torch.bfloat16 else 1e-6
    torch.testing.assert_close(features.grad.double(), exact.grad, rtol=tolerance, atol=1e-9)
    assert features.grad.dtype == dtype


@pytest.mark.parametrize("layout", LAYOUTS)
def test_first_and_second_derivatives_are_the_numeric_ones(draw, layout):
    features = draw(2, 3, 4, 4, dtype=torch.float64).contiguous(memory_format=layout)
    assert torch.autograd.gradcheck(attention_map, features.requires_grad_())
    assert torch.autograd.gradgradcheck(attention_map, features)


def test_other_powers(draw):
    features = draw(2, 3, 4, 4) - 0.5
    torch.testing.assert_close(attention_map(features, 4), features.pow(4).mean(1))


def test_the_larger_map_is_pooled_to_the_smaller(draw):
    small, large = draw(2, 4, 4), draw(2, 8, 8)
    pooled = large.reshape(2, 4, 2, 4, 2).mean((2, 4))
    for pair in ((small, large), (large, small)):
        torch.testing.assert_close(at_loss_per_image(*pair), at_loss_per_image(small, pooled))


def test_equal_weight_and_explicit_weights(draw):
    terms = [draw(3), draw(3)]
    torch.testing.assert_close(LevelBalance()(terms), terms[0] + terms[1])
    balanced = LevelBalance([1, 0.5])(terms)
    torch.testing.assert_close(balanced, terms[0] + 0.5 * terms[1])
    with pytest.raises(KdlibError, match="2 level_weights for 1 stages"):
        LevelBalance([1, 2])([torch.ones(1)])


def test_equal_scale_balances_levels_of_very_different_size(draw):
    balance = LevelBalance("equal_scale")
    for _ in range(50):
        terms = [1e-4 * (1 + draw(8)), 100 * (1 + draw(8))]
        total = balance(terms)
    shares = [term.mean() / mean for term, mean in zip(terms, balance.means, strict=False)]
    assert all(abs(share - 1) < 0.2 for share in shares)
    torch.testing.assert_close(total.mean(), sum(shares))


def test_the_running_mean_is_plain_at_first_and_then_forgets():
    balance = LevelBalance("equal_scale")
    for value in (1.0, 3.0, 5.0):
        balance([torch.full((2,), value)])
    assert balance.means[0] == pytest.approx(3.0)
    for _ in range(900):
        balance([torch.full((2,), 9.0)])
    assert balance.means[0] == pytest.approx(9.0, rel=1e-3)


def test_the_gradient_takes_the_mean_for_constant_and_evaluation_leaves_it():
    balance = LevelBalance("equal_scale")
    term = torch.tensor([1.0, 3.0], requires_grad=True)
    balance([term]).sum().backward()
    torch.testing.assert_close(term.grad, torch.full((2,), 0.5))
    balance.eval()([10 * term.detach()])
    assert balance.means[0] == 2 and balance.batches == 1


def test_levels_without_any_difference_are_finite_and_the_state_survives_a_checkpoint():
    balance, restored = LevelBalance("equal_scale"), LevelBalance("equal_scale")
    term = torch.zeros(4, requires_grad=True)
    loss = balance([term, term])
    loss.sum().backward()
    assert torch.equal(loss, torch.zeros(4)) and term.grad.isfinite().all()
    balance([torch.tensor([4.0])])
    restored.load_state_dict(balance.state_dict())
    torch.testing.assert_close(balance([torch.tensor([2.0])]), restored([torch.tensor([2.0])]))
    assert not LevelBalance("equal_weight").state_dict()


@pytest.mark.parametrize("bad", ["equal", [], [1, -1], [1, "x"], [float("nan"), 1], 3, None])
def test_invalid_weights_are_refused(bad):
    with pytest.raises(KdlibError, match="equal_scale"):
        LevelBalance(bad)
