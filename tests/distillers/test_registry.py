"""The common suite: what every method of the registry must do, whatever its formula."""

import pytest
import torch
from distillers.networks import (
    BATCH,
    OTHER_TEACHER,
    STUDENT,
    TEACHER,
    batch,
    guided,
    output,
    pair,
    taught,
    tensors,
)
from torch import Tensor

from kdlib.distill import TeacherOutput, create_distiller
from kdlib.errors import KdlibError
from kdlib.methods import METHODS, parse_method
from kdlib.models.output import Output
from kdlib.runs import RunConfig

# Those of detectors read what no classifier says; tests/detection has them.
CLASSIFYING = {name: line for name, line in METHODS.items() if "classification" in line.tasks}
LOSSES = [name for name, method in CLASSIFYING.items() if method.build is not None]
EVERY = [*CLASSIFYING, *(f"{name}+kd" for name in LOSSES), *(f"{name}+gate" for name in LOSSES)]
SELF_TAUGHT = [name for name in LOSSES if METHODS[name].self_taught]
# The others learn from the labels alone.
TAUGHT = [name for name in EVERY if METHODS[name.split("+")[0]].build or name == "kd"]
# Their minimum is 0, and equal networks reach it, though there may be learned layers between.
ZERO_AT_EQUALITY = [name for name in LOSSES if not METHODS[name].fitted]


def distiller(method: str, shapes=TEACHER, student=STUDENT, **fields):
    torch.manual_seed(0)
    return create_distiller(RunConfig(method=method, **fields), pair(student, shapes))


def terms(method: str, student=None, teacher=None, **fields) -> dict[str, Tensor]:
    made = student or output(STUDENT), teacher or taught()
    return distiller(method, **fields)(*made, batch())


def slopes(method: str, teacher: TeacherOutput, shapes=TEACHER) -> list[Tensor]:
    """Gradients at the student's output: a term of constant scale shows a change in these alone.

    The batch is seen twice, since a memory teaches only what it has seen before.
    """
    student, made = output(STUDENT), guided(distiller(method, shapes), teacher)
    made(student, teacher, batch())
    sum(made(student, teacher, batch()).values()).backward()
    return [t.grad for t in tensors(student) if t.grad is not None]


@pytest.mark.parametrize("method", EVERY)
def test_gradients_reach_the_student_and_never_the_teacher(method):
    student, source = output(STUDENT), output(TEACHER, seed=1)
    made = distiller(method)
    found = made(student, TeacherOutput(*source), batch())
    assert all(torch.isfinite(term) and term.dtype == torch.float32 for term in found.values())
    sum(found.values()).backward()
    assert student.logits.grad is not None
    assert all(tensor.grad is None for tensor in tensors(source))
    assert all(parameter.grad is not None for parameter in made.parameters())
    assert all(parameter.grad.isfinite().all() for parameter in made.parameters())


@pytest.mark.parametrize("method", LOSSES)
def test_the_methods_own_term_teaches_the_student(method):
    student = output(STUDENT)
    terms(method, student)[method].backward()
    gradients = [tensor.grad for tensor in tensors(student) if tensor.grad is not None]
    assert gradients and any(gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize("method", TAUGHT)
def test_a_different_teacher_teaches_something_else(method):
    # Both are right of every image, so that a gate is open.
    right = 9 * torch.nn.functional.one_hot(batch().labels, 5).float()
    teachers = [taught(seed=seed) for seed in (1, 2)]
    if "kd" not in method and "logit" not in method:
        teachers = [TeacherOutput(right + t.logits / 9, t.stages, t.embedding) for t in teachers]
    pairs = zip(*(slopes(method, teacher) for teacher in teachers), strict=True)
    assert any(not torch.allclose(one, two, rtol=1e-4, atol=0) for one, two in pairs)


@pytest.mark.parametrize("method", ZERO_AT_EQUALITY)
def test_a_student_like_its_teacher_has_nothing_to_learn(method):
    student = output(STUDENT)
    term = terms(method, student, TeacherOutput(*student), shapes=STUDENT)[method]
    assert term.item() == pytest.approx(0, abs=1e-4)


@pytest.mark.parametrize("method", LOSSES)
def test_networks_may_differ_in_width_depth_and_size(method):
    student = output(STUDENT)
    found = terms(method, student, taught(OTHER_TEACHER), shapes=OTHER_TEACHER)[method]
    found.backward()
    assert torch.isfinite(found)
    assert any(t.grad is not None and t.grad.abs().max() > 0 for t in tensors(student))
    deeper, fewer = output(OTHER_TEACHER), taught(STUDENT)
    turned = distiller(method, STUDENT, OTHER_TEACHER)(deeper, fewer, batch())[method]
    assert torch.isfinite(turned)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", LOSSES)
def test_half_precision_is_close_to_full(method, dtype):
    half = output(STUDENT, dtype=dtype), taught(dtype=dtype)
    full = Output(*_float(half[0])), TeacherOutput(*_float(half[1]))
    found, expected = (terms(method, *made)[method] for made in (half, full))
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(expected.item(), rel=0.05, abs=1e-3)


def _float(made):
    stages = tuple(stage.detach().float() for stage in made.stages)
    return made.logits.detach().float(), stages, made.embedding.detach().float()


@pytest.mark.parametrize("method", LOSSES)
def test_autocast_is_close_to_full_precision(method):
    full = terms(method)[method]
    with torch.autocast("cpu", torch.bfloat16):
        found = terms(method)[method]
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(full.item(), rel=0.05, abs=1e-3)


@pytest.mark.parametrize("value", [0.0, 1.0, 1e3])
@pytest.mark.parametrize("method", LOSSES)
def test_constant_maps_have_a_finite_loss_and_gradient(method, value):
    def flat(shapes):
        made = output(shapes)
        stages = [torch.full_like(stage, value) for stage in made.stages]
        leaves = [*stages, torch.full_like(made.embedding, value), torch.zeros_like(made.logits)]
        leaves = [leaf.detach().requires_grad_() for leaf in leaves]
        return Output(leaves[-1], tuple(leaves[:-2]), leaves[-2])

    made, student = distiller(method), flat(STUDENT)
    found = made(student, TeacherOutput(*flat(TEACHER)), batch())
    sum(found.values()).backward()
    assert all(torch.isfinite(term) for term in found.values())
    gradients = [t.grad for t in (*tensors(student), *made.parameters()) if t.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("method", LOSSES)
def test_the_last_batch_of_an_epoch_may_be_smaller(method):
    def first(tensor):
        return tensor.detach()[:2]

    def few(made):
        stages = tuple(first(stage) for stage in made.stages)
        return first(made.logits), stages, first(made.embedding)

    whole = batch()
    part = whole._replace(labels=whole.labels[:2], indices=whole.indices[:2])
    student, teacher = Output(*few(output(STUDENT))), TeacherOutput(*few(taught()))
    assert torch.isfinite(distiller(method)(student, teacher, part)[method])


@pytest.mark.parametrize("method", LOSSES)
def test_the_loss_is_one_number_an_image(method):
    loss = distiller(method).method_loss(output(STUDENT), taught(), batch())
    assert loss.shape == (BATCH,) and loss.dtype == torch.float32


@pytest.mark.parametrize("method", LOSSES)
def test_the_gate_counts_only_what_the_teacher_gets_right(method):
    right = torch.nn.functional.one_hot(batch().labels, 5).float()
    some = torch.cat([right[:3], right[3:].roll(1, dims=1)])
    as_taught = taught()
    made = distiller(f"{method}+gate")
    half, none = (
        TeacherOutput(logits, as_taught.stages, as_taught.embedding)
        for logits in (some, right.roll(1, dims=1))
    )
    per_image = distiller(method).method_loss(output(STUDENT), half, batch())
    expected = made.weight * per_image[:3].sum() / BATCH
    found = guided(made, half)(output(STUDENT), half, batch())[method]
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)
    assert guided(made, none)(output(STUDENT), none, batch())[method] == 0


@pytest.mark.parametrize("method", LOSSES)
def test_the_weight_scales_the_methods_term_alone(method):
    one, three = (terms(f"{method}+kd", weight=weight) for weight in (1.0, 3.0))
    assert three[method].item() == pytest.approx(3 * one[method].item(), rel=1e-5)
    assert three["kd"] == one["kd"] and three["ce"] == one["ce"]


@pytest.mark.parametrize("method", LOSSES)
def test_the_weight_warms_up_where_the_source_says_so(method):
    made, warmup = distiller(method), METHODS[method].warmup
    made.eval()  # a memory that moves would change the second value
    start, half, end = (
        made(output(STUDENT), taught(), batch(), progress)[method].item()
        for progress in (0.0, warmup / 2, 1.0)
    )
    ramp = METHODS[method].ramp
    expected = (ramp(0) * end, ramp(0.5) * end) if warmup else (end, end)
    assert (start, half) == pytest.approx(expected, rel=0.2 if method == "crd" else 1e-4)


@pytest.mark.parametrize("method", SELF_TAUGHT)
def test_a_self_taught_method_neither_needs_nor_reads_a_teacher(method):
    made = distiller(method, shapes=None)
    assert not made.needs_teacher and distiller(f"{method}+kd").needs_teacher
    alone, beside = (made(output(STUDENT), teacher, batch()) for teacher in (None, taught()))
    assert set(alone) == {"ce", "self_ce", method} and alone == beside


@pytest.mark.parametrize("method", SELF_TAUGHT)
def test_another_self_teacher_teaches_something_else(method):
    losses = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        made = create_distiller(RunConfig(method=method), pair())
        losses.append(made(output(STUDENT), None, batch())[method].item())
    assert losses[0] != pytest.approx(losses[1], rel=1e-4)


def test_cross_entropy_steps_back_when_logits_are_distilled():
    plain, with_kd = terms("dct"), terms("dct+kd")
    assert with_kd["ce"].item() == pytest.approx(0.1 * plain["ce"].item(), rel=1e-5)
    assert set(with_kd) == {"ce", "dct", "kd"}
    assert set(terms("kd")) == {"ce", "kd"} and set(terms("student")) == {"ce"}
    standardised = terms("logit_std")["ce"].item()
    assert standardised == pytest.approx(0.1 * plain["ce"].item(), rel=1e-5)


def test_the_twin_has_the_loss_of_the_dct():
    assert terms("dct")["dct"].item() == pytest.approx(
        terms("parseval_twin")["parseval_twin"].item(), rel=1e-5
    )


def test_a_teacher_computes_its_maps_once():
    teacher = taught()
    assert teacher.maps is teacher.maps


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("dtc", "Unknown method 'dtc'.*Did you mean 'dct'"),
        ("dct+kdd", "Unknown method modifier 'kdd'.*gate, kd"),
        ("student+kd", "takes no modifier"),
        ("kd+gate", "takes no modifier"),
        ("srm+gate", r"takes \+kd alone"),
        ("srm_init+kd", "takes no modifier"),
    ],
)
def test_a_method_string_that_means_nothing_is_refused(method, message):
    with pytest.raises(KdlibError, match=message):
        parse_method(method)


@pytest.mark.parametrize("method", LOSSES)
def test_an_unknown_option_of_a_method_is_refused(method):
    with pytest.raises(KdlibError, match="transfrom"):
        distiller(method, method_options={"transfrom": "dct"})


@pytest.mark.parametrize(
    ("method", "option", "value"),
    [
        ("rkd", "angle_weight", "50"),
        ("crd", "negatives", 1.5),
        ("frskd", "width", None),
        ("frskd", "detach", "no"),
        ("srm", "mu", "big"),
        ("srm_logits", "dictionary_steps", 3),
    ],
)
def test_an_option_of_another_kind_than_its_default_is_refused(method, option, value):
    with pytest.raises(KdlibError, match=f"Option '{option}' .* give a value like its default"):
        distiller(method, method_options={option: value})


def test_a_fitted_method_asks_for_its_pair():
    with pytest.raises(KdlibError, match="'vid' is made for two networks"):
        create_distiller(RunConfig(method="vid"))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_says_where_it_comes_from_and_what_it_computes(name):
    assert METHODS[name].source and METHODS[name].formula
