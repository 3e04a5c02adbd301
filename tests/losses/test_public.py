"""The losses that others import: compilers and transforms, modules and functions."""

import pytest
import torch
from losses.networks import output

import kdlib
from kdlib import ATLoss, DCTLoss, KDLoss, at_loss, dct_loss, kd_loss
from kdlib.distill import TeacherOutput
from kdlib.losses.attention import aligned, at_loss_per_image, attention_maps
from kdlib.losses.dct import PRESETS, spectral_distance
from kdlib.models.output import Shapes

STUDENT = Shapes(((4, 9, 9), (6, 5, 5)), 6)
TEACHER = Shapes(((3, 18, 18), (7, 9, 9), (5, 5, 5)), 5)
LABELS = torch.tensor([0, 3, 1, 1, 2, 4])


def dkd(student, teacher):
    return kdlib.dkd_loss(student, teacher, LABELS)


def presets(student, teacher):
    names = ("release_a", "newl2", "dct_l1", "parseval_twin")
    return sum(dct_loss(student, teacher, PRESETS[name]) for name in names)


OF_STAGES = {
    "at": at_loss, "weighted": ATLoss(level_weights=[1, 2]), "sp": kdlib.sp_loss,
    "dct": dct_loss, "presets": presets, "DCTLoss": DCTLoss("dct_low"),
}  # fmt: skip
OF_LOGITS = {"kd": kd_loss, "KDLoss": KDLoss(2.0), "dkd": dkd}
EVERY = {**OF_STAGES, **OF_LOGITS, "pkt": kdlib.pkt_loss, "rkd": kdlib.rkd_loss}


def parts(name):
    """What a loss compares of a student and a teacher: tensors, or lists of them."""
    both = output(STUDENT), output(TEACHER, 1)
    if name in OF_STAGES:
        return tuple([stage.detach() for stage in made.stages] for made in both)
    part = "logits" if name in OF_LOGITS else "embedding"
    return tuple(getattr(made, part).detach() for made in both)


@pytest.mark.parametrize("name", EVERY)
def test_gradients_are_the_same_by_autograd_functional_and_compiled_in_one_graph(name, recwarn):
    student, teacher = parts(name)
    one = student[1] if name in OF_STAGES else student

    def loss(part):
        return EVERY[name]([student[0], part] if name in OF_STAGES else part, teacher)

    found, value = torch.func.grad_and_value(loss)(one)
    expected = loss(one.requires_grad_())
    (slope,) = torch.autograd.grad(expected, one)
    assert value.shape == () and torch.equal(found, slope)
    torch._dynamo.reset()
    backend = "aot_eager" if name == "DCTLoss" else "eager"
    compiled = torch.compile(loss, fullgraph=True, backend=backend)(one)
    assert torch.equal(compiled, expected)
    assert torch.equal(torch.autograd.grad(compiled, one)[0], slope)
    assert not [warning for warning in recwarn if "lru_cache" in str(warning.message)]


@pytest.mark.parametrize("name", EVERY)
def test_no_gradient_reaches_a_teacher(name):
    student, teacher = parts(name)
    mine, theirs = ([part] if torch.is_tensor(part) else part for part in (student, teacher))
    for part in (*mine, *theirs):
        part.requires_grad_()
    EVERY[name](student, teacher).backward()
    assert mine[-1].grad.any()
    assert not any(part.grad is not None and part.grad.any() for part in theirs)


@pytest.mark.parametrize("name", ["at", "dct"])
def test_gradients_of_each_image_by_vmap(name):
    (student, teacher), loss = parts(name), EVERY[name]

    def alone(features, other):
        return loss([features[None]], [other[None]])

    found = torch.func.vmap(torch.func.grad(alone))(student[1], teacher[2])
    whole = torch.func.grad(lambda features: loss([features], [teacher[2]]))(student[1])
    torch.testing.assert_close(found / len(found), whole)


@pytest.mark.parametrize(("module", "function", "of_maps"), [
    (ATLoss, at_loss, at_loss_per_image), (DCTLoss, dct_loss, spectral_distance),
])  # fmt: skip
def test_module_and_function_sum_stages_and_average_images(module, function, of_maps):
    student, teacher = output(STUDENT), output(TEACHER, 1)
    pairs = aligned(attention_maps(student.stages), attention_maps(teacher.stages))
    per_image = sum(of_maps(*pair) for pair in pairs)
    mean = module()(list(student.stages), list(teacher.stages))
    torch.testing.assert_close(mean, per_image.mean())
    assert torch.equal(mean, function(student.stages, teacher.stages))
    found = module(reduction="none")(student, TeacherOutput(*teacher), None)
    assert torch.equal(found, per_image)
    # A gate multiplies images: those it closes must give exactly no gradient.
    (found * torch.tensor([1, 0, 1, 0, 0, 0])).mean().backward()
    assert student.stages[0].grad[0].any() and not student.stages[0].grad[1].any()


def test_one_map_is_a_list_of_one_and_of_more_stages_the_deepest_count():
    student, teacher = parts("dct")
    alone = dct_loss(student[1], teacher[2])
    assert torch.equal(alone, dct_loss(student[1:], teacher))
    assert torch.equal(alone, dct_loss(student, teacher[2:]))
