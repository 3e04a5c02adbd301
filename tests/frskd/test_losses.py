"""FRSKD's loss and self-teacher: what they are, who learns from which term; published sizes."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from losses.networks import BATCH, CLASSES, STUDENT, batch, pair
from pretrained import write_imagenet_weights
from sklearn.metrics import jaccard_score
from torch import nn
from torch.nn import functional

from kdlib import ATLoss, DCTLoss, Distiller, KdlibError, RunConfig, create_distiller, create_model
from kdlib.data.image_data import IGNORED
from kdlib.distill import TeacherOutput
from kdlib.frskd.losses import FEATURES, RefinementLoss, overhaul_per_image
from kdlib.frskd.segmentation import SegmentationMarks
from kdlib.frskd.self_teacher import PixelHead, SelfTeacher, reduced
from kdlib.losses.hints import feature_mse
from kdlib.losses.logits import kd_per_image
from kdlib.models import MODELS
from kdlib.models.output import Output, Shapes, count_parameters, output_shapes

SIDE = 32
REFINED = Shapes(((12, 8, 8), (24, 4, 4)), 24)  # twice the student's channels
PYRAMID = Shapes(((8, 8, 8), (8, 4, 4)), 8)  # a segmenter's stages have equally many
GIVEN = batch()
LABELS, PAIR = GIVEN.labels, pair(STUDENT, STUDENT)
OF_PIXELS = {"method": "frskd_pixels", "task": "segmentation"}


def output(shapes: Shapes, seed: int, *sides: int) -> Output:
    """Stages from -0.5 to 0.5 and random logits, of each pixel if ``sides`` are given."""
    stream = torch.Generator().manual_seed(seed)
    stages = tuple(torch.rand(BATCH, *s, generator=stream) - 0.5 for s in shapes.stages)
    logits = torch.randn(BATCH, CLASSES, *sides, generator=stream)
    return Output(logits, stages, stages[-1].mean((2, 3)))


def distiller(student: Shapes = STUDENT, pixels: int | None = None, **changes) -> Distiller:
    torch.manual_seed(0)
    config = RunConfig(**{"method": "frskd", **changes})
    return create_distiller(config, pair(student, STUDENT, pixels=pixels))


@pytest.mark.parametrize(("feature", "beta", "distance"), [
    ("attention", 100.0, ATLoss("none")), ("dct", 0.7, DCTLoss("dct", "none")),
    ("fitnet", 0.9, feature_mse), ("overhaul", 0.6, overhaul_per_image),
])  # fmt: skip
def test_the_feature_term_is_a_distance_of_all_stages(feature, beta, distance):
    loss = RefinementLoss(PAIR, alpha=0.0, feature=feature)
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


def test_the_terms_of_pixels_have_a_weight_that_begins_late():
    made = distiller(PYRAMID, 8, **OF_PIXELS)
    student, teacher = (output(PYRAMID, seed, 8, 8) for seed in (0, 1))
    labels = torch.randint(CLASSES, (BATCH, 8, 8))
    labels[0, :3] = IGNORED
    given = GIVEN._replace(labels=labels)
    found = made.method_loss(student, TeacherOutput(*teacher), given)  # of ignored pixels too
    expected = kd_per_image(student.logits, teacher.logits, 1.0)
    torch.testing.assert_close(found, expected + 50 * ATLoss("none")(student, teacher, given))
    terms = [made.eval()(student, None, given, share) for share in (0.0, 2 / 3, 5 / 6, 1.0)]
    shares = [term["frskd_pixels"].item() / terms[-1]["frskd_pixels"].item() for term in terms]
    assert shares == pytest.approx([0, 0, np.exp(-5 / 4), 1], rel=1e-4)
    # Masks of which no pixel is counted teach nothing, and what they leave is finite.
    terms = made.train()(student, None, given._replace(labels=torch.full_like(labels, IGNORED)))
    assert terms["ce"] == terms["self_ce"] == 0
    sum(terms.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in made.parameters())


# Task, options, term -> the parts that get a gradient from it: of the student its stages and what
# is on top; of the method its pyramids, their classifier, and what connects compared features.
WHOLE, SELF = {"stages", "classifier"}, {"pyramids", "self-classifier"}


@pytest.mark.parametrize(("task", "options", "term", "expected"), [
    *(("segmentation", {}, *case) for case in (
        ("ce", WHOLE), ("self_ce", {"stages"} | SELF), ("frskd_pixels", WHOLE),
    )),
    *(("classification", *case) for case in (
        ({}, "ce", WHOLE), ({}, "self_ce", {"stages"} | SELF), ({}, "frskd", WHOLE),
        ({"detach": True}, "ce", WHOLE), ({"detach": True}, "self_ce", SELF),
        ({"detach": True}, "frskd", WHOLE), ({"beta": 0.0}, "frskd", WHOLE),
        ({"feature": "fitnet", "detach": True}, "self_ce", SELF),
        ({"alpha": 0.0}, "frskd", {"stages"}),
        ({"alpha": 0.0, "feature": "dct"}, "frskd", {"stages"}),
        ({"alpha": 0.0, "feature": "fitnet"}, "frskd", {"stages", "connectors"}),
        ({"alpha": 0.0, "feature": "overhaul"}, "frskd", {"stages", "connectors"}),
        ({"alpha": 0.0, "beta": 0.0}, "frskd", set()),
    )),
])  # fmt: skip
def test_each_term_teaches_whom_it_should(task, options, term, expected):
    torch.manual_seed(0)
    images, labels, changes, pixels = torch.randn(BATCH, 3, SIDE, SIDE), LABELS, {}, None
    name, below, top = "scenes_small", ["stem", "stages"], "classifier"
    if task == "segmentation":
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
        "connectors": [getattr(own.features, "connectors", nn.Identity())],
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
    for value, sides in ((v, s) for v in (0.0, 1.0, 100.0) for s in ((8, 4), (2, 1))):
        made.zero_grad()
        shapes = [(CLASSES,), *((c, s, s) for c, s in zip((6, 12), sides, strict=True))]
        leaves = [torch.full((BATCH, *s), value, dtype=dtype, requires_grad=True) for s in shapes]
        terms = made(Output(leaves[0], tuple(leaves[1:]), leaves[2].mean((2, 3))), None, GIVEN)
        sum(terms.values()).backward()
        assert all(term.isfinite() for term in terms.values())
        # A batch norm of a constant magnifies a gradient by 316, which float16 cannot hold twice.
        theirs = leaves if dtype != torch.float16 else []
        gradients = [t.grad for t in (*theirs, *made.parameters())]
        assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize(("changes", "says"), [
    *(({"method_options": options}, says) for options, says in (
        ({"feature": "atention"}, "Did you mean 'attention'"), ({"alpha": -1.0}, "alpha -1.0"),
        ({"temperature": 0.0}, "temperature above 0"), ({"width": 0}, "width of the .* is 0"),
        ({"depth": 0}, "depth of the self-teacher is 0"),
    )),
    *(({"method": method, "augmentation": ("flip", kind)}, says) for method, kind, says in (
        ("dkd", "mixup", "'dkd' reads an image's one label.*leave 'mixup' out"),
        ("crd", "sla", "one label"), ("dct+gate", "cutmix", "one label"),
        ("frskd+gate", "mixup", "one label"), ("frskd+kd", "sla", "no teacher knows rotations"),
        ("kd", "sla", "no teacher knows rotat"), ("logit_std", "sla", "no teacher knows rotat"),
        ("srm_dictionary", "mixup", "'srm_dictionary'.*leave 'mixup' out of augmentation"),
        ("srm_init", "sla", "'srm_init'.*leave 'sla' out"), ("srm", "mixup", "leave 'mixup' out"),
        ("student", "sla", ""), ("frskd", "sla", ""), ("frskd+kd", "mixup", ""),
        ("kd", "cutmix", ""), ("at", "sla", ""),
    )),
])  # fmt: skip
def test_options_and_labels_that_a_method_cannot_read_are_refused_and_no_others(changes, says):
    with pytest.raises(KdlibError, match=says) if says else nullcontext():
        distiller(**changes)


@pytest.mark.parametrize("sizes", [(8, 4, 2), (7, 4, 2), (9, 9, 3), (1, 1, 1), (10, 3, 1), (5,)])
@pytest.mark.parametrize("options", [{}, {"common": 8}, {"repeat": 2}, {"width": 1, "depth": 1}])
def test_refined_maps_have_the_sizes_of_the_stages(sizes, options):
    channels = (3, 4, 5)[: len(sizes)]
    made = SelfTeacher(channels, 6, **options)
    found = made([torch.randn(2, c, s, s) for c, s in zip(channels, sizes, strict=True)])
    shapes = [(2, c, s, s) for c, s in zip(made.widths, sizes, strict=True)]
    assert [maps.shape for maps in found.stages] == shapes and found.logits.shape == (2, 6)
    sum(maps.square().sum() for maps in found.stages).backward()
    inside = [p for name, p in made.named_parameters() if not name.startswith("classifier")]
    assert all(parameter.grad.isfinite().all() for parameter in inside)


@torch.no_grad()
def test_odd_levels_keep_their_largest_and_a_head_sums_them():
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    assert reduced(maps[..., :3, :3], (2, 2)).flatten().tolist() == [5, 6, 9, 10]
    assert reduced(maps, (1, 1)).item() == 15
    head, fine, coarse = PixelHead(3, 4).eval(), torch.randn(1, 3, 4, 6), torch.randn(1, 3, 2, 3)
    raised = nn.Upsample(scale_factor=2, mode="bilinear")(coarse)
    inner = head.classifier(head.refine(fine + raised))
    expected = nn.Upsample(scale_factor=4, mode="bilinear")(inner)
    torch.testing.assert_close(head((fine, coarse), (16, 24)), expected)


@pytest.mark.parametrize("name", [n for n, one in MODELS.items() if one.task == "segmentation"])
def test_each_pixel_gets_a_class_and_each_level_halves_the_one_before(name):
    size = 32 if name.startswith("scenes") else 128  # the coarsest of six levels is one pixel
    network, images = create_model(name, 7), torch.rand(4, 3, size, size)
    found = network(images)
    sides = [stage.shape[-1] for stage in found.stages]
    assert found.logits.shape == (4, 7, size, size)
    assert sides == [size // 4 >> level for level in range(len(sides))]
    (channels,) = {stage.shape[1] for stage in found.stages}
    assert found.embedding.shape == (4, channels)
    functional.cross_entropy(found.logits, torch.randint(7, (4, size, size))).backward()
    assert all(parameter.grad.any() for parameter in network.parameters())
    own = SelfTeacher([channels] * len(sides), 7, size, width=1, depth=1, repeat=2)(found.stages)
    assert own.logits.shape == found.logits.shape
    assert [s.shape for s in own.stages] == [s.shape for s in found.stages]


def test_a_backbone_begins_with_torchvisions_weights_and_the_published_grow(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(write_imagenet_weights(tmp_path, "efficientnet_b0")))
    first, second = (create_model("efficientdet_d0", 21, weights="IMAGENET1K_V1") for _ in "ab")
    assert all(map(torch.equal, first.backbone.parameters(), second.backbone.parameters()))
    assert not torch.equal(first.head.classifier.weight, second.head.classifier.weight)
    larger = count_parameters(create_model("efficientdet_d1", 21))
    assert 3e6 < count_parameters(first) < larger < 8e6


def measured(predicted: np.ndarray, truth: np.ndarray, *world: object) -> dict:
    marks = SegmentationMarks(CLASSES, *world)
    for some, labels in zip(np.array_split(predicted, 2), np.array_split(truth, 2), strict=True):
        logits = functional.one_hot(torch.from_numpy(some), CLASSES).permute(0, 3, 1, 2).float()
        marks.add(logits, torch.from_numpy(labels))
    return marks.results()


def test_iou_of_each_class_over_all_batches_equals_its_definition():
    # Class 4 is in neither, class 3 in the predictions alone.
    random = np.random.default_rng(0)
    predicted, truth = random.integers(0, 4, (5, 8, 9)), random.integers(0, 3, (5, 8, 9))
    truth[random.random(truth.shape) < 0.2] = IGNORED
    found, counted = measured(predicted, truth), truth != IGNORED
    both = truth[counted], predicted[counted]
    ious = jaccard_score(*both, labels=range(4), average=None)
    *occurring, last = found["per_class"]
    assert occurring == pytest.approx(ious, rel=1e-5) and last is None
    assert found["miou"] == pytest.approx(np.mean(ious), rel=1e-5)
    assert found["pixel_accuracy"] == pytest.approx((predicted == truth)[counted].mean())
    three = SimpleNamespace(gathered=lambda mine: [mine] * 3)  # processes that counted the same
    assert measured(predicted, truth, three) == found
    nothing = np.zeros((2, 4, 4), np.int64)  # background alone is a result
    alone = {"miou": 1.0, "pixel_accuracy": 1.0, "per_class": [1.0, None, None, None, None]}
    assert measured(nothing, nothing) == alone
    for value, says in ((IGNORED, "No pixel"), (CLASSES, f"largest {CLASSES}")):
        with pytest.raises(KdlibError, match=says):
            measured(nothing, np.full_like(nothing, value))
