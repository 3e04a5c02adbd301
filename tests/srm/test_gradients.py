"""Which parameters learn from which term; and what is degenerate stays finite."""

import pytest
import torch
from srm.networks import batch, distiller, frozen, network, pair_of

from kdlib.distill import TeacherOutput
from kdlib.models.output import Output
from kdlib.srm.losses import SparseBlock, image_loss, pixel_loss

# Term -> the groups of parameters that it reaches; all others get no gradient at all.
REACHED = {
    ("srm_dictionary", "srm_dictionary"): {"dictionaries"},
    ("srm_init", "global"): {"features", "student's blocks"},
    ("srm_init", "local"): {"features", "student's blocks"},
    ("srm", "ce"): {"features", "classifier"},
    ("srm+kd", "ce"): {"features", "classifier"},
    ("srm+kd", "kd"): {"features", "classifier"},
}


def groups(student, teacher, loss):
    blocks = getattr(loss, "students", None)
    learned = getattr(loss, "blocks", None)
    return {
        "features": [*student.stem.parameters(), *student.stages.parameters()],
        "classifier": list(student.classifier.parameters()),
        "student's blocks": list(blocks.parameters()) if blocks else [],
        "dictionaries": list(learned.parameters()) if learned else [],
        "teacher's blocks": list(loss.teachers.parameters()) if blocks else [],
        "teacher": list(teacher.parameters()),
    }


@pytest.mark.parametrize(("method", "term"), REACHED)
def test_a_term_reaches_exactly_these_parameters(method, term):
    student, teacher = network("scenes_small", 0), frozen()
    made = distiller(method, pair_of(student, teacher), sparsity=0.2)
    answer, taught = student(batch().images), teacher(batch().images)
    if method == "srm_init":
        value = made.method_loss.terms(answer, taught)[term].mean()
    else:
        value = made(taught if method == "srm_dictionary" else answer, taught, batch())[term]
    value.backward()
    found = groups(student, teacher, made.method_loss)
    reached = {
        name
        for name, parameters in found.items()
        if any(p.grad is not None and p.grad.abs().max() > 0 for p in parameters)
    }
    assert reached == REACHED[method, term]
    for name in reached:
        assert all(p.grad is not None for p in found[name]), name


def test_the_terms_are_those_that_are_logged():
    student, teacher = network("scenes_small", 0), frozen()
    pair, seen = pair_of(student, teacher), batch()
    answer, taught = student(seen.images), teacher(seen.images)
    names = {
        method: set(distiller(method, pair)(answer, taught, seen))
        for method in ("srm_dictionary", "srm_init", "srm", "srm+kd")
    }
    assert names == {
        "srm_dictionary": {"srm_dictionary"}, "srm_init": {"srm_init"}, "srm": {"ce"},
        "srm+kd": {"ce", "kd"},
    }  # fmt: skip


FEATURES = {
    "zeros": torch.zeros(2, 3, 4, 4),
    "constant": torch.full((2, 3, 4, 4), 5.0),
    "huge": 3e4 * torch.rand(2, 3, 4, 4),
    "negative": -3e4 * torch.rand(2, 3, 4, 4),
    "one pixel": torch.rand(2, 3, 1, 1),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("atoms", "kept"), [(6, 2), (6, 1), (6, 6), (1, 1)])
@pytest.mark.parametrize("name", FEATURES)
def test_what_is_degenerate_stays_finite(name, atoms, kept, dtype):
    torch.manual_seed(0)
    teacher, student = SparseBlock(3, atoms, kept), SparseBlock(3, atoms)
    features = FEATURES[name].clone().to(dtype).requires_grad_()
    codes = teacher(features.detach()).detach()
    logits = student.logits(features)
    losses = [
        teacher.errors(features),
        image_loss(logits.sigmoid(), codes.mean((1, 2))),
        pixel_loss(logits, codes.argmax(-1)),
    ]
    for loss in losses:
        assert loss.dtype == torch.float32 and loss.isfinite().all()
    torch.stack(losses).sum().backward()
    for tensor in (features, *teacher.parameters(), *student.parameters()):
        assert tensor.grad.isfinite().all()


def test_atoms_that_are_equal_or_dead_do_no_harm():
    block = SparseBlock(3, 6, 2)
    with torch.no_grad():
        block.atoms[:, 1] = block.atoms[:, 0]
        block.atoms[:, 5] = -100.0
    features = torch.rand(2, 3, 4, 4)
    assert not block(features)[..., 5].any()
    block.errors(features).sum().backward()
    assert block.atoms.grad.isfinite().all() and not block.atoms.grad[:, 5].any()


def test_a_certain_student_has_a_bounded_loss():
    certain = torch.tensor([[[[1.0, 0.0]]]], requires_grad=True)
    loss = image_loss(certain, torch.tensor([[0.0, 1.0]]))
    loss.sum().backward()
    assert loss.item() < 20 and certain.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close_to_full(dtype):
    student, teacher = network("scenes_small", 0), frozen()
    pair, seen = pair_of(student, teacher), batch()
    full = Output(*student(seen.images)), teacher(seen.images)
    half = (Output(*_as(dtype, full[0])), TeacherOutput(*_as(dtype, full[1])))
    for method in ("srm_dictionary", "srm_init"):
        one, other = (distiller(method, pair)(*made, seen)[method] for made in (full, half))
        assert other.dtype == torch.float32
        assert other.item() == pytest.approx(one.item(), rel=0.05)


def _as(dtype, made):
    stages = tuple(stage.detach().to(dtype) for stage in made.stages)
    return made.logits.detach().to(dtype), stages, made.embedding.detach().to(dtype)
