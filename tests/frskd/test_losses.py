"""FRSKD's loss and self-teacher: who learns from which term; sizes; IoU."""

from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from losses.networks import BATCH, CLASSES, STUDENT, batch, output, pair
from sklearn.metrics import jaccard_score
from torch import nn
from torch.nn import functional

from kdlib import Distiller, KdlibError, RunConfig, create_distiller, create_model
from kdlib.data.image_data import IGNORED
from kdlib.frskd.losses import FEATURES
from kdlib.frskd.segmentation import SegmentationMarks
from kdlib.frskd.self_teacher import PixelHead, SelfTeacher, reduced
from kdlib.models import MODELS
from kdlib.models.output import Output, Shapes, output_shapes

SIDE = 32
PYRAMID = Shapes(((8, 8, 8), (8, 4, 4)), 8)  # a segmenter's stages have equally many
GIVEN = batch()
OF_PIXELS = {"method": "frskd_pixels", "task": "segmentation"}


def distiller(student: Shapes = STUDENT, pixels: int | None = None, **changes) -> Distiller:
    torch.manual_seed(0)
    config = RunConfig(**{"method": "frskd", **changes})
    return create_distiller(config, pair(student, STUDENT, pixels=pixels))


def test_masks_of_which_no_pixel_is_counted_teach_nothing_and_all_of_it_begins_late():
    made, logits = distiller(PYRAMID, 8, **OF_PIXELS), torch.randn(BATCH, CLASSES, 8, 8)
    student = output(PYRAMID)._replace(logits=logits)
    given = GIVEN._replace(labels=torch.full((BATCH, 8, 8), IGNORED))
    early, terms = (made(student, None, given, share) for share in (2 / 3, 1.0))
    assert early["frskd_pixels"] == 0 < terms["frskd_pixels"]
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
    images, labels, changes, pixels = torch.randn(BATCH, 3, SIDE, SIDE), GIVEN.labels, {}, None
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
    bifpn = {"efficientdet_d0": (64, 3), "efficientdet_d1": (88, 4)}.get(name)  # their table 1
    assert not bifpn or bifpn == (channels, len(network.pyramid))
    assert found.embedding.shape == (4, channels)
    functional.cross_entropy(found.logits, torch.randint(7, (4, size, size))).backward()
    assert all(parameter.grad.any() for parameter in network.parameters())
    own = SelfTeacher([channels] * len(sides), 7, size, width=1, depth=1, repeat=2)(found.stages)
    assert own.logits.shape == found.logits.shape
    assert [s.shape for s in own.stages] == [s.shape for s in found.stages]


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
