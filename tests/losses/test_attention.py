from types import SimpleNamespace

import pytest
import torch
from losses.reference import at_distance

from kdlib.errors import KdlibError
from kdlib.losses.attention import (
    AttentionLoss,
    at_loss_per_image,
    attention_map,
    attention_maps,
    maps_of,
)
from kdlib.models.output import Output

LAYOUTS = (torch.contiguous_format, torch.channels_last)


def output(*stages):
    return Output(torch.zeros(len(stages[0]), 2), stages, torch.zeros(len(stages[0]), 2))


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


def test_other_powers(draw):
    features = draw(2, 3, 4, 4) - 0.5
    torch.testing.assert_close(attention_map(features, 4), features.pow(4).mean(1))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradcheck(draw, layout):
    student = draw(2, 3, 4, 4, dtype=torch.float64).contiguous(memory_format=layout)
    teacher = draw(2, 4, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda features: at_loss_per_image(attention_map(features), teacher),
        student.requires_grad_(),
    )


def test_at_equals_the_numpy_reference(draw):
    student, teacher = draw(4, 3, 7, 7), draw(4, 5, 7, 7)
    expected = [at_distance(s, t) for s, t in zip(student.numpy(), teacher.numpy(), strict=True)]
    result = at_loss_per_image(attention_map(student), attention_map(teacher))
    torch.testing.assert_close(result.double(), torch.tensor(expected), rtol=1e-4, atol=0)


def test_larger_map_is_pooled_to_the_smaller(draw):
    small, large = draw(2, 4, 4), draw(2, 8, 8)
    pooled = large.reshape(2, 4, 2, 4, 2).mean((2, 4))
    for pair in ((small, large), (large, small)):
        torch.testing.assert_close(at_loss_per_image(*pair), at_loss_per_image(small, pooled))


def test_a_teachers_maps_are_computed_once(draw):
    carried = SimpleNamespace(stages=(), maps=(draw(2, 4, 4),))
    assert maps_of(carried)[0] is carried.maps[0]
    features = draw(2, 3, 4, 4)
    assert torch.equal(maps_of(output(features))[0], attention_maps([features])[0])


def test_module_sums_the_stages_per_image(draw):
    students = [draw(3, c, n, n).requires_grad_() for c, n in ((2, 8), (4, 4))]
    teachers = [draw(3, c, n, n).requires_grad_() for c, n in ((5, 8), (6, 4))]
    loss = AttentionLoss()(output(*students), output(*teachers), torch.zeros(3))
    pairs = zip(attention_maps(students), attention_maps(teachers), strict=True)
    torch.testing.assert_close(loss, sum(at_loss_per_image(*pair) for pair in pairs))
    loss.sum().backward()
    assert all(s.grad is not None for s in students)
    assert all(t.grad is None for t in teachers)


def test_of_unequally_many_stages_the_deepest_are_compared(draw):
    deep, fine, theirs = draw(1, 2, 4, 4), draw(1, 2, 8, 8), draw(1, 3, 4, 4)
    batch = torch.zeros(1)
    alone = AttentionLoss()(output(deep), output(theirs), batch)
    assert torch.equal(AttentionLoss()(output(fine, deep), output(theirs), batch), alone)
    assert torch.equal(AttentionLoss()(output(deep), output(fine, theirs), batch), alone)


def test_unknown_option_is_refused():
    with pytest.raises(KdlibError, match="level_weights"):
        AttentionLoss(levels="equal_scale")
