"""Batches for detectors: the same epoch again and again; boxes that move with their images."""

from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image

from kdlib.data.batches import Batches
from kdlib.data.image_data import ImageData
from kdlib.detection.batches import DISTORTIONS, DetectionBatch, DetectionBatches
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


@pytest.fixture(scope="module")
def data() -> ImageData:
    return drawn()


@pytest.fixture(scope="module")
def read(data, tmp_path_factory) -> ImageData:
    """The same, as photographs that are read one at a time."""
    folder = tmp_path_factory.mktemp("photographs")
    paths = [f"{folder}/{index}.png" for index in range(len(data))]
    for path, image in zip(paths, data.images, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    images = WholePhotographs(paths, [(SIDE, SIDE)] * len(data))
    return ImageData(images, data.labels, data.classes, *PLAIN, objects=data.objects)


def epoch(data: ImageData, batch_size: int, *names: str, number: int = 0, workers: int = 0):
    batches = DetectionBatches(data, batch_size, names, workers=workers)
    return joined(batches.epoch(1, number))


def joined(batches) -> DetectionBatch:
    images, targets, indices, _ = zip(*batches, strict=True)
    return DetectionBatch([*chain(*images)], [*chain(*targets)], torch.cat(indices))


def equal(one: DetectionBatch, other: DetectionBatch) -> bool:
    """Whether two epochs are the same, to the bit."""
    pairs = zip(one.targets, other.targets, strict=True)
    return (
        torch.equal(one.indices, other.indices)
        and all(torch.equal(a, b) for a, b in zip(one.images, other.images, strict=True))
        and all(torch.equal(a[name], b[name]) for a, b in pairs for name in ("boxes", "labels"))
    )


def test_every_image_comes_once_with_its_objects(data):
    whole = epoch(data, 7)
    theirs = torch.cat([batch.indices for batch in Batches(data, 7).epoch(1, 0)])
    assert torch.equal(whole.indices, theirs) and sorted(theirs.tolist()) == list(range(30))
    for image, target, index in zip(whole.images, whole.targets, whole.indices, strict=True):
        boxes, kinds, crowd = data.objects.of(int(index))
        assert torch.equal(image, data.images[index].float() / 255)
        assert torch.equal(target["boxes"], boxes[~crowd])
        assert torch.equal(target["labels"], kinds[~crowd] + 1)
        assert (target["boxes"].shape[1], target["labels"].dtype) == (4, torch.int64)
    assert any(not len(target["labels"]) for target in whole.targets)


def test_in_order_nothing_is_moved(data, read):
    batches = DetectionBatches(data, 8, ALL)
    assert (len(batches), len(batches.labels)) == (4, 30)
    whole = joined(batches.in_order())
    assert whole.indices.tolist() == list(range(30))
    for other in (data, read):
        assert equal(whole, joined(DetectionBatches(other, 30, workers=0).in_order()))


@pytest.mark.parametrize("names", [("flip",), ALL])
def test_neither_batch_size_nor_workers_shift_anything_nor_move_global_numbers(data, read, names):
    before = torch.get_rng_state()
    expected = epoch(data, 7, *names)
    assert equal(expected, epoch(data, 4, *names))
    assert equal(expected, epoch(data, 13, *names, workers=2))
    assert equal(expected, epoch(read, 5, *names, workers=1))
    assert not equal(expected, epoch(data, 7, *names, number=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_distortions_leave_the_order_and_the_flips_alone(data):
    plain, distorted = epoch(data, 7, "flip"), epoch(data, 7, "flip", "photometric")
    for mine, theirs in zip(plain.targets, distorted.targets, strict=True):
        assert torch.equal(mine["boxes"], theirs["boxes"])
    assert torch.equal(epoch(data, 7, "iou_crop").indices, plain.indices)


@pytest.mark.parametrize("names", [
    ("flip",), ("flip", "zoom_out"), ("flip", "iou_crop"), ("scale_jitter",),
    ("flip", "zoom_out", "iou_crop", "scale_jitter"),
])  # fmt: skip
def test_boxes_move_with_their_objects(data, names):
    moved = 0
    for number in range(2):
        whole = epoch(data, 7, *names, number=number)
        for image, target, index in zip(whole.images, whole.targets, whole.indices, strict=True):
            limits = torch.tensor([image.shape[2], image.shape[1]]).repeat(2)
            assert (target["boxes"] >= 0).all() and (target["boxes"] <= limits).all()
            assert (target["boxes"][:, 2:] > target["boxes"][:, :2]).all()
            assert len(target["boxes"]) == len(target["labels"])
            moved += not torch.equal(target["boxes"], data.objects.of(int(index))[0])
            for box in target["boxes"]:
                x1, y1, x2, y2 = box.round().int().tolist()
                inside = image[:, y1:y2, x1:x2]
                if inside.numel() > 3 * 30:  # rounding and blurred edges say little of less
                    assert inside.mean() > 0.75
    assert moved > 10


def test_half_of_the_images_are_mirrored():
    data = drawn(200)
    whole = epoch(data, 50, "flip")
    pairs = zip(whole.images, data.images[whole.indices].float() / 255, strict=True)
    assert 100 < sum(torch.equal(*pair) for pair in pairs) < 140  # every fifth is black


def test_what_makes_no_sense_is_refused(data, read):
    with pytest.raises(KdlibError, match="Unknown augmentation for detectors 'flop'.*'flip'"):
        DetectionBatches(data, 3, ("flop",))
    with pytest.raises(KdlibError, match="workers is -1"):
        DetectionBatches(data, 3, workers=-1)
    plain = ImageData(torch.zeros(2, 3, 8, 8).byte(), torch.zeros(2).long(), ("a",), *PLAIN)
    with pytest.raises(KdlibError, match="images with objects"):
        DetectionBatches(plain, 3)
    with pytest.raises(KdlibError, match="task 'crops'"):
        Batches(read, 3)
