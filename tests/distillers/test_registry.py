"""Every method of the registry: wired to its teacher, gated, weighted, and refused when wrong."""

import pytest
import torch
from torch import Tensor

from kdlib.distillers import METHODS, create_distiller, parse_method
from kdlib.distillers.base import TeacherOutput
from kdlib.errors import KdlibError
from kdlib.models.output import Output
from kdlib.runs import RunConfig

ATTENTION = [name for name, method in METHODS.items() if method.build is not None]
EVERY = [
    *METHODS,
    *(f"{name}+kd" for name in ATTENTION),
    *(f"{name}+gate" for name in ATTENTION),
]


def outputs(channels: int = 6, seed: int = 0, requires_grad: bool = False) -> Output:
    generator = torch.Generator().manual_seed(seed)
    shapes = ((channels, 8, 8), (2 * channels, 4, 4))
    stages = [torch.rand(4, *shape, generator=generator) for shape in shapes]
    logits = torch.randn(4, 5, generator=generator)
    for tensor in (*stages, logits):
        tensor.requires_grad_(requires_grad)
    return Output(logits, tuple(stages), stages[-1].mean((2, 3)))


def taught(**changes) -> TeacherOutput:
    return TeacherOutput(*outputs(channels=9, seed=1, **changes))


TARGETS = torch.tensor([0, 1, 2, 3])


def terms(method: str, student=None, teacher=None, **fields) -> dict[str, Tensor]:
    distiller = create_distiller(RunConfig(method=method, **fields))
    return distiller(student or outputs(), teacher or taught(), TARGETS)


@pytest.mark.parametrize("method", EVERY)
def test_terms_are_named_finite_and_depend_on_the_student_alone(method):
    student, teacher = outputs(requires_grad=True), taught(requires_grad=True)
    found = terms(method, student, teacher)
    assert all(torch.isfinite(term) for term in found.values())
    sum(found.values()).backward()
    assert student.logits.grad is not None
    assert all(stage.grad is None for stage in teacher.stages)
    assert teacher.logits.grad is None


def slopes(method: str, teacher: TeacherOutput) -> list[Tensor]:
    """Gradients at the student's outputs: levels of equal scale have a value that is constant."""
    student = outputs(requires_grad=True)
    sum(terms(method, student, teacher).values()).backward()
    return [t.grad for t in (student.logits, *student.stages) if t.grad is not None]


@pytest.mark.parametrize("method", [m for m in EVERY if m != "student"])
def test_a_different_teacher_teaches_something_else(method):
    other = TeacherOutput(*outputs(channels=9, seed=2))
    agree = torch.nn.functional.one_hot(TARGETS, 5).float() * 9
    mine, theirs = (TeacherOutput(agree, t.stages, t.embedding) for t in (taught(), other))
    if "kd" in method:
        mine, theirs = taught(), other
    pairs = zip(slopes(method, mine), slopes(method, theirs), strict=True)
    assert any(not torch.allclose(one, two) for one, two in pairs)


@pytest.mark.parametrize("method", ATTENTION)
def test_the_gate_counts_only_what_the_teacher_gets_right(method):
    logits = torch.nn.functional.one_hot(torch.tensor([0, 1, 4, 4]), 5).float()
    teacher = TeacherOutput(logits, taught().stages, taught().embedding)
    wrong = TeacherOutput(logits.roll(1, dims=1), teacher.stages, teacher.embedding)
    gated, open_ = (terms(name, teacher=teacher)[method] for name in (f"{method}+gate", method))
    assert 0 < gated < open_
    assert terms(f"{method}+gate", teacher=wrong)[method] == 0


@pytest.mark.parametrize("method", ATTENTION)
def test_the_weight_scales_the_methods_term_alone(method):
    one, three = (terms(f"{method}+kd", weight=weight) for weight in (1.0, 3.0))
    assert three[method] == pytest.approx(3 * one[method].item(), rel=1e-5)
    assert three["kd"] == one["kd"] and three["ce"] == one["ce"]


def test_cross_entropy_steps_back_when_logits_are_distilled():
    plain, with_kd = terms("dct"), terms("dct+kd")
    assert with_kd["ce"] == pytest.approx(0.1 * plain["ce"].item(), rel=1e-5)
    assert set(with_kd) == {"ce", "dct", "kd"}
    assert set(terms("kd")) == {"ce", "kd"} and set(terms("student")) == {"ce"}


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
    ],
)
def test_a_method_string_that_means_nothing_is_refused(method, message):
    with pytest.raises(KdlibError, match=message):
        parse_method(method)


def test_an_unknown_option_of_a_method_is_refused():
    with pytest.raises(KdlibError, match="transform"):
        create_distiller(RunConfig(method="dct_options", method_options={"transfrom": "dct"}))
