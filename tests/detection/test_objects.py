"""The table of objects; crops by their boxes; the boxes of Scenes are the composer's own truth."""

import numpy as np
import pytest
import torch
from data_files import SHADES, write_fashion
from hypothesis import given, settings
from hypothesis import strategies as st

from kdlib.data import load_data, tasks_of
from kdlib.data.batches import Batches
from kdlib.data.image_data import ImageData
from kdlib.data.scenes import scenes, sprite_bank
from kdlib.detection.objects import COCO_SIZES, Found, cropped, tabled
from kdlib.errors import KdlibError

SHAPES = [(64, 48), (20, 10), (30, 30)]
OF_ONE = st.lists(
    st.builds(Found, st.tuples(*[st.integers(-20, 90)] * 4), st.integers(0, 9), st.booleans()),
    max_size=4,
)


def loaded(split: str = "test", size: int = 10, **options) -> ImageData:
    return load_data("scenes", split, size=size, **{"task": "detection", **options})


@settings(max_examples=40, deadline=None)
@given(st.lists(OF_ONE, min_size=3, max_size=3))
def test_each_image_has_its_own_objects_clipped_or_dropped(found):
    objects, rows = tabled(found, SHAPES), []
    assert len(objects) == 3 and objects.sizes == COCO_SIZES == (1024, 9216)
    for index, (of_image, (width, height)) in enumerate(zip(found, SHAPES, strict=True)):
        clipped = [
            ([max(0, x1), max(0, y1), min(width, x2), min(height, y2)], kind, crowd)
            for (x1, y1, x2, y2), kind, crowd in of_image
        ]
        kept = [one for one in clipped if one[0][2] > one[0][0] and one[0][3] > one[0][1]]
        boxes, kinds, crowd = objects.of(index)
        assert [*zip(boxes.tolist(), kinds.tolist(), crowd.tolist(), strict=True)] == kept
        assert boxes.shape == (len(kept), 4) and boxes.dtype == torch.float32
        rows += [index] * len(kept)
    assert objects.owners.tolist() == rows
    counted, part = objects.counted(), objects.part(1, 9)
    assert len(counted) == 3 and counted.kinds.tolist() == objects.kinds[~objects.crowd].tolist()
    assert len(part) == 2 and len(objects.part(1, 1)) == 0
    assert all(map(torch.equal, part.of(1), objects.of(2)))


def test_a_box_without_area_is_dropped_but_not_one_that_is_thinner_than_a_pixel():
    without = (4, 4, 4, 9), (9, 9, 4, 4), (64, 0, 80, 10)  # corners swapped; touching the edge
    found = [Found(box, 3) for box in ((3.5, 3.5, 3.75, 9), *without)]
    assert tabled([found], SHAPES[:1]).boxes.tolist() == [[3.5, 3.5, 3.75, 9]]


def of_rectangles() -> ImageData:
    """One image, 4 x 4 pixels a rectangle of its own value, and one without objects."""
    values = torch.arange(4, dtype=torch.uint8).view(2, 2) * 50 + 20
    image = values.repeat_interleave(4, 0).repeat_interleave(4, 1).expand(3, 8, 8)
    boxes = [(0, 0, 4, 4), (4, 0, 8, 4), (0, 4, 8, 8)]
    found = [Found(box, kind, kind == 2) for kind, box in enumerate(boxes)]
    images, objects = (
        torch.stack([torch.zeros_like(image), image]),
        tabled([[], found], [(8, 8)] * 2),
    )
    plain = (0.0,) * 3, (1.0,) * 3
    return ImageData(images, torch.zeros(2).long(), tuple("abc"), *plain, "01", objects=objects)


def test_a_crop_shows_what_is_in_its_box_and_nothing_else():
    crops = cropped(of_rectangles(), 8)
    assert crops.images.shape == (2, 3, 8, 8) and crops.labels.tolist() == [0, 1]  # no crowd
    for crop, value in zip(crops.images, (20, 70), strict=True):
        assert (crop == value).all()  # a margin, or its neighbour's pixels, would show
    assert (crops.task, crops.objects, crops.classes) == ("classification", None, ("a", "b", "c"))
    # A box of any shape is stretched to a square.
    data, crops = loaded(), loaded(task="crops", crop_size=24)
    assert crops.images.shape == (len(data.objects.kinds), 3, 24, 24)
    assert torch.equal(crops.labels, data.objects.kinds)
    x1, y1, x2, y2 = data.objects.boxes[7].int().tolist()
    window = data.images[int(data.objects.owners[7]), :, y1:y2, x1:x2].float().unsqueeze(0)
    expected = torch.nn.functional.interpolate(window, size=24, mode="bilinear", antialias=True)
    assert (crops.images[7] - expected[0]).abs().max() <= 1.5


def test_crops_are_cut_out_of_their_own_split():
    fit, dev, whole = (loaded(split, task="crops") for split in ("fit", "dev", "train"))
    assert torch.equal(torch.cat([fit.images, dev.images]), whole.images)
    own, prints = cropped(loaded("dev"), 32), {one.fingerprint for one in (fit, dev, whole)}
    assert torch.equal(dev.images, own.images) and dev.fingerprint == own.fingerprint
    objects, part = loaded("train").objects, loaded("dev").objects
    assert len(part) == 2 and all(map(torch.equal, part.of(1), objects.of(9)))
    assert len(prints) == 3


def test_crops_of_photographs_are_read_when_asked_for(photographs):
    name, root = photographs
    data = load_data(name, "test", task="crops", crop_size=16, data_root=root)
    assert len(data) == 5  # the difficult one, or the crowd, is left out
    batch = next(Batches(data, 8).in_order())
    middle = batch.images[:, :, 8, 8] * torch.tensor(data.std) + torch.tensor(data.mean)
    shades = torch.tensor([SHADES[data.classes[label]] for label in data.labels])
    assert (255 * middle - shades).abs().max() < 8


@pytest.mark.parametrize(("ask", "says"), [
    *((lambda s=s: loaded(task="crops", crop_size=s), f"crop_size is {s}; .* 8 to 512")
      for s in (7, 513, 32.0, True)),
    (lambda: cropped(of_rectangles().first(1), 8), "none of the images has an object"),
    (lambda: cropped(loaded(task="crops"), 8), "images with objects, and this data has none"),
    (lambda: load_data("cifar100", "train", task="detection"),
     "cifar100.*detection.*scenes, fashion_scenes, voc, coco"),
    (lambda: load_data("coco", "train"), "'coco' has no truth for task 'classification'"),
])  # fmt: skip
def test_what_cannot_be_cut_out_or_loaded_is_refused(ask, says):
    with pytest.raises(KdlibError, match=says):
        ask()
    assert tasks_of("coco") == ("detection", "crops")
    assert tasks_of("voc") == ("segmentation", "detection", "crops")


def test_each_object_of_scenes_has_the_box_of_what_is_seen_of_it(tmp_path):
    data, truth = loaded(size=12), scenes("test", 2, 4, 64, torch.arange(12))
    assert torch.equal(data.images, truth.images) and data.task == "detection"
    assert data.classes == sprite_bank().kinds and not data.labels.any()
    assert data.objects.counts.tolist() == [6] * 12 and not data.objects.crowd.any()
    assert torch.equal(data.objects.kinds.view(12, 6), truth.objects)
    for place, box in enumerate(data.objects.boxes.int().tolist()):
        rows, columns = np.nonzero(truth.owners[place // 6].numpy() == place % 6 + 1)
        assert box == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    root = write_fashion(tmp_path, 200)
    data = load_data("fashion_scenes", "train", size=4, data_root=root, task="detection")
    assert len(data.classes) == 50 and data.objects.counts.tolist() == [6] * 4


def test_objects_that_are_hardly_seen_are_left_out_and_a_third_is_small_a_third_large():
    data, truth = loaded(size=200, distractors=12), scenes("test", 2, 12, 64, torch.arange(200))
    seen = truth.masks.flatten(2).sum(2)
    assert (seen < 20).any()
    assert torch.equal(data.objects.counts, (seen >= 20).sum(1))
    assert torch.equal(data.objects.kinds, truth.objects[seen >= 20])
    assert (data.objects.boxes[:, 2:] > data.objects.boxes[:, :2]).all()
    for image_size in (32, 64):
        objects = loaded(size=300, image_size=image_size).objects
        areas = (objects.boxes[:, 2:] - objects.boxes[:, :2]).prod(1)
        small, large = objects.sizes
        shares = ((areas < small).float().mean(), (areas >= large).float().mean())
        assert shares == pytest.approx((1 / 3, 1 / 3), abs=0.07)
