"""Self-teachers and segmenters: published sizes, their formulas in numpy, maps of any size."""

import numpy as np
import pytest
import torch
from pretrained import write_imagenet_weights
from torch import nn
from torch.nn import functional

from kdlib.frskd.self_teacher import EPSILON, PixelHead, SelfTeacher, enlarged, reduced
from kdlib.models import MODELS, create_model
from kdlib.models.output import count_parameters, output_shapes

# Millions of parameters for 100 classes, of the released code (Ji 2021, arXiv 2103.08273).
PUBLISHED = [
    ("wrn_16_2", {"width": 1}, 3, 0.134),
    ("wrn_16_2", {"width": 2}, 3, 0.412),
    ("wrn_16_2", {"common": 256}, 3, 0.682),
    ("resnet18_cifar", {}, 2, 6.38),
]
SEGMENTERS = [name for name, model in MODELS.items() if model.task == "segmentation"]


@pytest.mark.parametrize(("network", "options", "digits", "millions"), PUBLISHED)
def test_parameters_equal_the_published(network, options, digits, millions):
    channels = [shape[0] for shape in output_shapes(create_model(network, 100), 32).stages]
    found = count_parameters(SelfTeacher(channels, 100, **options))
    assert round(found / 1e6, digits) == millions


def test_the_published_backbones_grow():
    sizes = [count_parameters(create_model(f"efficientdet_d{n}", 21)) for n in (0, 1)]
    assert 3e6 < sizes[0] < sizes[1] < 8e6


def convolved(block: nn.Module, maps: np.ndarray) -> np.ndarray:
    """A layer of the self-teacher once more, in numpy; batch norm by the batch's statistics."""
    if isinstance(block, nn.Sequential):
        for layer in block:
            maps = convolved(layer, maps)
        return maps
    if isinstance(block, nn.ReLU):
        return np.maximum(maps, 0)
    if isinstance(block, nn.BatchNorm2d):  # as it begins: weight 1, bias 0
        mean, variance = maps.mean((0, 2, 3), keepdims=True), maps.var((0, 2, 3), keepdims=True)
        return (maps - mean) / np.sqrt(variance + block.eps)
    weight = block.weight.detach().numpy()
    if block.kernel_size == (1, 1):
        return np.einsum("oc,bchw->bohw", weight[:, :, 0, 0], maps)
    padded, (height, width) = np.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1))), maps.shape[2:]
    return sum(
        weight[None, :, 0, row, column, None, None]
        * padded[:, :, row : row + height, column : column + width]
        for row, column in np.ndindex(3, 3)
    )


def fused(fusion: nn.Module, *maps: np.ndarray) -> np.ndarray:
    weights = np.maximum(fusion.weights.detach().numpy(), 0)
    shares = weights / (weights.sum() + EPSILON)
    return sum(share * np.maximum(one, 0) for share, one in zip(shares, maps, strict=True))


def doubled(maps: np.ndarray) -> np.ndarray:
    return maps.repeat(2, 2).repeat(2, 3)


def halved(maps: np.ndarray) -> np.ndarray:
    size = maps.shape[2] // 2
    padded = np.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    found = np.empty((*maps.shape[:2], size, size))
    for row, column in np.ndindex(size, size):
        window = padded[:, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
        found[:, :, row, column] = window.max((2, 3))
    return found


def test_three_levels_are_refined_as_the_paper_says():
    torch.manual_seed(0)
    made = SelfTeacher((3, 4, 5), 6).double()
    pyramid = made.pyramids[0]
    with torch.no_grad():
        for fusion in (*pyramid.fuse_down, *pyramid.fuse_up):
            fusion.weights.copy_(torch.randn(len(fusion.weights)))
    stages = [torch.randn(4, c, s, s).double() for c, s in ((3, 8), (4, 4), (5, 2))]
    found = made(stages)

    one, two, three = (stage.numpy() for stage in stages)
    down, up = pyramid.laterals_down, pyramid.laterals_up
    p3 = convolved(down[2], three)
    above = convolved(pyramid.narrow[1], doubled(p3))  # as published: enlarged, then narrowed
    p2 = fused(pyramid.fuse_down[1], convolved(down[1], two), above)
    p2 = convolved(pyramid.refine_down[1], p2)
    above = convolved(pyramid.narrow[0], doubled(p2))
    p1 = fused(pyramid.fuse_down[0], convolved(down[0], one), above)
    p1 = convolved(pyramid.refine_down[0], p1)
    below = convolved(pyramid.widen[0], halved(p1))
    t2 = fused(pyramid.fuse_up[0], convolved(up[0], two), p2, below)
    t2 = convolved(pyramid.refine_up[0], t2)
    below = convolved(pyramid.widen[1], halved(t2))
    t3 = convolved(pyramid.refine_up[1], fused(pyramid.fuse_up[1], convolved(up[1], three), below))
    for maps, expected in zip(found.stages, (p1, t2, t3), strict=True):
        np.testing.assert_allclose(maps.detach().numpy(), expected, atol=1e-9)
    head = made.classifier
    logits = t3.mean((2, 3)) @ head.weight.detach().numpy().T + head.bias.detach().numpy()
    np.testing.assert_allclose(found.logits.detach().numpy(), logits, atol=1e-9)


@pytest.mark.parametrize(
    "sizes", [(8, 4, 2), (7, 4, 2), (9, 9, 3), (4, 2, 1), (1, 1, 1), (10, 3, 1), (5,)]
)
@pytest.mark.parametrize("options", [{}, {"common": 8}, {"repeat": 2}, {"width": 1, "depth": 1}])
def test_refined_maps_have_the_sizes_of_the_stages(sizes, options):
    channels = (3, 4, 5)[: len(sizes)]
    made = SelfTeacher(channels, 6, **options)
    found = made([torch.randn(2, c, s, s) for c, s in zip(channels, sizes, strict=True)])
    assert [maps.shape[2] for maps in found.stages] == list(sizes)
    assert [maps.shape[1] for maps in found.stages] == list(made.widths)
    assert found.logits.shape == (2, 6)
    sum(maps.square().sum() for maps in found.stages).backward()
    inside = [p for name, p in made.named_parameters() if not name.startswith("classifier")]
    assert all(parameter.grad.isfinite().all() for parameter in inside)


def test_levels_are_resized_by_the_nearest_and_the_largest():
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    assert torch.equal(enlarged(maps, (8, 8)), maps.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert reduced(maps, (2, 2)).flatten().tolist() == [5, 7, 13, 15]
    assert reduced(maps, (1, 1)).item() == 15


def test_a_head_sums_refines_classifies_and_enlarges():
    head = PixelHead(3, 4).eval()
    fine, coarse = torch.randn(1, 3, 4, 6), torch.randn(1, 3, 2, 3)
    with torch.no_grad():
        raised = nn.Upsample(scale_factor=2, mode="bilinear")(functional.relu(coarse))
        inner = functional.relu(head.refine(functional.relu(fine) + raised))
        scores = torch.einsum("kc,bchw->bkhw", head.classifier.weight[..., 0, 0], inner)
        scores = scores + head.classifier.bias.view(1, -1, 1, 1)
        expected = nn.Upsample(scale_factor=4, mode="bilinear")(scores)
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


def test_a_backbone_begins_with_torchvisions_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(write_imagenet_weights(tmp_path, "efficientnet_b0")))
    first, second = (create_model("efficientdet_d0", 21, weights="IMAGENET1K_V1") for _ in "ab")
    pairs = zip(first.backbone.parameters(), second.backbone.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    assert not torch.equal(first.head.classifier.weight, second.head.classifier.weight)
