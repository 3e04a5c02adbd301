"""Boxes and kinds of scenes are the composer's own truth."""

import numpy as np
import pytest
import torch
from data_files import write_fashion

from kdlib.data import load_data, tasks_of
from kdlib.data.scenes import scenes, sprite_bank
from kdlib.errors import KdlibError


@pytest.fixture(autouse=True)
def cache(own_cache):
    return own_cache


def loaded(split: str = "test", size: int = 12, **options):
    return load_data("scenes", split, size=size, task="detection", **options)


def test_each_object_has_the_box_of_what_is_seen_of_it():
    data, truth = loaded(), scenes("test", 2, 4, 64, torch.arange(12))
    assert torch.equal(data.images, truth.images) and data.task == "detection"
    assert data.classes == sprite_bank().kinds and not data.labels.any()
    assert data.objects.counts.tolist() == [6] * 12 and not data.objects.crowd.any()
    for image in range(12):
        boxes, kinds, _ = data.objects.of(image)
        assert kinds.tolist() == truth.objects[image].tolist()
        for place, (x1, y1, x2, y2) in enumerate(boxes.int().tolist()):
            rows, columns = np.nonzero(truth.owners[image].numpy() == place + 1)
            seen = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert (x1, y1, x2, y2) == seen


def test_objects_that_are_hardly_seen_are_left_out():
    data, truth = loaded(size=200, distractors=12), scenes("test", 2, 12, 64, torch.arange(200))
    seen = truth.masks.flatten(2).sum(2)
    assert (seen < 20).any()
    assert torch.equal(data.objects.counts, (seen >= 20).sum(1))
    assert torch.equal(data.objects.kinds, truth.objects[seen >= 20])
    assert (data.objects.boxes[:, 2:] > data.objects.boxes[:, :2]).all()


@pytest.mark.parametrize("image_size", [32, 64])
def test_a_third_of_the_objects_is_small_and_a_third_large(image_size):
    objects = loaded(size=300, image_size=image_size).objects
    areas = (objects.boxes[:, 2:] - objects.boxes[:, :2]).prod(1)
    small, large = objects.sizes
    shares = ((areas < small).float().mean(), (areas >= large).float().mean())
    assert shares == pytest.approx((1 / 3, 1 / 3), abs=0.07)


def test_the_dev_split_has_its_own_objects():
    whole, dev = loaded("train", 10).objects, loaded("dev", 10).objects
    assert len(dev) == 2
    for mine, theirs in zip(dev.of(1), whole.of(9), strict=True):
        assert torch.equal(mine, theirs)


def test_scenes_of_garments_have_objects_too(tmp_path):
    root = write_fashion(tmp_path, 200)
    data = load_data("fashion_scenes", "train", size=4, data_root=root, task="detection")
    assert len(data.classes) == 50 and data.objects.counts.tolist() == [6] * 4


def test_which_data_sets_have_objects():
    assert tasks_of("coco") == ("detection", "crops")
    assert tasks_of("voc") == ("segmentation", "detection", "crops")
    with pytest.raises(KdlibError, match="cifar100.*detection.*scenes, fashion_scenes, voc, coco"):
        load_data("cifar100", "train", task="detection")
    with pytest.raises(KdlibError, match="'coco' has no truth for task 'classification'"):
        load_data("coco", "train")
