"""Pictures show what they are given, and show it once."""

import matplotlib.pyplot as plt
import pytest
import torch

from kdlib.data.image_data import IGNORED
from kdlib.losses.dct import dct_2d
from study.figures.pictures import (
    attention_overlays,
    basis_mosaic,
    draw_boxes,
    image_grid,
    mask_pictures,
    named_maps,
)


@pytest.fixture
def images():
    return torch.arange(3 * 3 * 8 * 8).view(3, 3, 8, 8).remainder(256).to(torch.uint8)


def test_grid_has_a_panel_an_image_and_leaves_no_figure_open(images):
    figure = image_grid(images, ["a", "b", "c"], columns=2)
    shown = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title() for axes in shown] == ["a", "b", "c"]
    assert (shown[1].images[0].get_array() == images[1].permute(1, 2, 0).numpy()).all()
    assert not plt.get_fignums()


def test_classes_of_masks_have_colours_of_their_own():
    masks = torch.arange(256).view(1, 16, 16)
    colours = mask_pictures(masks)[0].flatten(1).T
    assert colours.dtype == torch.uint8 and colours[IGNORED].tolist() == [255] * 3
    assert int(colours[0].max()) < 50
    assert len({tuple(colour) for colour in colours[:70].tolist()}) == 70


def test_signed_maps_are_white_at_zero():
    maps = {"x": torch.tensor([[-1.0, 3.0, float("nan")]]), "flat": torch.zeros(2, 2)}
    figure = named_maps(maps, signed=True)
    assert figure.axes[0].images[0].get_clim() == (-3, 3)
    low, high = figure.axes[1].images[0].get_clim()
    assert low < high


def test_one_scale_makes_colours_comparable():
    maps = {"small": torch.tensor([[0.0, 1.0]]), "large": torch.tensor([[2.0, 5.0]])}
    limits = [axes.images[0].get_clim() for axes in named_maps(maps, one_scale=True).axes]
    assert limits == [(0, 5), (0, 5)]


def test_overlays_show_a_stage_a_column(images):
    maps = [torch.rand(4, 4), torch.rand(2, 2)]
    figure = attention_overlays(images[0], {"teacher": maps, "student": maps})
    stages = ["stage 1: 4 px", "stage 2: 2 px"]
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["teacher", *stages, "student", *stages]
    assert figure.axes[1].images[1].get_array().shape == (8, 8)


def test_boxes_of_the_class_stand_out():
    _, axes = plt.subplots()
    draw_boxes(axes, torch.tensor([[0, 0, 2, 2], [4, 4, 8, 6]]), ["car", "key"], relevant=1)
    first, second = axes.patches
    assert first.get_edgecolor() != second.get_edgecolor()
    assert (second.get_width(), second.get_height()) == (4, 2)
    plt.close()


def test_each_basis_picture_has_one_coefficient():
    mosaic = basis_mosaic(4)
    assert mosaic.shape == (19, 19)
    picture = mosaic[5:9, 10:14]
    expected = torch.zeros(4, 4, dtype=torch.float64)
    expected[1, 2] = 1
    torch.testing.assert_close(dct_2d(picture[None])[0], expected)
