"""Pictures show what they are given, and show it once; boxes say what is right about them."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from atoms import label_pictures
from boxes import MARKS, detection_grid, errors_of_images, judge_image
from detection.detectors import detections_of, objects_of, random_case
from matplotlib.patches import Rectangle
from PIL import Image

from kdlib import KdlibError
from kdlib.data.image_data import IGNORED, ImageData
from kdlib.detection.average_precision import ERRORS, error_types
from kdlib.detection.objects import WholePhotographs
from study.figures import pictures

IMAGES = torch.arange(3 * 3 * 8 * 8).view(3, 3, 8, 8).remainder(256).to(torch.uint8)
CLASSES = ("cat", "dog", "bird", "a name that is rather long", "cow")
HERE, THERE, FAR = [0, 0, 20, 20], [30, 30, 50, 50], [55, 0, 64, 10]


def drawn(figure, number=0):
    """What the panels with pictures show: the first drawn, or the one over it."""
    return [axes.images[number].get_array() for axes in figure.axes if axes.images[number:]]


def test_panels_show_images_under_their_titles_and_leave_no_figure_open():
    figure = pictures.image_grid(IMAGES, ["a", "b", "c"], columns=2)
    assert [axes.get_title() for axes in figure.axes][:3] == ["a", "b", "c"]
    assert len(drawn(figure)) == 3
    assert (drawn(figure)[1] == IMAGES[1].permute(1, 2, 0).numpy()).all()
    maps, stages = [torch.rand(4, 4), torch.rand(2, 2)], ["stage 1: 4 px", "stage 2: 2 px"]
    figure = pictures.attention_overlays(IMAGES[0], {"teacher": maps, "student": maps})
    assert [a.get_title() for a in figure.axes] == ["teacher", *stages, "student", *stages]
    assert drawn(figure, 1)[0].shape == (8, 8)
    maps = {"stage 1": torch.arange(48).view(3, 4, 4) + 20, "stage 2": torch.ones(3, 2, 2).long()}
    found = drawn(label_pictures(IMAGES, maps))
    assert len(found) == 9 and np.max(found[3]) == 11 and np.max(found[6]) == 0
    assert not plt.get_fignums()


def test_classes_of_masks_have_colours_of_their_own_and_scales_are_shared_if_asked():
    colours = pictures.mask_pictures(torch.arange(256).view(1, 16, 16))[0].flatten(1).T
    assert colours.dtype == torch.uint8 and colours[IGNORED].tolist() == [255] * 3
    assert int(colours[0].max()) < 50
    assert len({tuple(colour) for colour in colours[:70].tolist()}) == 70
    maps = {"x": torch.tensor([[-1.0, 3.0, float("nan")]]), "flat": torch.zeros(2, 2)}
    signed, shared = (
        [axes.images[0].get_clim() for axes in pictures.named_maps(maps, **{name: True}).axes]
        for name in ("signed", "one_scale")
    )
    assert signed[0] == (-3, 3) and signed[1][0] < signed[1][1] and shared == [(-1, 3), (-1, 3)]


def test_boxes_of_the_class_stand_out():
    _, axes = plt.subplots()
    pictures.draw_boxes(axes, torch.tensor([[0, 0, 2, 2], [4, 4, 8, 6]]), ["a", "b"], relevant=1)
    first, second = axes.patches
    assert first.get_edgecolor() != second.get_edgecolor()
    assert (second.get_width(), second.get_height()) == (4, 2)
    plt.close()


def data_of(objects, images=None):
    if images is None:
        images = torch.zeros(len(objects), 3, 48, 64, dtype=torch.uint8)
    labels, same = torch.zeros(len(objects)).long(), (0.5, 0.5, 0.5)
    return ImageData(images, labels, CLASSES, same, same, "0", objects=objects)


def test_every_box_has_its_verdict_and_image_by_image_there_are_the_errors_of_all_together():
    objects = objects_of([HERE, THERE, FAR], [0, 1, 2])
    boxes = [HERE, THERE, [32, 30, 50, 50], HERE, [5, 30, 15, 44], FAR]
    found = detections_of(boxes, [0, 2, 1, 0, 3, 2], [0.9, 0.8, 0.7, 0.6, 0.5, 0.1])
    one = judge_image(found, objects, sure=0.3)
    told = zip(map(tuple, one.boxes.tolist()), one.kinds.tolist(), one.types, strict=True)
    assert sorted(told) == [
        (tuple(HERE), 0, "dupe"), (tuple(HERE), 0, "right"), ((5, 30, 15, 44), 3, "bkg"),
        (tuple(THERE), 2, "cls"), ((32, 30, 50, 50), 1, "right"), (tuple(FAR), 2, "miss"),
    ]  # fmt: skip
    assert np.isnan(one.scores[one.types.index("miss")])
    found, objects = random_case(3)
    together = error_types(found, objects, 5)
    for name in ERRORS:
        counts = errors_of_images(found, objects, name, sure=0.0)
        assert int(counts.sum()) == together[name]["count"] and name in MARKS
    assert len(counts) == len(found)


def test_a_row_a_detector_and_a_column_an_image_and_photographs_are_read_when_drawn(tmp_path):
    found, objects = random_case(0)
    figure = detection_grid(data_of(objects), {"alone": found, "taught": found}, [0, 4, 1])
    grid = np.array(figure.axes).reshape(3, 3)
    counts = [[sum(isinstance(p, Rectangle) for p in axes.patches) for axes in row] for row in grid]
    assert counts[0] == [len(objects.of(number)[1]) for number in (0, 4, 1)]
    assert counts[1] == counts[2] and counts[1][2] == int((~objects.of(1)[2]).sum())
    assert [row[0].texts[-1].get_text() for row in grid] == ["truth", "alone", "taught"]
    figure.draw_without_rendering()
    extent = figure.get_tightbbox()
    assert extent.min.min() >= -0.01 and (extent.max <= figure.get_size_inches() + 0.01).all()
    data = data_of(objects_of([HERE], [3]))
    grids = (detection_grid(data, {}, [0], names=names) for names in (True, False))
    texts = [[text.get_text() for text in figure.axes[0].texts] for figure in grids]
    assert texts == [["a name that is r", "truth"], ["truth"]] and not plt.get_fignums()
    sizes, paths = [(30, 20), (60, 40)], [tmp_path / "a.png", tmp_path / "b.png"]
    for path, size in zip(paths, sizes, strict=True):
        Image.new("RGB", size).save(path)
    objects = objects_of([HERE, [0, 0, 9, 9]], [0, 1], counts=[1, 1])
    data = data_of(objects, WholePhotographs(paths, sizes))
    assert [image.shape[1::-1] for image in drawn(detection_grid(data, {}, [1, 0]))] == sizes[::-1]


def test_what_cannot_be_drawn_is_told():
    found, objects = random_case(0)
    data = data_of(objects)
    for detections, positions, message in (
        (found[1:], [0], "'x' has detections of 29 images, but there are 30"),
        (found, [30], "no image 30; there are 0 to 29"),
        (found, [], "at least one position"),
    ):
        with pytest.raises(KdlibError, match=message):
            detection_grid(data, {"x": detections}, positions)
    with pytest.raises(KdlibError, match="load task='detection'"):
        detection_grid(replace(data, objects=None), {}, [0])
