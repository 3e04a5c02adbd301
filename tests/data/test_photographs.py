"""Photographs: torchvision's pixels, windows to every edge, streams that nothing shifts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from photographs import photograph
from PIL import Image
from torchvision import transforms

from kdlib.data import load_data
from kdlib.data.batches import Batches
from kdlib.data.image_data import ImageData
from kdlib.data.photographs import Photographs, decoded, resized_shape, resized_side, worker_count
from kdlib.errors import KdlibError

pytestmark = pytest.mark.usefixtures("own_cache")
SIZES = [(60, 40), (40, 60), (33, 32), (200, 31), (32, 32), (29, 47)]
SHAPE = (40, 32)


def numbered(count: int = 10, size: int = 28, read=None) -> ImageData:
    """Photographs whose pixels tell which one they are of, and their row and column."""

    def picture(position: int) -> np.ndarray:
        rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
        return np.stack([np.full(SHAPE, position), rows, columns], axis=-1).astype(np.uint8)

    names = tuple(str(index) for index in range(count))
    images = Photographs(read or picture, np.arange(count), size)
    return ImageData(images, torch.arange(count), names, (0.0,) * 3, (1 / 255,) * 3, "digits")


def epoch(batch_size: int, *augmentation: str, number: int = 0, count: int = 10):
    batches = Batches(numbered(count), batch_size, augmentation).epoch(1, number)
    wholes = [(batch.images, batch.labels, batch.indices) for batch in batches]
    images, labels, indices = (torch.cat(parts) for parts in zip(*wholes, strict=True))
    return images.round().int(), labels, indices


@pytest.mark.parametrize("size", SIZES)
def test_the_middle_is_torchvision_s_to_the_bit(tmp_path, size):
    for split in ("train", "test"):
        photograph(tmp_path / split / "cat" / "1.png", 1, size)
    theirs = transforms.Compose(
        [transforms.Resize(resized_side(28)), transforms.CenterCrop(28), transforms.PILToTensor()]
    )
    data = load_data("imagefolder", "test", image_size=28, data_root=tmp_path)
    with Image.open(tmp_path / "test" / "cat" / "1.png") as picture:
        assert torch.equal(data.images.centres()[0], theirs(picture.convert("RGB")))


def test_the_published_sizes():
    assert (resized_side(224), resized_side(112)) == (256, 128)


@pytest.mark.parametrize("size", SIZES)
def test_the_header_tells_the_shape_of_the_resized_photograph(tmp_path, size):
    photograph(tmp_path / "1.png", 1, size)
    path = str(tmp_path / "1.png")
    assert decoded(path, 32).shape == (*resized_shape(path, 32), 3)


def test_a_random_crop_is_a_window_and_reaches_every_edge():
    images, labels, _ = epoch(16, "random_crop", count=250)
    assert (images[:, 0] == labels[:, None, None]).all()
    tops, lefts = images[:, 1, 0, 0], images[:, 2, 0, 0]
    assert (images[:, 1, -1, 0] == tops + 27).all() and (images[:, 2, 0, -1] == lefts + 27).all()
    assert (tops.unique().tolist(), lefts.unique().tolist()) == ([*range(13)], [*range(5)])


def test_the_batch_size_shifts_neither_order_nor_random_crop():
    for mine, theirs in zip(
        epoch(3, "flip", "random_crop"), epoch(7, "flip", "random_crop"), strict=True
    ):
        assert torch.equal(mine, theirs)


def test_a_random_crop_moves_neither_order_nor_flips():
    images, _, indices = epoch(4, "flip", "random_crop")
    plain, _, order = epoch(4, "flip")
    assert torch.equal(indices, order)
    assert torch.equal(
        images[:, 2, 0, 0] > images[:, 2, 0, -1], plain[:, 2, 0, 0] > plain[:, 2, 0, -1]
    )


def test_epochs_give_other_windows_and_evaluation_the_middle():
    assert not torch.equal(epoch(4, "random_crop")[0], epoch(4, "random_crop", number=1)[0])
    images = torch.cat([batch.images for batch in Batches(numbered(), 4).in_order()]).round()
    assert (images[:, 1, 0, 0] == 6).all() and (images[:, 2, 0, 0] == 2).all()


def test_parts_of_photographs_are_read_no_earlier_than_asked_for():
    asked = []

    def read(position):
        asked.append(position)
        return np.zeros((28, 28, 3), np.uint8)

    data = numbered(read=read).part(4, 7)
    assert len(data) == len(data.images) == 3 and not asked
    assert data.first(2).images.centres().shape == (2, 3, 28, 28)
    assert sorted(asked) == [4, 5]


def test_a_stopped_epoch_leaves_no_thread_that_reads(monkeypatch):
    import threading

    batches = Batches(numbered(), 2, ("random_crop",)).epoch(0, 0)
    next(batches)
    batches.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("photographs")]


def test_random_crop_is_for_photographs_alone():
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    data = ImageData(images, torch.zeros(2).long(), ("a",), (0.0,) * 3, (1.0,) * 3, "digits")
    with pytest.raises(KdlibError, match="'random_crop'.*use 'crop'"):
        Batches(data, 2, ("random_crop",))


def test_photographs_go_with_crop_as_well():
    assert epoch(4, "flip", "crop")[0].shape == (10, 3, 28, 28)


@pytest.mark.parametrize("given", ["0", "-1", "many"])
def test_a_number_of_workers_that_is_none_is_refused(monkeypatch, given):
    monkeypatch.setenv("KDLIB_WORKERS", given)
    with pytest.raises(KdlibError, match="KDLIB_WORKERS"):
        worker_count()


def test_a_data_set_too_large_for_the_device_stays_where_it_is(monkeypatch):
    from kdlib.data import batches

    monkeypatch.setattr(batches, "_fits", lambda size, device: False)
    images = torch.randint(0, 256, (6, 3, 8, 8), dtype=torch.uint8)
    data = ImageData(images, torch.arange(6), ("a",) * 6, (0.0,) * 3, (1 / 255,) * 3, "digits")
    held = Batches(data, 4)
    assert held.images is images
    assert torch.equal(torch.cat([b.images for b in held.in_order()]).round(), images.float())


def test_the_file_is_named_when_it_breaks_in_the_middle_of_an_epoch(tmp_path):
    for split in ("train", "test"):
        for number in range(6):
            photograph(tmp_path / split / "cat" / f"{number}.jpg", number)
    broken = Path(tmp_path / "train" / "cat" / "3.jpg")
    broken.write_bytes(broken.read_bytes()[:-300])
    data = load_data("imagefolder", "train", image_size=28, data_root=tmp_path)
    with pytest.raises(KdlibError, match=r"cat/3\.jpg cannot be read"):
        list(Batches(data, 2, ("flip",)).epoch(0, 0))
