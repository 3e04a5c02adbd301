"""Batches for detectors: the same epoch again and again; boxes that move with their images."""

import numpy as np
import pytest
import torch
from PIL import Image

from kdlib.data.batches import Batches
from kdlib.data.image_data import ImageData
from kdlib.detection.batches import DISTORTIONS, DetectionBatches
from kdlib.detection.objects import Found, WholePhotographs, tabled
from kdlib.errors import KdlibError

SIDE, ALL = 40, ("flip", *DISTORTIONS)
PLAIN = ((0.0,) * 3, (1.0,) * 3, "digits")


def drawn(count: int = 30) -> ImageData:
    """Black images with up to two white objects, so that a box can be told from the pixels.

    Every fifth has none; every seventh has a crowd of another colour besides.
    """
    random = np.random.default_rng(0)
    images, found = torch.zeros(count, 3, SIDE, SIDE, dtype=torch.uint8), []
    for index in range(count):
        corners = [(random.integers(0, 8) + 20 * k, random.integers(0, 24)) for k in range(2)]
        boxes = [(int(x), int(y), int(x) + 9, int(y) + 13) for x, y in corners[: index % 5]]
        for x1, y1, x2, y2 in boxes:
            images[index, :, y1:y2, x1:x2] = 255
        objects = [Found(box, index % 4) for box in boxes]
        found.append(objects + [Found((0, 0, 5, 5), 3, True)] * (index % 7 == 0))
    table = tabled(found, [(SIDE, SIDE)] * count)
    return ImageData(images, torch.zeros(count).long(), tuple("abcd"), *PLAIN, objects=table)


DATA = drawn()


@pytest.fixture(scope="module")
def read(tmp_path_factory) -> ImageData:
    """The same, as photographs that are read one at a time."""
    folder = tmp_path_factory.mktemp("photographs")
    paths = [f"{folder}/{index}.png" for index in range(len(DATA))]
    for path, image in zip(paths, DATA.images, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    images = WholePhotographs(paths, [(SIDE, SIDE)] * len(DATA))
    return ImageData(images, DATA.labels, DATA.classes, *PLAIN, objects=DATA.objects)


def rows(batches) -> list[list[torch.Tensor]]:
    """Of every image in turn: its number, pixels, boxes and labels."""
    return [
        [index, image, target["boxes"], target["labels"]]
        for images, targets, indices, _ in batches
        for index, image, target in zip(indices, images, targets, strict=True)
    ]


def epoch(data: ImageData, batch_size: int, *names: str, number: int = 0, workers: int = 0):
    return rows(DetectionBatches(data, batch_size, names, workers=workers).epoch(1, number))


def equal(one, other) -> bool:
    """Whether two epochs are the same, to the bit."""
    return all(all(map(torch.equal, *pair)) for pair in zip(one, other, strict=True))


def test_every_image_comes_once_with_its_objects():
    whole = epoch(DATA, 7)
    theirs = torch.cat([batch.indices for batch in Batches(DATA, 7).epoch(1, 0)]).tolist()
    assert [int(row[0]) for row in whole] == theirs and sorted(theirs) == list(range(30))
    for index, image, found, labels in whole:
        boxes, kinds, crowd = DATA.objects.of(int(index))
        expected = DATA.images[index].float() / 255, boxes[~crowd], kinds[~crowd] + 1
        assert all(map(torch.equal, (image, found, labels), expected))
        assert (found.shape[1], labels.dtype) == (4, torch.int64)
    assert any(not len(labels) for *_, labels in whole)


def test_in_order_nothing_is_moved_and_what_makes_no_sense_is_refused(read):
    batches = DetectionBatches(DATA, 8, ALL)
    assert (len(batches), len(batches.labels)) == (4, 30)
    whole = rows(batches.in_order())
    assert [int(row[0]) for row in whole] == list(range(30))
    for other in (DATA, read):
        assert equal(whole, rows(DetectionBatches(other, 30, workers=0).in_order()))
    plain = ImageData(torch.zeros(2, 3, 8, 8).byte(), torch.zeros(2).long(), ("a",), *PLAIN)
    for kind, data, options, says in (
        (DetectionBatches, DATA, {"augmentation": ("flop",)}, "Unknown augm.* 'flop'.*'flip'"),
        (DetectionBatches, DATA, {"workers": -1}, "workers is -1"),
        (DetectionBatches, plain, {}, "images with objects"),
        (Batches, read, {}, "task 'crops'"),
    ):
        with pytest.raises(KdlibError, match=says):
            kind(data, 3, **options)


@pytest.mark.parametrize("names", [("flip",), ALL])
def test_neither_batch_size_nor_workers_shift_anything_nor_move_global_numbers(read, names):
    before, expected = torch.get_rng_state(), epoch(DATA, 7, *names)
    assert equal(expected, epoch(DATA, 4, *names))
    assert equal(expected, epoch(DATA, 13, *names, workers=2))
    assert equal(expected, epoch(read, 5, *names, workers=1))
    assert not equal(expected, epoch(DATA, 7, *names, number=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_distortions_leave_the_order_and_the_flips_alone():
    plain, shaded = epoch(DATA, 7, "flip"), epoch(DATA, 7, "flip", "photometric")
    assert all(torch.equal(a[2], b[2]) for a, b in zip(plain, shaded, strict=True))
    moved = epoch(DATA, 7, "iou_crop")
    assert all(torch.equal(a[0], b[0]) for a, b in zip(plain, moved, strict=True))
    data = drawn(200)
    pairs = (
        (image, data.images[index].float() / 255) for index, image, *_ in epoch(data, 50, "flip")
    )
    assert 100 < sum(torch.equal(*pair) for pair in pairs) < 140  # half; every fifth is black


@pytest.mark.parametrize("names", [
    ("flip",), ("flip", "zoom_out"), ("flip", "iou_crop"), ("scale_jitter",),
    ("flip", "zoom_out", "iou_crop", "scale_jitter"),
])  # fmt: skip
def test_boxes_move_with_their_objects(names):
    moved = 0
    for row in (row for number in range(2) for row in epoch(DATA, 7, *names, number=number)):
        index, image, boxes, labels = row
        limits = torch.tensor([image.shape[2], image.shape[1]]).repeat(2)
        assert (boxes >= 0).all() and (boxes <= limits).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all() and len(boxes) == len(labels)
        moved += not torch.equal(boxes, DATA.objects.of(int(index))[0])
        for x1, y1, x2, y2 in boxes.round().int().tolist():
            inside = image[:, y1:y2, x1:x2]
            if inside.numel() > 3 * 30:  # rounding and blurred edges say little of less
                assert inside.mean() > 0.75
    assert moved > 10
