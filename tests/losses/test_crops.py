"""KD_loc: crops that move with their box, and the distance of what they show."""

import pytest
import torch
from torch.autograd import gradcheck
from torchvision.transforms.v2 import functional as tv

from kdlib.detection.losses import crop_distance, pooled, sampled_crops

SIZE = 8


@pytest.fixture
def images():
    """Two smooth images of different sizes."""
    stream = torch.Generator().manual_seed(1)
    few = [
        torch.rand(3, *shape, generator=stream, dtype=torch.float64) for shape in ((5, 6), (4, 9))
    ]
    return [tv.resize(one, [4 * one.shape[-2], 4 * one.shape[-1]], antialias=True) for one in few]


# Of numbers that put no sample on the centre of a pixel, where bilinear values have a kink.
BOXES = torch.tensor(
    [[0.1137, 0.2071, 0.6113, 0.8939], [0.3137, 0.0571, 0.8071, 0.7139], [0.0, 0.0, 1.0, 1.0]]
).double()
OWNERS = torch.tensor([1, 0, 1])


def test_the_whole_image_at_its_own_size_is_itself():
    image = torch.rand(3, SIZE, SIZE)
    whole = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    crop = sampled_crops([image], whole, torch.tensor([0]), SIZE)
    torch.testing.assert_close(crop[0], image)


def test_a_box_on_whole_pixels_is_what_slicing_gives():
    image = torch.rand(3, 20, 30)
    box = torch.tensor([[6 / 30, 4 / 20, 14 / 30, 12 / 20]])
    crop = sampled_crops([image], box, torch.tensor([0]), SIZE)
    torch.testing.assert_close(crop[0], image[:, 4:12, 6:14])


def test_enlarging_is_what_torchvision_does_inside():
    image = torch.rand(3, 20, 30)
    box = torch.tensor([[6 / 30, 4 / 20, 10 / 30, 8 / 20]])
    crop = sampled_crops([image], box, torch.tensor([0]), 16)
    expected = tv.resized_crop(image, 4, 6, 4, 4, [16, 16], antialias=False)
    torch.testing.assert_close(crop[0, :, 2:-2, 2:-2], expected[:, 2:-2, 2:-2])


def test_each_box_is_cut_out_of_its_own_image_whatever_their_order(images):
    together = sampled_crops(images, BOXES, OWNERS, SIZE)
    for row, (box, owner) in enumerate(zip(BOXES, OWNERS, strict=True)):
        alone = sampled_crops([images[owner]], box[None], torch.tensor([0]), SIZE)
        torch.testing.assert_close(together[row], alone[0])


def test_images_without_boxes_are_no_trouble(images):
    empty = sampled_crops(images, BOXES[:0], OWNERS[:0], SIZE)
    assert empty.shape == (0, 3, SIZE, SIZE)


def test_numeric_gradient_of_the_boxes_agrees(images):
    boxes = BOXES[:2].clone().requires_grad_()
    assert gradcheck(lambda b: sampled_crops(images, b, OWNERS[:2], 5), boxes, eps=1e-7, atol=1e-4)


def test_numeric_gradient_of_the_distance_agrees(images):
    target = sampled_crops(images, BOXES[:2] + 0.03, OWNERS[:2], SIZE)

    def distance(boxes):
        return crop_distance(sampled_crops(images, boxes, OWNERS[:2], SIZE), target)

    boxes = BOXES[:2].clone().requires_grad_()
    assert gradcheck(distance, boxes, eps=1e-7, atol=1e-4)


def test_a_box_equal_to_its_target_has_no_loss(images):
    crops = sampled_crops(images, BOXES, OWNERS, SIZE)
    assert torch.equal(crop_distance(crops, crops.clone()), torch.zeros(3, dtype=torch.float64))


def test_descending_moves_a_shifted_box_to_the_object():
    """A white square on black: the box that cuts half of it moves there, whichever side it is."""
    rows = torch.linspace(-1, 1, 40, dtype=torch.float64)
    blob = torch.exp(-8 * (rows[:, None] ** 2 + rows[None] ** 2)).expand(3, 40, 40)
    truth = torch.tensor([[0.25, 0.25, 0.75, 0.75]]).double()
    target = sampled_crops([blob], truth, torch.tensor([0]), SIZE)
    for shift in (-0.1, 0.1):
        box = (truth + torch.tensor([shift, 0, shift, 0])).requires_grad_()
        crop_distance(sampled_crops([blob], box, torch.tensor([0]), SIZE), target).sum().backward()
        step = -box.grad[0, [0, 2]].sum()
        assert step * shift < 0


def test_an_edge_beyond_the_image_has_no_gradient(images):
    box = torch.tensor([[-0.2, 0.1, 0.5, 1.3]], dtype=torch.float64, requires_grad=True)
    sampled_crops(images[:1], box, torch.tensor([0]), SIZE).pow(2).sum().backward()
    assert (box.grad[0, [0, 3]] == 0).all()
    assert (box.grad[0, [1, 2]] != 0).all()


@pytest.mark.parametrize(
    "box", [[0.4, 0.2, 0.4, 0.6], [1.2, 0.1, 1.5, 0.4], [-3.0, -2.0, -1.0, -1.0]]
)
def test_a_box_without_area_or_outside_stays_finite(images, box):
    boxes = torch.tensor([box], dtype=torch.float64, requires_grad=True)
    crop = sampled_crops(images[:1], boxes, torch.tensor([0]), SIZE)
    crop.sum().backward()
    assert torch.isfinite(crop).all() and torch.isfinite(boxes.grad).all()


def test_pooling_leaves_small_maps_as_they_are():
    maps = torch.rand(2, 3, 4, 4)
    assert torch.equal(pooled(maps, 16), maps)
    assert pooled(maps, 2).shape == (2, 3, 2, 2)
    torch.testing.assert_close(pooled(maps, 1)[..., 0, 0], maps.mean((2, 3)))
