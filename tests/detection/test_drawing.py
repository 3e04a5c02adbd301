"""Detections on images: each box says what is right or wrong about it."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from detection.random_detections import detections_of, objects_of, random_case
from matplotlib.patches import Rectangle

from kdlib.data.image_data import ImageData
from kdlib.detection.data import WholePhotographs
from kdlib.detection.error_types import ERRORS, error_types
from kdlib.errors import KdlibError
from study.figures.detection import MARKS, detection_grid, errors_of_images, judge_image

HERE, THERE, FAR = [0, 0, 20, 20], [30, 30, 50, 50], [55, 0, 64, 10]
CLASSES = ("cat", "dog", "bird", "a name that is rather long", "cow")


def data_of(objects, images=None):
    count = len(objects)
    if images is None:
        images = torch.arange(count * 3 * 48 * 64).remainder(256).byte().view(count, 3, 48, 64)
    same = (0.5, 0.5, 0.5)
    labels = torch.zeros(count, dtype=torch.int64)
    return ImageData(images, labels, CLASSES, same, same, "0", objects=objects)


def test_every_box_has_its_verdict():
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


def test_image_by_image_there_are_the_errors_of_all_together():
    found, objects = random_case(3)
    together = error_types(found, objects, 5)
    for name in ERRORS:
        counts = errors_of_images(found, objects, name, sure=0.0)
        assert int(counts.sum()) == together[name]["count"] and name in MARKS
    assert len(counts) == len(found)


def test_a_row_a_detector_and_a_column_an_image():
    found, objects = random_case(0)
    figure = detection_grid(data_of(objects), {"alone": found, "taught": found}, [0, 4, 1])
    grid = np.array(figure.axes).reshape(3, 3)
    counts = [[sum(isinstance(p, Rectangle) for p in axes.patches) for axes in row] for row in grid]
    assert counts[0] == [len(objects.of(number)[1]) for number in (0, 4, 1)]
    assert counts[1] == counts[2] and counts[1][2] == int((~objects.of(1)[2]).sum())
    assert [row[0].texts[-1].get_text() for row in grid] == ["truth", "alone", "taught"]
    assert not plt.get_fignums()
    figure.draw_without_rendering()
    drawn = figure.get_tightbbox()
    assert drawn.min.min() >= -0.01 and (drawn.max <= figure.get_size_inches() + 0.01).all()


def test_names_can_be_left_out_and_long_ones_are_cut():
    objects = objects_of([HERE], [3])
    texts = [
        [text.get_text() for text in detection_grid(data_of(objects), {}, [0], **how).axes[0].texts]
        for how in ({}, {"names": False})
    ]
    assert texts == [["a name that is r", "truth"], ["truth"]]


def test_photographs_are_read_when_they_are_drawn():
    shapes = [(20, 30, 3), (40, 60, 3)]
    photographs = WholePhotographs(lambda n: np.zeros(shapes[n], np.uint8), np.array([1, 0]))
    objects = objects_of([HERE, [0, 0, 9, 9]], [0, 1], counts=[1, 1])
    figure = detection_grid(data_of(objects, photographs), {}, [1, 0])
    assert [axes.images[0].get_array().shape for axes in figure.axes] == shapes


def test_what_cannot_be_drawn_is_told():
    found, objects = random_case(0)
    data = data_of(objects)
    with pytest.raises(KdlibError, match="'x' has detections of 29 images, but there are 30"):
        detection_grid(data, {"x": found[1:]}, [0])
    with pytest.raises(KdlibError, match="no image 30; there are 0 to 29"):
        detection_grid(data, {"x": found}, [30])
    with pytest.raises(KdlibError, match="at least one position"):
        detection_grid(data, {"x": found}, [])
    with pytest.raises(KdlibError, match="load task='detection'"):
        detection_grid(replace(data, objects=None), {}, [0])
