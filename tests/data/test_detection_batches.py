"""Batches for detectors: the same epoch again and again; boxes that move with their images."""

import numpy as np
import pytest
import torch
from data_files import write_voc_detection

from kdlib.data import load_data
from kdlib.data.batches import Batches
from kdlib.data.image_data import ImageData
from kdlib.detection.batches import DISTORTIONS, DetectionBatch, DetectionBatches
from kdlib.detection.data import Found, WholePhotographs, tabled
from kdlib.errors import KdlibError

SIDE = 40


def drawn(count: int = 30, side: int = SIDE) -> ImageData:
    """Black images with up to two white objects, so that a box can be told from the pixels.

    Every fifth has none; every seventh has a crowd of another colour besides.
    """
    random = np.random.default_rng(0)
    images, found = torch.zeros(count, 3, side, side, dtype=torch.uint8), []
    for index in range(count):
        corners = [(random.integers(0, 8) + 20 * k, random.integers(0, 24)) for k in range(2)]
        boxes = [(int(x), int(y), int(x) + 9, int(y) + 13) for x, y in corners[: index % 5]]
        for x1, y1, x2, y2 in boxes:
            images[index, :, y1:y2, x1:x2] = 255
        objects = [Found(box, index % 4, False) for box in boxes]
        found.append(objects + [Found((0, 0, 5, 5), 3, True)] * (index % 7 == 0))
    table = tabled(found, [(side, side)] * count)
    names, plain = tuple("abcd"), ((0.0,) * 3, (1.0,) * 3)
    return ImageData(images, torch.zeros(count).long(), names, *plain, "digits", objects=table)


def as_photographs(data: ImageData) -> ImageData:
    """The same, as photographs that are read one at a time."""
    pixels = data.images.permute(0, 2, 3, 1).numpy()
    images = WholePhotographs(pixels.__getitem__, np.arange(len(data)))
    return ImageData(images, data.labels, data.classes, data.mean, data.std, "digits",
                     objects=data.objects)  # fmt: skip


def epoch(data: ImageData, batch_size: int, *names: str, number: int = 0, workers: int = 0):
    batches = DetectionBatches(data, batch_size, names, workers=workers)
    return joined(list(batches.epoch(1, number)))


def joined(batches: list[DetectionBatch]) -> DetectionBatch:
    images = [image for batch in batches for image in batch.images]
    targets = [target for batch in batches for target in batch.targets]
    return DetectionBatch(images, targets, torch.cat([batch.indices for batch in batches]))


def equal(one: DetectionBatch, other: DetectionBatch) -> bool:
    """Whether two epochs are the same, to the bit."""
    pairs = zip(one.targets, other.targets, strict=True)
    return (
        torch.equal(one.indices, other.indices)
        and all(torch.equal(a, b) for a, b in zip(one.images, other.images, strict=True))
        and all(torch.equal(a[name], b[name]) for a, b in pairs for name in ("boxes", "labels"))
    )


def test_every_image_comes_once_with_its_objects():
    data = drawn()
    whole = epoch(data, 7)
    assert sorted(whole.indices.tolist()) == list(range(30))
    for image, target, index in zip(whole.images, whole.targets, whole.indices, strict=True):
        boxes, kinds, crowd = data.objects.of(int(index))
        assert torch.equal(image, data.images[index].float() / 255)
        assert torch.equal(target["boxes"], boxes[~crowd])
        assert torch.equal(target["labels"], kinds[~crowd] + 1)
        assert (target["boxes"].shape[1], target["labels"].dtype) == (4, torch.int64)
    assert any(not len(target["labels"]) for target in whole.targets)


def test_in_order_nothing_is_moved():
    data = drawn()
    batches = DetectionBatches(data, 8, ("flip", *DISTORTIONS))
    assert (len(batches), len(batches.labels)) == (4, 30)
    whole = joined(list(batches.in_order()))
    assert whole.indices.tolist() == list(range(30))
    assert equal(whole, joined(list(DetectionBatches(data, 30).in_order())))


@pytest.mark.parametrize("names", [("flip",), ("flip", "photometric"), ("flip", *DISTORTIONS)])
def test_neither_batch_size_nor_workers_shift_anything(names):
    expected = epoch(drawn(), 7, *names)
    assert equal(expected, epoch(drawn(), 4, *names))
    assert equal(expected, epoch(drawn(), 13, *names, workers=2))
    assert equal(expected, epoch(as_photographs(drawn()), 5, *names, workers=1))
    assert not equal(expected, epoch(drawn(), 7, *names, number=1))


def test_the_order_is_that_of_classifiers_and_augmentation_leaves_it_alone():
    theirs = torch.cat([batch.indices for batch in Batches(drawn(), 7).epoch(1, 0)])
    for names in ((), ("flip",), ("iou_crop",)):
        assert torch.equal(epoch(drawn(), 7, *names).indices, theirs)


def test_distortions_leave_the_flips_alone():
    plain, distorted = epoch(drawn(), 7, "flip"), epoch(drawn(), 7, "flip", "photometric")
    for mine, theirs in zip(plain.targets, distorted.targets, strict=True):
        assert torch.equal(mine["boxes"], theirs["boxes"])


@pytest.mark.parametrize("names", [
    ("flip",), ("flip", "zoom_out"), ("flip", "iou_crop"), ("scale_jitter",),
    ("flip", "zoom_out", "iou_crop", "scale_jitter"),
])  # fmt: skip
def test_boxes_move_with_their_objects(names):
    data, moved = drawn(), 0
    for number in range(4):
        whole = epoch(data, 7, *names, number=number)
        for image, target, index in zip(whole.images, whole.targets, whole.indices, strict=True):
            height, width = image.shape[1:]
            limits = torch.tensor([width, height]).repeat(2)
            assert (target["boxes"] >= 0).all() and (target["boxes"] <= limits).all()
            assert (target["boxes"][:, 2:] > target["boxes"][:, :2]).all()
            assert len(target["boxes"]) == len(target["labels"])
            moved += not torch.equal(target["boxes"], data.objects.of(int(index))[0])
            for box in target["boxes"]:
                x1, y1, x2, y2 = box.round().int().tolist()
                inside = image[:, y1:y2, x1:x2]
                if inside.numel() > 3 * 30:  # rounding and blurred edges say little of less
                    assert inside.mean() > 0.75
    assert moved > 20


def test_half_of_the_images_are_mirrored():
    data = drawn(200)
    whole = epoch(data, 50, "flip")
    same = [torch.equal(image, data.images[index].float() / 255)
            for image, index in zip(whole.images, whole.indices, strict=True)]  # fmt: skip
    assert 100 < sum(same) < 140  # every fifth is black


def test_global_random_numbers_are_left_alone():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for workers in (0, 1):
        epoch(drawn(), 7, "flip", *DISTORTIONS, workers=workers)
    assert torch.equal(torch.get_rng_state(), before)


def test_photographs_of_any_size_are_handed_out(tmp_path):
    data = load_data("voc", "train", task="detection", data_root=write_voc_detection(tmp_path))
    batches = DetectionBatches(data, 3, ("zoom_out", "iou_crop"), workers=2)
    shapes = {tuple(image.shape) for batch in batches.epoch(0, 0) for image in batch.images}
    assert len(shapes) > 3


def test_a_photograph_that_cannot_be_read_is_named_without_a_traceback(tmp_path):
    root = write_voc_detection(tmp_path)
    data = load_data("voc", "train", task="detection", data_root=root)
    (root / "VOCdevkit" / "VOC2007" / "JPEGImages" / "000011.jpg").write_bytes(b"no picture")
    for workers in (0, 1):
        with pytest.raises(KdlibError, match=r"000011\.jpg cannot be read") as error:
            list(DetectionBatches(data, 3, workers=workers).epoch(0, 0))
        assert "Traceback" not in str(error.value)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(KdlibError, match="Unknown augmentation for detectors 'flop'.*'flip'"):
        DetectionBatches(drawn(), 3, ("flop",))
    with pytest.raises(KdlibError, match="workers is -1"):
        DetectionBatches(drawn(), 3, workers=-1)
    plain = ImageData(torch.zeros(2, 3, 8, 8).byte(), torch.zeros(2).long(), ("a",), (0.0,) * 3,
                      (1.0,) * 3, "digits")  # fmt: skip
    with pytest.raises(KdlibError, match="images with objects"):
        DetectionBatches(plain, 3)
    with pytest.raises(KdlibError, match="task 'crops'"):
        Batches(as_photographs(drawn()), 3)
