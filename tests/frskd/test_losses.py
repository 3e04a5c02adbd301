"""FRSKD's loss: what its terms are, who learns from which, features without content."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from kdlib.data.batches import Batch
from kdlib.data.image_data import IGNORED
from kdlib.distill import Distiller, TeacherOutput, create_distiller
from kdlib.errors import KdlibError
from kdlib.frskd.losses import FEATURES, RefinementLoss
from kdlib.losses.attention import ATLoss
from kdlib.losses.dct import DCTLoss
from kdlib.losses.hints import feature_mse, overhaul_per_image
from kdlib.losses.logits import counted_pixels, kd_per_image
from kdlib.losses.pair import Pair
from kdlib.models import create_model
from kdlib.models.output import Output, Shapes, output_shapes
from kdlib.runs import RunConfig

BATCH, CLASSES, SIDE = 6, 5, 32
STUDENT = Shapes(((6, 8, 8), (12, 4, 4)), 12)
REFINED = Shapes(((12, 8, 8), (24, 4, 4)), 24)  # twice the student's channels
PYRAMID = Shapes(((8, 8, 8), (8, 4, 4)), 8)  # a segmenter's stages have equally many
LABELS = torch.tensor([0, 1, 2, 3, 4, 1])
GIVEN = Batch(torch.empty(BATCH, 0), LABELS, torch.arange(BATCH))
OF_PIXELS = {"method": "frskd_pixels", "task": "segmentation"}


def output(shapes: Shapes, seed: int, *sides: int) -> Output:
    """Stages from -0.5 to 0.5 and random logits, of each pixel if ``sides`` are given."""
    stream = torch.Generator().manual_seed(seed)
    stages = tuple(torch.rand(BATCH, *s, generator=stream) - 0.5 for s in shapes.stages)
    logits = torch.randn(BATCH, CLASSES, *sides, generator=stream)
    return Output(logits, stages, stages[-1].mean((2, 3)))


def pair_of(student: Shapes = STUDENT, pixels: int | None = None) -> Pair:
    return Pair(student, STUDENT, LABELS, BATCH, 0, CLASSES, pixels)


def distiller(student: Shapes = STUDENT, pixels: int | None = None, **changes) -> Distiller:
    torch.manual_seed(0)
    return create_distiller(RunConfig(**{"method": "frskd", **changes}), pair_of(student, pixels))


@pytest.mark.parametrize(("feature", "beta", "distance"), [
    ("attention", 100.0, ATLoss("none")), ("dct", 0.5, DCTLoss("dct", "none")),
    ("fitnet", 0.5, feature_mse), ("overhaul", 0.4, overhaul_per_image),
])  # fmt: skip
def test_the_feature_term_is_a_distance_of_all_stages(feature, beta, distance):
    loss = RefinementLoss(pair_of(), alpha=0.0, feature=feature)
    student, teacher = output(STUDENT, 0), TeacherOutput(*output(REFINED, 1))
    if isinstance(distance, nn.Module):
        expected = distance(student, teacher, GIVEN)
    else:  # behind a 1 x 1 convolution, and a batch norm that gives it both signs again
        levels = zip(loss.features.connectors, student.stages, teacher.stages, strict=True)
        expected = sum(distance(one(mine), its) for one, mine, its in levels)
        layers = [type(one) for one in loss.features.connectors.modules()]
        assert layers.count(nn.Conv2d) == 2
        assert layers.count(nn.BatchNorm2d) == 2 * (feature == "overhaul")
    torch.testing.assert_close(loss(student, teacher, GIVEN), beta * expected)


def test_the_logits_term_and_those_of_pixels():
    student, teacher = output(STUDENT, 0), TeacherOutput(*output(REFINED, 1))
    found = RefinementLoss(pair_of(), beta=0.0, temperature=3.0)(student, teacher, GIVEN)
    torch.testing.assert_close(found, 2 * kd_per_image(student.logits, teacher.logits, 3.0))
    student, teacher = (output(PYRAMID, seed, 8, 8) for seed in (0, 1))
    labels = torch.randint(CLASSES, (BATCH, 8, 8))
    labels[0, :3] = IGNORED
    loss, given = distiller(PYRAMID, 8, **OF_PIXELS).method_loss, GIVEN._replace(labels=labels)
    found, counted = loss(student, TeacherOutput(*teacher), given), counted_pixels(labels)
    assert counted.sum() == (labels != IGNORED).sum() < labels.numel()
    expected = kd_per_image(student.logits, teacher.logits, 1.0, counted)
    torch.testing.assert_close(found, expected + 50 * ATLoss("none")(student, teacher, given))


def test_the_whole_loss_is_its_parts_and_its_weight_leaves_the_self_teacher_alone():
    student, one, less = output(STUDENT, 0), distiller(), distiller(weight=0.1)
    terms, weighted = one(student, None, GIVEN), less(student, None, GIVEN)
    refined = TeacherOutput(*one.method_loss.teach(student))
    torch.testing.assert_close(terms["self_ce"], functional.cross_entropy(refined.logits, LABELS))
    expected = one.method_loss(student, refined, GIVEN).mean().item()
    assert terms["frskd"].item() == pytest.approx(expected, rel=1e-4)
    assert weighted["frskd"].item() == pytest.approx(0.1 * terms["frskd"].item(), rel=1e-4)
    assert weighted["self_ce"] == terms["self_ce"] and weighted["ce"] == terms["ce"]
    # That of pixels is ramped over two thirds of the training.
    made, answer = distiller(PYRAMID, SIDE, **OF_PIXELS).eval(), output(PYRAMID, 0, SIDE, SIDE)
    given = GIVEN._replace(labels=torch.zeros(BATCH, SIDE, SIDE, dtype=torch.int64))
    shares = (0.0, 1 / 3, 2 / 3, 1.0)
    found = [made(answer, None, given, share)["frskd_pixels"].item() for share in shares]
    expected = [np.exp(-5 * (1 - t) ** 2) for t in (0, 0.5, 1, 1)]
    assert [term / found[-1] for term in found] == pytest.approx(expected, rel=1e-4)


# Method options, term -> the parts that get a gradient from it: of the student its stages and what
# is on top of them; of the method its pyramids, the classifier on them, and the layers between the
# features that are compared.
WHOLE, SELF = {"stages", "classifier"}, {"pyramids", "self-classifier"}
WHO_LEARNS = [
    ({}, "ce", WHOLE),
    ({}, "self_ce", {"stages"} | SELF),
    ({}, "frskd", WHOLE),
    ({"detach": True}, "ce", WHOLE),
    ({"detach": True}, "self_ce", SELF),
    ({"detach": True}, "frskd", WHOLE),
    ({"beta": 0.0}, "frskd", WHOLE),
    ({"alpha": 0.0}, "frskd", {"stages"}),
    ({"alpha": 0.0, "feature": "dct"}, "frskd", {"stages"}),
    ({"alpha": 0.0, "feature": "fitnet"}, "frskd", {"stages", "connectors"}),
    ({"alpha": 0.0, "feature": "overhaul"}, "frskd", {"stages", "connectors"}),
    ({"feature": "fitnet", "detach": True}, "self_ce", SELF),
    ({"alpha": 0.0, "beta": 0.0}, "frskd", set()),
]
CASES = [("frskd", *case) for case in WHO_LEARNS]
CASES += [("frskd_pixels", *case) for case in [*WHO_LEARNS[:2], ({}, "frskd_pixels", WHOLE)]]


@pytest.mark.parametrize(("method", "options", "term", "expected"), CASES)
def test_each_term_teaches_whom_it_should(method, options, term, expected):
    torch.manual_seed(0)
    images, labels, changes, pixels = torch.randn(BATCH, 3, SIDE, SIDE), LABELS, {}, None
    name, below, top = "scenes_small", ["stem", "stages"], "classifier"
    if method == "frskd_pixels":
        name, below, top = "scenes_segmenter_tiny", ["backbone", "pyramid"], "head"
        labels, changes, pixels = torch.randint(CLASSES, (BATCH, SIDE, SIDE)), OF_PIXELS, SIDE
    student = create_model(name, CLASSES)
    made = distiller(output_shapes(student, SIDE), pixels, **changes, method_options=options)
    loss = made(student(images), None, GIVEN._replace(labels=labels))[term]
    if loss.requires_grad:
        loss.backward()
    own = made.method_loss
    modules = {
        "stages": [getattr(student, part) for part in below],
        "classifier": [getattr(student, top)],
        "pyramids": [own.self_teacher.pyramids],
        "self-classifier": [own.self_teacher.classifier],
        "connectors": [getattr(own.features, "connectors", torch.nn.Identity())],
    }
    for part, inside in modules.items():
        gradients = [p.grad for module in inside for p in module.parameters()]
        # Which way a ReLU is closed is chance: some of a layer's numbers may get nothing.
        reached = any(gradient is not None and gradient.any() for gradient in gradients)
        assert reached == (part in expected), part
        assert reached or all(gradient is None for gradient in gradients), part


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_features_without_content_are_finite(feature, dtype):
    made = distiller(method_options={"feature": feature})
    for value, sides in ((v, s) for v in (0.0, 1.0, 100.0) for s in ((8, 4), (1, 1))):
        made.zero_grad()
        sizes = zip((6, 12), sides, strict=True)
        stages = [torch.full((BATCH, c, s, s), value, dtype=dtype) for c, s in sizes]
        leaves = [torch.zeros(BATCH, CLASSES, dtype=dtype), *stages]
        leaves = [leaf.requires_grad_() for leaf in leaves]
        terms = made(Output(leaves[0], tuple(stages), stages[-1].mean((2, 3))), None, GIVEN)
        sum(terms.values()).backward()
        assert all(term.isfinite() for term in terms.values())
        # A batch norm of a constant magnifies a gradient by 316, which float16 cannot hold twice.
        theirs = leaves if dtype != torch.float16 else []
        gradients = [t.grad for t in (*theirs, *made.parameters())]
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(("options", "says"), [
    ({"feature": "atention"}, "Did you mean 'attention'"), ({"alpha": -1.0}, "alpha -1.0"),
    ({"temperature": 0.0}, "temperature above 0"), ({"width": 0}, "width of the .* is 0"),
    ({"depth": 0}, "depth of the self-teacher is 0"),
])  # fmt: skip
def test_options_out_of_range_are_refused(options, says):
    with pytest.raises(KdlibError, match=says):
        RefinementLoss(pair_of(), **options)


@pytest.mark.parametrize(("method", "augmentation", "says"), [
    ("dkd", "mixup", "'dkd' reads an image's one label.*leave 'mixup' out"),
    ("crd", "sla", "one label"), ("dct+gate", "cutmix", "one label"),
    ("frskd+gate", "mixup", "one label"), ("frskd+kd", "sla", "no teacher knows rotations"),
    ("kd", "sla", "no teacher knows rotations"), ("logit_std", "sla", "no teacher knows rotat"),
    ("student", "sla", ""), ("frskd", "sla", ""), ("frskd+kd", "mixup", ""),
    ("kd", "cutmix", ""), ("at", "sla", ""),
])  # fmt: skip
def test_labels_that_a_method_cannot_read_are_refused_and_no_others(method, augmentation, says):
    with pytest.raises(KdlibError, match=says) if says else nullcontext():
        distiller(method=method, augmentation=("flip", augmentation))
