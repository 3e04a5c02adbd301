"""FRSKD's self-teacher: the published sizes, its formula in numpy, maps of any size."""

import numpy as np
import pytest
import torch
from torch import nn

from kdlib.errors import KdlibError
from kdlib.frskd.self_teacher import EPSILON, SelfTeacher, enlarged, reduced
from kdlib.models import create_model
from kdlib.models.cost import count_parameters, output_shapes

# Millions of parameters for 100 classes, of the released code (Ji 2021, arXiv 2103.08273).
PUBLISHED = [
    ("wrn_16_2", {"width": 1}, 3, 0.134),
    ("wrn_16_2", {"width": 2}, 3, 0.412),
    ("wrn_16_2", {"common": 256}, 3, 0.682),
    ("resnet18_cifar", {}, 2, 6.38),
]


@pytest.mark.parametrize(("network", "options", "digits", "millions"), PUBLISHED)
def test_parameters_equal_the_published(network, options, digits, millions):
    channels = [shape[0] for shape in output_shapes(create_model(network, 100), 32).stages]
    found = count_parameters(SelfTeacher(channels, 100, **options))
    assert round(found / 1e6, digits) == millions


def convolved(block: nn.Module, maps: np.ndarray) -> np.ndarray:
    """A layer of the self-teacher once more, in numpy; batch norm by the batch's statistics."""
    if isinstance(block, nn.Sequential):
        for layer in block:
            maps = convolved(layer, maps)
        return maps
    if isinstance(block, nn.ReLU):
        return np.maximum(maps, 0)
    if isinstance(block, nn.BatchNorm2d):
        mean, variance = maps.mean((0, 2, 3)), maps.var((0, 2, 3))
        shape = (1, -1, 1, 1)
        scale = block.weight.detach().numpy() / np.sqrt(variance + block.eps)
        shift = block.bias.detach().numpy()
        return (maps - mean.reshape(shape)) * scale.reshape(shape) + shift.reshape(shape)
    weight = block.weight.detach().numpy()
    if block.kernel_size == (1, 1):
        return np.einsum("oc,bchw->bohw", weight[:, :, 0, 0], maps)
    padded = np.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = maps.shape[2:]
    return sum(
        weight[None, :, 0, row, column, None, None]
        * padded[:, :, row : row + height, column : column + width]
        for row in range(3)
        for column in range(3)
    )


def fused(fusion: nn.Module, *maps: np.ndarray) -> np.ndarray:
    weights = np.maximum(fusion.weights.detach().numpy(), 0)
    return sum(
        w / (weights.sum() + EPSILON) * np.maximum(m, 0) for w, m in zip(weights, maps, strict=True)
    )


def doubled(maps: np.ndarray) -> np.ndarray:
    return maps.repeat(2, 2).repeat(2, 3)


def halved(maps: np.ndarray) -> np.ndarray:
    size = maps.shape[2] // 2
    padded = np.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=-np.inf)
    found = np.empty((*maps.shape[:2], size, size))
    for row in range(size):
        for column in range(size):
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
    # As published: enlarged first, narrowed after.
    above = convolved(pyramid.narrow[1], doubled(p3))
    p2 = convolved(
        pyramid.refine_down[1], fused(pyramid.fuse_down[1], convolved(down[1], two), above)
    )
    above = convolved(pyramid.narrow[0], doubled(p2))
    p1 = convolved(
        pyramid.refine_down[0], fused(pyramid.fuse_down[0], convolved(down[0], one), above)
    )
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
    "sizes", [(8, 4, 2), (7, 4, 2), (9, 9, 3), (4, 2, 1), (1, 1, 1), (10, 3, 1)]
)
@pytest.mark.parametrize("options", [{}, {"common": 8}, {"repeat": 2}, {"width": 1, "depth": 1}])
def test_refined_maps_have_the_sizes_of_the_stages(sizes, options):
    made = SelfTeacher((3, 4, 5), 6, **options)
    found = made([torch.randn(2, c, s, s) for c, s in zip((3, 4, 5), sizes, strict=True)])
    assert [maps.shape[2] for maps in found.stages] == list(sizes)
    assert [maps.shape[1] for maps in found.stages] == list(made.widths)
    sum(maps.square().sum() for maps in found.stages).backward()
    inside = [p for name, p in made.named_parameters() if not name.startswith("classifier")]
    assert all(parameter.grad.isfinite().all() for parameter in inside)


def test_levels_are_resized_by_the_nearest_and_the_largest():
    maps = torch.arange(16.0).view(1, 1, 4, 4)
    assert torch.equal(enlarged(maps, (8, 8)), maps.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert reduced(maps, (2, 2)).flatten().tolist() == [5, 7, 13, 15]
    assert reduced(maps, (1, 1)).item() == 15


def test_one_stage_is_a_pyramid_too():
    assert SelfTeacher((4,), 3)([torch.randn(2, 4, 5, 5)]).logits.shape == (2, 3)


def test_a_size_below_one_is_refused():
    with pytest.raises(KdlibError, match="depth of the self-teacher is 0"):
        SelfTeacher((4, 8), 3, depth=0)
