"""Batches: the same epoch again and again, whatever the batch size; augmentation that fits."""

import pytest
import torch

from kdlib.data.batches import Batches, parts_of
from kdlib.data.image_data import ImageData
from kdlib.errors import KdlibError


def numbered(count: int = 10, size: int = 6) -> ImageData:
    """Images whose pixels tell which image, row and column they are."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, size, size), generator=generator).byte()
    labels = torch.arange(count)
    names = tuple(str(index) for index in range(count))
    return ImageData(images, labels, names, (0.0,) * 3, (1 / 255,) * 3, "fingerprint")


def epoch(batch_size: int, *augmentation: str, seed: int = 1, number: int = 0):
    batches = list(Batches(numbered(), batch_size, augmentation).epoch(seed, number))
    wholes = [(batch.images, batch.labels, batch.indices) for batch in batches]
    return tuple(torch.cat(parts) for parts in zip(*wholes, strict=True))


def test_every_image_comes_once_in_an_epoch():
    assert sorted(epoch(3)[1].tolist()) == list(range(10))


def test_the_batch_size_shifts_neither_order_nor_augmentation():
    for mine, theirs in zip(epoch(3, "flip", "crop"), epoch(7, "flip", "crop"), strict=True):
        assert torch.equal(mine, theirs)


def test_seeds_and_epochs_give_other_orders():
    orders = [epoch(5, seed=s, number=n)[2].tolist() for s, n in ((1, 0), (1, 1), (2, 0))]
    assert len({tuple(order) for order in orders}) == 3


def test_augmentation_leaves_the_order_alone():
    assert torch.equal(epoch(5)[2], epoch(5, "flip", "crop")[2])


def test_flip_mirrors_some_images_and_leaves_the_others():
    images, _, indices = epoch(5, "flip")
    plain = numbered().images[indices].float()
    same = (images.round() == plain).flatten(1).all(1)
    mirrored = (images.round() == plain.flip(-1)).flatten(1).all(1)
    assert (same | mirrored).all() and same.any() and mirrored.any()


def test_crop_shifts_by_four_pixels_at_most():
    images, _, indices = epoch(5, "crop")
    plain = numbered().images[indices].float()
    padded = torch.nn.functional.pad(plain, [4] * 4)
    for image, wide in zip(images.round(), padded, strict=True):
        windows = [wide[:, y : y + 6, x : x + 6] for y in range(9) for x in range(9)]
        assert any(torch.equal(image, window) for window in windows)


def test_images_are_normalised():
    data = numbered()
    batch = next(Batches(data, 10).in_order())
    assert torch.allclose(batch.images, data.images.float(), atol=1e-3)
    assert len(Batches(data, 4)) == 3


def test_an_unknown_augmentation_is_refused():
    with pytest.raises(KdlibError, match="Unknown augmentation 'flop'.*Did you mean 'flip'"):
        Batches(numbered(), 3, ("flop",))


@pytest.mark.parametrize(
    ("count", "size", "lengths"),
    [
        (8, 4, [4, 4]),
        (9, 4, [4, 5]),
        (10, 4, [4, 4, 2]),
        (3, 1, [1, 1, 1]),
        (1, 4, [1]),
        (2, 4, [2]),
    ],
)
def test_no_image_is_left_alone_in_the_last_batch(count, size, lengths):
    """A batch norm of maps of one pixel would have one value, and nothing to take a mean of."""
    parts = parts_of(torch.arange(count), size)
    assert [len(part) for part in parts] == lengths
    assert torch.cat(parts).tolist() == list(range(count))
