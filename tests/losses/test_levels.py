import pytest
import torch

from kdlib.errors import KdlibError
from kdlib.losses.attention import LevelBalance


def test_equal_weight_and_explicit_weights(draw):
    terms = [draw(3), draw(3)]
    torch.testing.assert_close(LevelBalance()(terms), terms[0] + terms[1])
    balanced = LevelBalance([1, 0.5])(terms)
    torch.testing.assert_close(balanced, terms[0] + 0.5 * terms[1])


def test_equal_scale_balances_levels_of_very_different_size(draw):
    balance = LevelBalance("equal_scale")
    for _ in range(50):
        terms = [1e-4 * (1 + draw(8)), 100 * (1 + draw(8))]
        total = balance(terms)
    shares = [term.mean() / mean for term, mean in zip(terms, balance.means, strict=False)]
    assert all(abs(share - 1) < 0.2 for share in shares)
    torch.testing.assert_close(total.mean(), sum(shares))


def test_running_mean_is_plain_at_first_and_then_forgets():
    balance = LevelBalance("equal_scale", momentum=0.25)
    for value in (1.0, 3.0, 5.0):
        balance([torch.full((2,), value)])
    assert balance.means[0] == pytest.approx(3.0)
    for _ in range(60):
        balance([torch.full((2,), 9.0)])
    assert balance.means[0] == pytest.approx(9.0)


def test_gradient_treats_the_mean_as_constant_and_evaluation_leaves_it():
    balance = LevelBalance("equal_scale")
    term = torch.tensor([1.0, 3.0], requires_grad=True)
    balance([term]).sum().backward()
    torch.testing.assert_close(term.grad, torch.full((2,), 0.5))
    balance.eval()([10 * term.detach()])
    assert balance.means[0] == 2 and balance.batches == 1


def test_levels_without_any_difference_are_finite():
    term = torch.zeros(4, requires_grad=True)
    loss = LevelBalance("equal_scale")([term, term])
    loss.sum().backward()
    assert torch.equal(loss, torch.zeros(4)) and term.grad.isfinite().all()


def test_state_survives_a_checkpoint():
    balance, restored = LevelBalance("equal_scale"), LevelBalance("equal_scale")
    balance([torch.tensor([4.0])])
    restored.load_state_dict(balance.state_dict())
    torch.testing.assert_close(balance([torch.tensor([2.0])]), restored([torch.tensor([2.0])]))
    assert not LevelBalance("equal_weight").state_dict()


@pytest.mark.parametrize("bad", ["equal", [], [1, -1], [1, "x"], 3, None])
def test_invalid_weights_are_refused(bad):
    with pytest.raises(KdlibError, match="equal_scale"):
        LevelBalance(bad)


def test_weights_must_be_one_a_stage():
    with pytest.raises(KdlibError, match="2 level_weights for 1 stages"):
        LevelBalance([1, 2])([torch.ones(1)])
