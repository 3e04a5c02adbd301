"""What every method of the registry must do in a step, whatever its formula."""

from itertools import product
from pkgutil import resolve_name

import pytest
import torch
from losses import networks
from losses.networks import CLASSES, STUDENT, TEACHER, batch, guided, output, pair, taught, tensors
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from kdlib import Output, RunConfig
from kdlib.distill import Distiller, TeacherOutput, create_distiller
from kdlib.methods import METHODS

# Those of detectors read what no classifier says; tests/detection has them.
CLASSIFYING = {name: line for name, line in METHODS.items() if "classification" in line.tasks}
LOSSES = [name for name, method in CLASSIFYING.items() if method.build is not None]
EVERY = [*CLASSIFYING, *(f"{name}+kd" for name in LOSSES), *(f"{name}+gate" for name in LOSSES)]
# The others learn from the labels alone.
TAUGHT = [name for name in EVERY if METHODS[name.split("+")[0]].build or name == "kd"]
of_each_loss = pytest.mark.parametrize("method", LOSSES)


def distiller(method: str, shapes=TEACHER, student=STUDENT, **fields) -> Distiller:
    torch.manual_seed(0)
    return create_distiller(RunConfig(method=method, **fields), pair(student, shapes))


def terms(method: str, student=None, teacher=None, **fields) -> dict[str, Tensor]:
    made = student or output(STUDENT), teacher or taught()
    return distiller(method, **fields)(*made, batch())


def changed(made, change):
    """An output of which each tensor is changed."""
    return Output(change(made.logits), tuple(map(change, made.stages)), change(made.embedding))


def finite(values) -> bool:
    return all(value.isfinite().all() for value in values)


@pytest.mark.parametrize("method", EVERY)
def test_gradients_reach_the_student_and_never_the_teacher_and_a_smaller_batch_will_do(method):
    student, source, made = output(STUDENT), output(TEACHER, seed=1), distiller(method)
    found = made(student, teacher := TeacherOutput(*source), batch())
    assert finite(found.values()) and all(term.dtype == torch.float32 for term in found.values())
    sum(found.values()).backward()
    assert student.logits.grad is not None and teacher.maps is teacher.maps  # made once for all
    assert all(tensor.grad is None for tensor in tensors(source))
    assert all(p.grad is not None and finite([p.grad]) for p in made.parameters())
    whole = batch()
    last = whole._replace(labels=whole.labels[:2], indices=whole.indices[:2])
    pieces = [changed(made, lambda t: t.detach()[:2]) for made in (student, source)]
    assert finite(made(pieces[0], TeacherOutput(*pieces[1]), last).values())


@pytest.mark.parametrize("method", TAUGHT)
def test_a_different_teacher_teaches_something_else(method):
    # Both are right of every image, so that a gate is open.
    right, teachers = 9 * one_hot(batch().labels, CLASSES).float(), [taught(seed=s) for s in (1, 2)]
    if "kd" not in method and "logit" not in method:
        teachers = [TeacherOutput(right + t.logits / 9, t.stages, t.embedding) for t in teachers]
    slopes = []  # a term of constant scale shows a change in its gradients alone
    for teacher in teachers:
        student, made = output(STUDENT), guided(distiller(method), teacher)
        made(student, teacher, batch())  # a memory teaches only what it has seen before
        sum(made(student, teacher, batch()).values()).backward()
        slopes.append([t.grad for t in tensors(student) if t.grad is not None])
    pairs = zip(*slopes, strict=True)
    assert any(not torch.allclose(one, two, rtol=1e-4, atol=0) for one, two in pairs)


@pytest.mark.parametrize("method", [name for name in LOSSES if not METHODS[name].fitted])
def test_a_student_like_its_teacher_has_nothing_to_learn(method):
    student = output(STUDENT)
    term = terms(method, student, TeacherOutput(*student), shapes=STUDENT)[method]
    assert term.item() == pytest.approx(0, abs=1e-4)


@of_each_loss
def test_the_own_term_teaches_a_student_of_another_width_depth_and_size(method):
    for shapes in (TEACHER, networks.OTHER_TEACHER):
        student = output(STUDENT)
        found = terms(method, student, taught(shapes), shapes=shapes)[method]
        found.backward()
        assert torch.isfinite(found)
        assert any(t.grad is not None and t.grad.abs().max() > 0 for t in tensors(student))
    turned = distiller(method, STUDENT, networks.OTHER_TEACHER)
    assert torch.isfinite(turned(output(networks.OTHER_TEACHER), taught(STUDENT), batch())[method])


@pytest.mark.parametrize("method", [*LOSSES, "kd"])
def test_it_is_computed_in_float32_whatever_the_precision_and_constant_maps_are_finite(method):
    near = {"rel": 0.05, "abs": 1e-3} if METHODS[method].fitted else {"rel": 1e-5, "abs": 1e-6}
    for dtype in (torch.float16, torch.bfloat16):
        half = output(STUDENT, dtype=dtype), taught(dtype=dtype)
        full = [changed(made, lambda tensor: tensor.detach().float()) for made in half]
        expected = terms(method, full[0], TeacherOutput(*full[1]))[method].item()
        found = terms(method, *half)[method]
        with torch.autocast("cpu", torch.bfloat16):  # layers of a method's own are not exact there
            cast = terms(method, *half)[method]
        assert found.dtype == cast.dtype == torch.float32
        assert found.item() == pytest.approx(expected, rel=1e-5, abs=1e-6)
        assert cast.item() == pytest.approx(expected, **near)
    for value, other in product((0.0, 1.0, 1e3), (0.0, 1.0, 1e3, None)):
        made, (student, teacher) = distiller(method), map(output, (STUDENT, TEACHER))
        for kept, constant in ((student, value), (teacher, other)):
            for tensor in tensors(kept) if constant is not None else ():
                torch.nn.init.constant_(tensor, constant)
        found = made(student, TeacherOutput(*teacher), batch()).values()
        sum(found).backward()
        gradients = [t.grad for t in (*tensors(student), *made.parameters()) if t.grad is not None]
        assert finite([*found, *gradients])


@of_each_loss
def test_the_gate_counts_only_what_the_teacher_gets_right(method):
    right, made = one_hot(batch().labels, CLASSES).float(), distiller(f"{method}+gate")
    wrong, (_, *features) = right.roll(1, dims=1), output(TEACHER, seed=1)
    half = TeacherOutput(torch.cat([right[:3], wrong[3:]]), *features)
    none = TeacherOutput(wrong, *features)
    per_image = distiller(method).method_loss(output(STUDENT), half, batch())
    assert per_image.shape == (networks.BATCH,) and per_image.dtype == torch.float32
    expected = made.weight * per_image[:3].sum() / networks.BATCH
    found = guided(made, half)(output(STUDENT), half, batch())[method]
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    assert guided(made, none)(output(STUDENT), none, batch())[method] == 0


@of_each_loss
def test_the_weight_scales_the_methods_term_alone_and_warms_up_where_the_source_says_so(method):
    one, three = (terms(f"{method}+kd", weight=weight) for weight in (1.0, 3.0))
    assert three[method].item() == pytest.approx(3 * one[method].item(), rel=1e-5)
    assert all(three[name] == one[name] for name in one.keys() - {method})
    made, line = distiller(method).eval(), METHODS[method]  # a moving memory would change the end
    start, half, end = (
        made(output(STUDENT), taught(), batch(), progress)[method].item()
        for progress in (0.0, line.warmup / 2, 1.0)
    )
    ramp = resolve_name(line.ramp) if isinstance(line.ramp, str) else line.ramp
    expected = (ramp(0) * end, ramp(0.5) * end) if line.warmup else (end, end)
    assert (start, half) == pytest.approx(expected, rel=0.2 if method == "crd" else 1e-4)


@pytest.mark.parametrize("method", [name for name in LOSSES if METHODS[name].self_taught])
def test_a_self_taught_method_neither_needs_nor_reads_a_teacher(method):
    made = distiller(method, shapes=None)
    assert not made.needs_teacher and distiller(f"{method}+kd").needs_teacher
    alone, beside = (made(output(STUDENT), teacher, batch()) for teacher in (None, taught()))
    assert set(alone) == {"ce", "self_ce", method} and alone == beside
    logits = made.method_loss.teach(output(STUDENT)).logits
    torch.testing.assert_close(alone["self_ce"], cross_entropy(logits, batch().labels))
    torch.manual_seed(1)
    other = create_distiller(RunConfig(method=method), pair())(output(STUDENT), None, batch())
    assert other[method].item() != pytest.approx(alone[method].item(), rel=1e-4)
