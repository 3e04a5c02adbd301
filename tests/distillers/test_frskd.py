"""FRSKD: its formula in numpy, who learns from which term, features without content."""

import numpy as np
import pytest
import torch
from distillers.networks import BATCH, CLASSES, LABELS, STUDENT, batch, output, pair, taught
from losses.reference import at_distance
from losses.test_overhaul import in_numpy as overhaul_in_numpy
from scipy.fft import dctn
from scipy.special import log_softmax

from kdlib.data.batches import Batch, Mixed
from kdlib.distill import TeacherOutput, create_distiller, label_loss
from kdlib.errors import KdlibError
from kdlib.frskd.losses import FEATURES, RefinementLoss
from kdlib.losses.pair import Pair
from kdlib.models import create_model
from kdlib.models.cost import output_shapes
from kdlib.models.output import Output, Shapes
from kdlib.runs import RunConfig

REFINED = Shapes(((12, 8, 8), (24, 4, 4)), 24)  # twice the student's channels


def made(**options) -> RefinementLoss:
    torch.manual_seed(0)
    return RefinementLoss(pair(), **options)


def in_numpy(student: Output, teacher: TeacherOutput):
    return ([stage.detach().numpy() for stage in made_of.stages] for made_of in (student, teacher))


def test_the_logits_term_in_numpy():
    student, teacher = output(STUDENT), taught(REFINED)
    found = made(beta=0.0, temperature=3.0)(student, teacher, batch())
    p, q = (log_softmax(o.logits.detach().numpy() / 3, axis=1) for o in (student, teacher))
    expected = 2 * 9 * (np.exp(q) * (q - p)).sum(1)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-4)


def test_the_attention_term_in_numpy():
    student, teacher = output(STUDENT), taught(REFINED)
    found = made(alpha=0.0)(student, teacher, batch()).detach().numpy()
    levels = zip(*in_numpy(student, teacher), strict=True)
    pairs = [list(zip(mine, theirs, strict=True)) for mine, theirs in levels]
    expected = 100 * sum(np.array([at_distance(*one) for one in level]) for level in pairs)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_dct_term_by_scipy():
    student, teacher = output(STUDENT), taught(REFINED)
    found = made(alpha=0.0, feature="dct")(student, teacher, batch()).detach().numpy()

    def spectrum(features):
        values = dctn((features**2).mean(1), axes=(1, 2), norm="ortho")
        values[:, 0, 0] = 0
        return values / np.linalg.norm(values, axis=(1, 2), keepdims=True)

    levels = zip(*in_numpy(student, teacher), strict=True)
    apart = [np.linalg.norm(spectrum(m) - spectrum(t), axis=(1, 2)) for m, t in levels]
    np.testing.assert_allclose(found, FEATURES["dct"][1] * sum(apart), rtol=1e-4)


def test_the_fitnet_term_in_numpy():
    student, teacher = output(STUDENT), taught(REFINED)
    loss = made(alpha=0.0, beta=1.0, feature="fitnet")
    found = loss(student, teacher, batch()).detach().numpy()
    expected = np.zeros(BATCH)
    connectors = loss.features.connectors
    for one, mine, theirs in zip(connectors, *in_numpy(student, teacher), strict=True):
        weight, bias = one.weight.detach().numpy()[:, :, 0, 0], one.bias.detach().numpy()
        turned = np.einsum("oc,bchw->bohw", weight, mine) + bias[None, :, None, None]
        expected += ((turned - theirs) ** 2).mean((1, 2, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_the_overhaul_term_in_numpy():
    student, shifted = output(STUDENT), taught(REFINED)
    teacher = TeacherOutput(
        shifted.logits, tuple(s - 0.5 for s in shifted.stages), shifted.embedding
    )
    loss = made(alpha=0.0, beta=1.0, feature="overhaul")
    found = loss(student, teacher, batch()).detach().numpy()
    expected = np.zeros(BATCH)
    connectors = loss.features.connectors
    for one, mine, theirs in zip(connectors, *in_numpy(student, teacher), strict=True):
        weight = one[0].weight.detach().numpy()[:, :, 0, 0]
        turned = np.einsum("oc,bchw->bohw", weight, mine)
        mean, deviation = turned.mean((0, 2, 3)), np.sqrt(turned.var((0, 2, 3)) + one[1].eps)
        turned = (turned - mean[None, :, None, None]) / deviation[None, :, None, None]
        expected += overhaul_in_numpy(turned, theirs)
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_the_whole_loss_is_its_parts():
    student = output(STUDENT)
    torch.manual_seed(0)
    distiller = create_distiller(RunConfig(method="frskd"), pair())
    terms = distiller(student, None, batch())
    loss = distiller.method_loss
    refined = TeacherOutput(*loss.teach(student))
    log_q = log_softmax(refined.logits.numpy(), axis=1)
    labels = batch().labels.numpy()
    assert terms["self_ce"].item() == pytest.approx(-log_q[range(BATCH), labels].mean(), rel=1e-4)
    expected = loss(student, refined, batch()).mean().item()
    assert terms["frskd"].item() == pytest.approx(expected, rel=1e-4)


def test_the_weight_leaves_the_self_teachers_own_learning_alone():
    one, less = (
        create_distiller(RunConfig(method="frskd", weight=weight), pair()) for weight in (1.0, 0.1)
    )
    less.load_state_dict(one.state_dict())
    first, second = (d(output(STUDENT), None, batch()) for d in (one, less))
    assert second["frskd"].item() == pytest.approx(0.1 * first["frskd"].item(), rel=1e-4)
    assert second["self_ce"] == first["self_ce"] and second["ce"] == first["ce"]


# Of the student its stages and its classifier; of the method its pyramid, the classifier on top of
# it, and the layers between the features that are compared.
PARTS = ("stages", "classifier", "pyramids", "self-classifier", "connectors")
STUDENT_WHOLE = {"stages", "classifier"}
SELF_TEACHER = {"pyramids", "self-classifier"}
WHO_LEARNS = [
    # method options, term, parts that get a gradient from it
    ({}, "ce", STUDENT_WHOLE),
    ({}, "self_ce", {"stages"} | SELF_TEACHER),
    ({}, "frskd", STUDENT_WHOLE),
    ({"detach": True}, "ce", STUDENT_WHOLE),
    ({"detach": True}, "self_ce", SELF_TEACHER),
    ({"detach": True}, "frskd", STUDENT_WHOLE),
    ({"beta": 0.0}, "frskd", STUDENT_WHOLE),
    ({"alpha": 0.0}, "frskd", {"stages"}),
    ({"alpha": 0.0, "feature": "dct"}, "frskd", {"stages"}),
    ({"alpha": 0.0, "feature": "fitnet"}, "frskd", {"stages", "connectors"}),
    ({"alpha": 0.0, "feature": "overhaul"}, "frskd", {"stages", "connectors"}),
    ({"feature": "fitnet", "detach": True}, "self_ce", SELF_TEACHER),
    ({"alpha": 0.0, "beta": 0.0}, "frskd", set()),
]


@pytest.mark.parametrize(("options", "term", "expected"), WHO_LEARNS)
def test_each_term_teaches_whom_it_should(options, term, expected):
    torch.manual_seed(0)
    student = create_model("scenes_small", CLASSES)
    known = Pair(output_shapes(student, 64), None, LABELS, BATCH, 0, CLASSES)
    distiller = create_distiller(RunConfig(method="frskd", method_options=options), known)
    images = torch.randn(BATCH, 3, 64, 64)
    loss = distiller(student(images), None, batch())[term]
    if loss.requires_grad:
        loss.backward()
    method = distiller.method_loss
    modules = {
        "stages": [student.stem, student.stages],
        "classifier": [student.classifier],
        "pyramids": [method.self_teacher.pyramids],
        "self-classifier": [method.self_teacher.classifier],
        "connectors": [method.features.connectors]
        if hasattr(method.features, "connectors")
        else [],
    }
    for part in PARTS:
        parameters = [p for module in modules[part] for p in module.parameters()]
        learns = [p.grad is not None and bool(p.grad.abs().max() > 0) for p in parameters]
        # Which way a ReLU is closed is chance: some of a layer's numbers may get nothing.
        assert any(learns) == (part in expected), part
        if part not in expected:
            assert all(p.grad is None for p in parameters), part


@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("value", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("size", [(8, 4), (1, 1)])
def test_features_without_content_are_finite(feature, dtype, value, size):
    stages = [
        torch.full((BATCH, c, s, s), value, dtype=dtype) for c, s in zip((6, 12), size, strict=True)
    ]
    leaves = [torch.zeros(BATCH, CLASSES, dtype=dtype), *stages]
    leaves = [leaf.requires_grad_() for leaf in leaves]
    student = Output(leaves[0], tuple(leaves[1:]), leaves[-1].mean((2, 3)))
    config = RunConfig(method="frskd", method_options={"feature": feature})
    distiller = create_distiller(config, pair())
    terms = distiller(student, None, batch())
    sum(terms.values()).backward()
    assert all(term.isfinite() for term in terms.values())
    # A batch norm of a constant magnifies a gradient by 316, which float16 cannot hold twice.
    theirs = leaves if dtype != torch.float16 else []
    gradients = [t.grad for t in (*theirs, *distiller.parameters())]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_mixed_labels_count_by_their_share():
    labels, others = LABELS[:BATCH], LABELS[1 : BATCH + 1]
    logits = torch.randn(BATCH, CLASSES)
    mixed = Batch(torch.empty(BATCH, 0), labels, labels, Mixed(others, 0.3))
    log_p = log_softmax(logits.numpy(), axis=1)
    rows = range(BATCH)
    expected = -(0.3 * log_p[rows, labels] + 0.7 * log_p[rows, others]).mean()
    assert label_loss(logits, mixed).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"feature": "atention"}, "Did you mean 'attention'"),
        ({"alpha": -1.0}, "alpha -1.0"),
        ({"temperature": 0.0}, "temperature above 0"),
        ({"width": 0}, "width of the self-teacher is 0"),
    ],
)
def test_options_out_of_range_are_refused(options, says):
    with pytest.raises(KdlibError, match=says):
        made(**options)


@pytest.mark.parametrize(
    ("method", "augmentation", "says"),
    [
        ("dkd", "mixup", "'dkd' reads an image's one label.*leave 'mixup' out"),
        ("crd", "sla", "one label"),
        ("dct+gate", "cutmix", "one label"),
        ("frskd+gate", "mixup", "one label"),
        ("frskd+kd", "sla", "no teacher knows rotations"),
        ("kd", "sla", "no teacher knows rotations"),
        ("logit_std", "sla", "no teacher knows rotations"),
    ],
)
def test_labels_that_a_method_cannot_read_are_refused(method, augmentation, says):
    config = RunConfig(method=method, augmentation=("flip", augmentation))
    with pytest.raises(KdlibError, match=says):
        create_distiller(config, pair())


@pytest.mark.parametrize(
    ("method", "augmentation"),
    [("student", "sla"), ("frskd", "sla"), ("frskd+kd", "mixup"), ("kd", "cutmix"), ("at", "sla")],
)
def test_labels_that_a_method_can_read_are_not(method, augmentation):
    create_distiller(RunConfig(method=method, augmentation=("flip", augmentation)), pair())
