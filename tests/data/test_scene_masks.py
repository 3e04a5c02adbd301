"""Masks of scenes are the composer's own truth, and move with their images."""

import numpy as np
import pytest
import torch
from data_files import write_fashion

from kdlib.data import load_data, tasks_of
from kdlib.data.batches import CROP_PADDING, Batches
from kdlib.data.image_data import IGNORED, ImageData
from kdlib.data.scenes import scenes, sprite_bank
from kdlib.errors import KdlibError


@pytest.fixture(autouse=True)
def cache(own_cache):
    return own_cache


def masked(split: str = "test", size: int = 12) -> ImageData:
    return load_data("scenes", split, size=size, image_size=32, task="segmentation")


def test_each_pixel_has_the_kind_of_the_object_that_is_seen_there():
    data, truth = masked(), scenes("test", 2, 4, 32, torch.arange(12))
    assert torch.equal(data.images, truth.images)
    assert data.classes == ("background", *sprite_bank().kinds)
    expected = np.zeros((12, 32, 32), np.uint8)
    for image, row, column in np.ndindex(expected.shape):
        owner = int(truth.owners[image, row, column])
        if owner:
            expected[image, row, column] = 1 + int(truth.objects[image, owner - 1])
    assert np.array_equal(data.masks, expected)
    assert 0.2 < (expected > 0).mean() < 0.8


def test_scenes_of_garments_have_masks_too(tmp_path):
    root = write_fashion(tmp_path, 200)
    data = load_data(
        "fashion_scenes", "train", size=4, image_size=32, data_root=root, task="segmentation"
    )
    assert len(data.classes) == 51 and int(data.masks.max()) > 0


def test_the_dev_split_has_its_own_masks():
    whole, dev = masked("train", 10), masked("dev", 10)
    assert torch.equal(dev.masks, whole.masks[8:])
    assert dev.task == "segmentation" and len(dev) == 2


def marked(count: int = 40) -> ImageData:
    """Images whose pixels' value is their class, so that one shows where the other went."""
    stream = torch.Generator().manual_seed(0)
    masks = torch.randint(0, 200, (count, 16, 16), generator=stream, dtype=torch.uint8)
    images = masks[:, None].expand(-1, 3, -1, -1).contiguous()
    names = tuple(map(str, range(200)))
    plain = ((0.0,) * 3, (1 / 255,) * 3)
    labels = torch.zeros(count, dtype=torch.int64)
    return ImageData(images, labels, names, *plain, "0", masks=masks)


def test_masks_are_mirrored_and_shifted_with_their_images():
    data, moved = marked(), 0
    for batch in Batches(data, 16, ("flip", "crop")).epoch(0, 0):
        inside = batch.labels != IGNORED
        assert torch.equal(batch.images[:, 1].round().long()[inside], batch.labels[inside])
        assert not batch.images[:, 1][~inside].any()
        assert (batch.labels[:, CROP_PADDING:-CROP_PADDING, CROP_PADDING:-CROP_PADDING] < 200).all()
        moved += int((batch.labels != data.masks[batch.indices]).flatten(1).any(1).sum())
    assert moved > 30


def test_what_has_no_truth_for_a_task_is_refused():
    assert (tasks_of("scenes"), tasks_of("voc")) == (
        ("classification", "segmentation", "detection", "crops"),
        ("segmentation", "detection", "crops"),
    )  # fmt: skip
    with pytest.raises(KdlibError, match=r"mit67.*segmentation.*scenes, fashion_scenes, voc"):
        load_data("mit67", "train", task="segmentation")
    with pytest.raises(KdlibError, match=r"'voc' has no truth for task 'classification'"):
        load_data("voc", "train")
    with pytest.raises(KdlibError, match="Did you mean 'segmentation'"):
        load_data("scenes", "train", task="segmentatoin")
