"""Self-teachers and segmenters: published sizes, their formulas, maps of any size; IoU."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pretrained import write_imagenet_weights
from torch import nn
from torch.nn import functional

from kdlib.data.image_data import IGNORED
from kdlib.errors import KdlibError
from kdlib.frskd.segmentation import SegmentationMarks
from kdlib.frskd.self_teacher import EPSILON, PixelHead, SelfTeacher, enlarged, reduced
from kdlib.models import MODELS, create_model
from kdlib.models.output import count_parameters, output_shapes

SEGMENTERS = [name for name, model in MODELS.items() if model.task == "segmentation"]
CLASSES = 5


# Millions of parameters for 100 classes, of the released code (Ji 2021, arXiv 2103.08273).
@pytest.mark.parametrize(("network", "options", "digits", "millions"), [
    ("wrn_16_2", {"width": 1}, 3, 0.134), ("wrn_16_2", {"width": 2}, 3, 0.412),
    ("wrn_16_2", {"common": 256}, 3, 0.682), ("resnet18_cifar", {}, 2, 6.38),
])  # fmt: skip
def test_parameters_equal_the_published(network, options, digits, millions):
    channels = [shape[0] for shape in output_shapes(create_model(network, 100), 32).stages]
    found = count_parameters(SelfTeacher(channels, 100, **options))
    assert round(found / 1e6, digits) == millions


def fused(fusion, *maps):
    weights = functional.relu(fusion.weights)
    shares = weights / (weights.sum() + EPSILON)
    return sum(share * functional.relu(one) for share, one in zip(shares, maps, strict=True))


def doubled(maps):
    return maps.repeat_interleave(2, 2).repeat_interleave(2, 3)


def halved(maps):
    return functional.max_pool2d(maps, 3, 2, 1)


@torch.no_grad()
def test_three_levels_are_refined_as_the_paper_says():
    torch.manual_seed(0)
    made = SelfTeacher((3, 4, 5), 6).double()
    one, two, three = (torch.randn(4, c, s, s).double() for c, s in ((3, 8), (4, 4), (5, 2)))
    (net,), (down, up) = (
        made.pyramids,
        (made.pyramids[0].laterals_down, made.pyramids[0].laterals_up),
    )
    for fusion in (*net.fuse_down, *net.fuse_up):
        fusion.weights.copy_(torch.randn(len(fusion.weights)))
    p3 = down[2](three)
    above = net.narrow[1](doubled(p3))  # as published: enlarged, then narrowed
    p2 = net.refine_down[1](fused(net.fuse_down[1], down[1](two), above))
    above = net.narrow[0](doubled(p2))
    p1 = net.refine_down[0](fused(net.fuse_down[0], down[0](one), above))
    t2 = net.refine_up[0](fused(net.fuse_up[0], up[0](two), p2, net.widen[0](halved(p1))))
    t3 = net.refine_up[1](fused(net.fuse_up[1], up[1](three), net.widen[1](halved(t2))))
    found = made([one, two, three])
    for maps, expected in zip(found.stages, (p1, t2, t3), strict=True):
        torch.testing.assert_close(maps, expected, atol=1e-9, rtol=0)
    torch.testing.assert_close(found.logits, made.classifier(t3.mean((2, 3))))
    layers = [(type(one).__name__, getattr(one, "groups", None)) for one in net.refine_up[0]]
    separable = [("Conv2d", 8), ("Conv2d", 1), ("BatchNorm2d", None)]
    assert layers == [*separable, ("ReLU", None), *separable]
    assert [type(layer).__name__ for layer in down[0]] == ["Conv2d", "BatchNorm2d", "ReLU"]


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
def test_levels_are_resized_by_the_nearest_and_the_largest_and_a_head_sums_them():
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    assert torch.equal(enlarged(maps, (8, 8)), doubled(maps))
    assert reduced(maps, (2, 2)).flatten().tolist() == [5, 7, 13, 15]
    assert reduced(maps, (1, 1)).item() == 15
    head, fine, coarse = PixelHead(3, 4).eval(), torch.randn(1, 3, 4, 6), torch.randn(1, 3, 2, 3)
    raised = nn.Upsample(scale_factor=2, mode="bilinear")(functional.relu(coarse))
    inner = functional.relu(head.refine(functional.relu(fine) + raised))
    expected = nn.Upsample(scale_factor=4, mode="bilinear")(head.classifier(inner))
    torch.testing.assert_close(head((fine, coarse), (16, 24)), expected)


@pytest.mark.parametrize("name", SEGMENTERS)
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
    pairs = zip(first.backbone.parameters(), second.backbone.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    assert not torch.equal(first.head.classifier.weight, second.head.classifier.weight)
    larger = count_parameters(create_model("efficientdet_d1", 21))
    assert 3e6 < count_parameters(first) < larger < 8e6


def measured(predicted: np.ndarray, truth: np.ndarray, *team: object) -> dict:
    marks = SegmentationMarks(CLASSES, *team)
    for some, labels in zip(np.array_split(predicted, 2), np.array_split(truth, 2), strict=True):
        logits = functional.one_hot(torch.from_numpy(some), CLASSES).permute(0, 3, 1, 2).float()
        marks.add(logits, torch.from_numpy(labels))
    return marks.results()


def test_iou_of_each_class_over_all_batches_equals_its_definition():
    # Class 4 is in neither, class 3 in the predictions alone.
    random = np.random.default_rng(0)
    predicted, truth = random.integers(0, 4, (5, 8, 9)), random.integers(0, 3, (5, 8, 9))
    truth[random.random(truth.shape) < 0.2] = IGNORED
    found, counted, ious = measured(predicted, truth), truth != IGNORED, []
    for kind in range(4):
        mine, true = (predicted == kind) & counted, truth == kind
        ious.append((mine & true).sum() / (mine | true).sum())
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
