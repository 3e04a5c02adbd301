"""The losses that others import: lists of features, what is refused, compilers and transforms."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from losses.networks import output

import kdlib
from kdlib import ATLoss, DCTLoss, KdlibError, KDLoss, at_loss, dct_loss, kd_loss
from kdlib.distill import TeacherOutput
from kdlib.losses.attention import aligned, at_loss_per_image, attention_maps, check_features
from kdlib.losses.dct import PRESETS, spectral_distance
from kdlib.models.output import Shapes

STUDENT = Shapes(((4, 9, 9), (6, 5, 5)), 6)
TEACHER = Shapes(((3, 18, 18), (7, 9, 9), (5, 5, 5)), 5)
LABELS = torch.tensor([0, 3, 1, 1, 2, 4])


def dkd(student, teacher):
    return kdlib.dkd_loss(student, teacher, LABELS)


def dct_of(preset):
    return lambda student, teacher: dct_loss(student, teacher, PRESETS[preset])


OF_STAGES = {
    "at": at_loss, "ATLoss": ATLoss(), "weighted": ATLoss(level_weights=[1, 2]),
    "sp": kdlib.sp_loss, **{name: dct_of(name) for name in PRESETS}, "DCTLoss": DCTLoss("dct_low"),
}  # fmt: skip
OF_LOGITS = {"kd": kd_loss, "KDLoss": KDLoss(2.0), "dkd": dkd}
OF_EMBEDDINGS = {"pkt": kdlib.pkt_loss, "rkd": kdlib.rkd_loss}
COMPILED = {"DCTLoss": "aot_eager"}
EVERY = {**OF_STAGES, **OF_LOGITS, **OF_EMBEDDINGS}


def parts(name, seed=0):
    """What a loss compares of a student and a teacher: tensors, or lists of them."""
    both = output(STUDENT, seed), output(TEACHER, seed + 1)
    if name in OF_STAGES:
        return tuple([stage.detach() for stage in made.stages] for made in both)
    part = "logits" if name in OF_LOGITS else "embedding"
    return tuple(getattr(made, part).detach() for made in both)


def of_one(name, student, teacher):
    """The loss as a function of one tensor of the student's, and where it is."""
    if name in OF_STAGES:
        return (lambda last: EVERY[name]([student[0], last], teacher)), student[1]
    return (lambda logits: EVERY[name](logits, teacher)), student


@pytest.mark.parametrize("name", EVERY)
def test_functional_gradients_are_autograd_s(name):
    loss, one = of_one(name, *parts(name))
    found, value = torch.func.grad_and_value(loss)(one)
    loss(one.requires_grad_()).backward()
    assert value.shape == () and torch.equal(found, one.grad)


@pytest.mark.parametrize("name", EVERY)
def test_one_graph_without_a_warning_is_the_same_loss(name, recwarn):
    torch._dynamo.reset()
    loss, one = of_one(name, *parts(name))
    compiled = torch.compile(loss, fullgraph=True, backend=COMPILED.get(name, "eager"))
    found, expected = compiled(one.requires_grad_()), loss(one)
    slopes = [torch.autograd.grad(value, one)[0] for value in (found, expected)]
    assert torch.equal(found, expected) and torch.equal(*slopes)
    assert not [warning for warning in recwarn if "lru_cache" in str(warning.message)]


@pytest.mark.parametrize("name", EVERY)
def test_autocast_is_close_to_full_precision(name):
    student, teacher = parts(name)
    expected = EVERY[name](student, teacher)
    with torch.autocast("cpu", torch.bfloat16):
        found = EVERY[name](student, teacher)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.02, atol=1e-4)


@pytest.mark.parametrize("name", ["at", "dct"])
def test_gradients_of_each_image_by_vmap(name):
    (student, teacher), loss = parts(name), EVERY[name]

    def alone(features, other):
        return loss([features[None]], [other[None]])

    found = torch.func.vmap(torch.func.grad(alone))(student[1], teacher[2])
    whole = torch.func.grad(lambda features: loss([features], [teacher[2]]))(student[1])
    torch.testing.assert_close(found / len(found), whole)


@pytest.mark.parametrize(
    ("module", "function", "of_maps"),
    [(ATLoss, at_loss, at_loss_per_image), (DCTLoss, dct_loss, spectral_distance)],
)
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
    assert all(stage.grad is None for stage in teacher.stages)


def test_one_map_is_a_list_of_one_and_of_more_stages_the_deepest_count():
    student, teacher = parts("dct")
    alone = dct_loss(student[1], teacher[2])
    assert torch.equal(alone, dct_loss(student[1:], teacher))
    assert torch.equal(alone, dct_loss(student, teacher[2:]))


def maps(*shapes):
    return [torch.rand(shape) for shape in shapes]


SWIN = maps((2, 28, 28, 64), (2, 14, 14, 128), (2, 7, 7, 256))
RESNET = maps((2, 64, 28, 28), (2, 128, 14, 14), (2, 256, 7, 7))


@pytest.mark.parametrize(
    ("student", "teacher", "says"),
    [
        (SWIN, RESNET, r"student look like \(B, H, W, C\): \(2, 28, 28, 64\), .*permute"),
        (RESNET, SWIN, "teacher look like"),
        (SWIN[-1], RESNET[-1], r"look like \(B, H, W, C\)"),
        (RESNET[-1], SWIN[-1], "look like"),
        (SWIN[-1], SWIN[-2], "look like"),
        (RESNET, RESNET[::-1], "opposite orders"),
        (RESNET, maps((3, 256, 7, 7)), "student has 2 images and the teacher 3"),
        (maps((2, 49, 256)), RESNET, r"student has the shape \(2, 49, 256\).*tokens"),
        (RESNET, maps((2, 7, 7)), r"\(B, C, H, W\)"),
        ([], RESNET, "student's features are .*one per stage"),
        (RESNET, {"layer4": RESNET[-1]}, "teacher's features are .*one per stage"),
    ],
)
def test_features_that_would_be_mistaken_are_refused(student, teacher, says):
    for loss in (at_loss, dct_loss, DCTLoss()):
        with pytest.raises(KdlibError, match=says):
            loss(student, teacher)


@pytest.mark.parametrize(
    ("loss", "says"),
    [(kd_loss, r"\(4, 5\).*\(4, 1\)"), (dkd, r"\(4, 5\)"), (kdlib.pkt_loss, "4 images.*1"),
     (kdlib.rkd_loss, "images"), (kdlib.sp_loss, "images")],
)  # fmt: skip
def test_what_arithmetic_would_broadcast_is_refused(loss, says):
    of_logits = loss in (kd_loss, dkd)
    with pytest.raises(KdlibError, match=says):
        loss(torch.rand(4, 5), torch.rand(4, 1) if of_logits else torch.rand(1, 5))


def of_strides(height, width, channels, strides):
    """Shapes of a network's stages, as its strides make them of an image."""
    pairs = zip(channels, strides, strict=True)
    return [torch.empty(1, c, -(-height // s), -(-width // s)) for c, s in pairs]


STAGES = st.lists(
    st.tuples(st.integers(2, 40), st.sampled_from([1, 2, 4, 8])), min_size=1, max_size=4
).map(lambda pairs: ([c for c, _ in pairs], sorted(s for _, s in pairs)))


@given(st.integers(16, 70), st.integers(16, 70), STAGES, STAGES)
def test_features_of_two_networks_are_never_refused(height, width, student, teacher):
    check_features(of_strides(height, width, *student), of_strides(height, width, *teacher))


@given(st.integers(16, 70), st.integers(16, 70), STAGES, st.booleans())
def test_channels_last_is_always_seen_where_it_shows(height, width, stages, first):
    channels, strides = sorted(stages[0]), stages[1]
    right = of_strides(height, width, channels, strides)
    turned = [stage.permute(0, 2, 3, 1) for stage in right]
    if len(set(channels)) == 1 or strides[0] == strides[-1]:
        return  # nothing grows where something falls
    with pytest.raises(KdlibError, match="look like"):
        check_features(*((turned, right) if first else (right, turned)))
