"""The small detectors of Scenes: their anchors fit its objects, and they learn."""

import pytest
import torch
from torch import optim
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import box_iou

from kdlib.models import create_model
from kdlib.models.cost import count_parameters

torch.set_num_threads(1)

NAMES = ("scenes_ssd", "scenes_retinanet")


def anchors(network, size: int) -> torch.Tensor:
    """(A, 4), in pixels, of one image of ``size`` pixels."""
    features = [torch.zeros(1, 1, size // stride, size // stride) for stride in (8, 16)]
    batch = ImageList(torch.zeros(1, 3, size, size), [(size, size)])
    return network.network.anchor_generator(batch, features)[0]


def objects(count: int) -> torch.Tensor:
    """Boxes of 13 to 25 pixels a side within 64 x 64."""
    generator = torch.Generator().manual_seed(0)
    sides = 13 + 12 * torch.rand(count, 2, generator=generator)
    corners = (64 - sides) * torch.rand(count, 2, generator=generator)
    return torch.cat([corners, corners + sides], dim=1)


@pytest.mark.parametrize(("name", "count", "low"), [
    ("scenes_ssd", 320, 0.9), ("scenes_retinanet", 160, 0.8),
])  # fmt: skip
def test_few_anchors_fit_the_objects_of_scenes(name, count, low):
    found = anchors(create_model(name, 5), 64)
    assert found.shape == (count, 4)
    best = box_iou(objects(500), found).amax(1)
    assert (best >= 0.5).float().mean() > low


@pytest.mark.parametrize("name", NAMES)
def test_anchors_grow_with_the_image(name):
    half, full = (create_model(name, 5, image_size=size) for size in (64, 128))
    first, second = (anchors(each, size) for each, size in ((half, 64), (full, 128)))
    small = second[:4, 2:] - second[:4, :2]
    torch.testing.assert_close(small, 2 * (first[:4, 2:] - first[:4, :2]), rtol=0.1, atol=0)


@pytest.mark.parametrize(("name", "low", "high"), [
    ("scenes_ssd", 0.1e6, 0.13e6), ("scenes_ssd_tiny", 0, 0.02e6),
    ("scenes_retinanet", 0.25e6, 0.35e6), ("scenes_retinanet_tiny", 0, 0.02e6),
])  # fmt: skip
def test_they_are_small(name, low, high):
    assert low < count_parameters(create_model(name, 5)) < high


@pytest.mark.parametrize("name", NAMES)
def test_a_few_steps_find_two_squares(name):
    torch.manual_seed(0)
    images = torch.full((2, 3, 64, 64), 0.4)
    boxes = torch.tensor([[6.0, 8, 24, 26], [36, 30, 54, 48]])
    images[0, 0, 8:26, 6:24], images[1, 2, 30:48, 36:54] = 1, 1
    targets = [{"boxes": boxes[i : i + 1], "labels": torch.tensor([i + 1])} for i in range(2)]
    network = create_model(name, 2).train()
    optimiser = optim.AdamW(network.parameters(), lr=5e-3)
    for _ in range(50):
        optimiser.zero_grad()
        sum(network(list(images), targets).losses.values()).backward()
        optimiser.step()
    with torch.no_grad():
        found = network.train(False)(list(images))
    for index, detections in enumerate(found):
        assert detections.kinds[0] == index and detections.scores[0] > 0.3
        assert box_iou(detections.boxes[:1], boxes[index : index + 1]) > 0.3
