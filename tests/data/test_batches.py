"""Batches: the same epoch again and again, whatever the batch size; augmentation as published."""

import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import starmap

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from kdlib import KdlibError, RunConfig
from kdlib.data.batches import Batch, Batches, parts_of
from kdlib.data.image_data import IGNORED, ImageData
from kdlib.data.photographs import Photographs
from kdlib.frskd.mixing import MIXTURES, mixture, with_rotations

PLAIN = ((0.0,) * 3, (1 / 255,) * 3, "digest")
NAMES = tuple(map(str, range(200)))


def images(count: int = 10, size: int = 6) -> ImageData:
    pixels = torch.randint(0, 256, (count, 3, size, size), generator=torch.manual_seed(0)).byte()
    return ImageData(pixels, torch.arange(count), NAMES[:count], *PLAIN)


def masked(count: int = 40) -> ImageData:
    """Images whose pixels' value is their class, so that one shows where the other went."""
    masks = torch.randint(0, 200, (count, 16, 16), generator=torch.manual_seed(0)).byte()
    pixels = masks[:, None].expand(-1, 3, -1, -1).contiguous()
    return ImageData(pixels, torch.zeros(count).long(), NAMES, *PLAIN, masks=masks)


def numbered(count: int = 10, read: Callable | None = None) -> ImageData:
    """Photographs of 40 x 32 whose pixels tell which one they are of, and their row and column."""

    def picture(position: int) -> np.ndarray:
        return np.stack([np.full((40, 32), position), *np.mgrid[:40, :32]], -1).astype(np.uint8)

    photographs = Photographs(read or picture, np.arange(count), 28)
    return ImageData(photographs, torch.arange(count), (*NAMES, *NAMES)[:count], *PLAIN)


def epoch(data: ImageData, size: int, *augmentation: str, seed: int = 1, number: int = 0):
    made = list(Batches(data, size, augmentation).epoch(seed, number))
    return tuple(torch.cat(parts) for parts in zip(*(batch[:3] for batch in made), strict=True))


def same(one, other) -> bool:
    return all(starmap(torch.equal, zip(one, other, strict=True)))


@pytest.mark.parametrize(
    ("data", "cut"), [(images(), "crop"), (numbered(), "random_crop"), (masked(10), "crop")]
)
def test_an_epoch_is_a_function_of_seed_and_number_alone(data, cut):
    first = epoch(data, 3, "flip", cut)
    assert same(first, epoch(data, 3, "flip", cut)) and same(first, epoch(data, 7, "flip", cut))
    assert sorted(first[2].tolist()) == list(range(10))
    assert torch.equal(first[2], epoch(data, 5)[2]), "augmentation moves the order"
    assert not torch.equal(first[0], epoch(data, 3, "flip", cut, number=1)[0])
    orders = [epoch(data, 5, seed=s, number=n)[2].tolist() for s, n in ((1, 0), (1, 1), (2, 0))]
    assert len(set(map(tuple, orders))) == 3


def test_flip_mirrors_some_images_and_crop_shifts_them_by_four_pixels_masks_with_their_images():
    data = images()
    made, _, indices = epoch(data, 5, "flip")
    plain = data.images[indices].float()
    kept, mirrored = ((made.round() == one).flatten(1).all(1) for one in (plain, plain.flip(-1)))
    assert (kept | mirrored).all() and kept.any() and mirrored.any()
    made, _, indices = epoch(data, 5, "crop")
    padded = torch.nn.functional.pad(data.images[indices].float(), [4] * 4)
    for image, wide in zip(made.round(), padded, strict=True):
        windows = wide.unfold(1, 6, 1).unfold(2, 6, 1)  # (3, 9, 9, 6, 6)
        assert (windows == image[:, None, None]).all(4).all(3).all(0).any()
    data, moved = masked(), 0
    for batch in Batches(data, 16, ("flip", "crop")).epoch(0, 0):
        inside = batch.labels != IGNORED
        assert torch.equal(batch.images[:, 1].round().long()[inside], batch.labels[inside])
        assert not batch.images[:, 1][~inside].any() and inside[:, 4:-4, 4:-4].all()
        moved += int((batch.labels != data.masks[batch.indices]).flatten(1).any(1).sum())
    assert moved > 30


def test_black_crop_pads_with_black_where_crop_pads_with_the_mean():
    data = replace(images(), mean=(0.5,) * 3, std=(0.5,) * 3)
    grey, black = (epoch(data, 5, cut)[0] for cut in ("crop", "black_crop"))
    outside = (grey == 0).all(1, keepdim=True).expand_as(grey)
    assert outside.any() and (black[outside] == -1).all()
    assert torch.equal(black.where(~outside, 0), grey)


def test_a_resized_crop_is_of_any_size_and_shape_that_it_may_have():
    rows, columns = np.mgrid[:224, :224].astype("u1")
    photographs = Photographs(lambda _: np.dstack([rows, columns, rows]), np.arange(400), 32)
    data = replace(numbered(400), images=photographs)
    made = epoch(data, 50, "resized_crop")[0].round()
    high, wide = (made[:, one].flatten(1).aminmax(dim=1) for one in (0, 1))
    high, wide = ((most - least + 1) / 224 for least, most in (high, wide))
    assert 0.05 < (high * wide).min() < 0.12 and (high * wide).max() > 0.9
    shapes = (wide / high)[(high < 0.8) & (wide < 0.8)]
    assert 0.7 < shapes.min() < 0.8 and 1.25 < shapes.max() < 1.4
    assert made[:, :2].min() < 3 and made[:, :2].max() > 220


def test_images_in_order_are_normalised_and_nothing_else_and_none_is_left_alone_in_a_batch():
    data = images()
    held = Batches(data, 4, ("flip", "crop", "mixup", "sla"))
    made = list(held.in_order())
    assert len(held) == len(made) == 3 and all(batch.mixed is None for batch in made)
    torch.testing.assert_close(torch.cat([b.images for b in made]), data.images.float())
    # A batch norm of maps of one pixel would have one value, and nothing to take a mean of.
    for count, size, lengths in ((8, 4, [4, 4]), (9, 4, [4, 5]), (3, 1, [1, 1, 1]), (1, 4, [1])):
        parts = parts_of(torch.arange(count), size)
        assert [len(part) for part in parts] == lengths
        assert torch.cat(parts).tolist() == list(range(count))


@pytest.mark.parametrize(("data", "names", "says"), [
    (images(), ("flop",), "Unknown augmentation 'flop'.*Did you mean 'flip'"),
    (images(), ("mixup", "cutmix"), "Choose one of mixup and cutmix"),
    (images(), ("random_crop",), "'random_crop'.*use 'crop'"),
    (images(), ("resized_crop",), "'resized_crop'.*use 'crop'"),
    (masked(), ("black_crop",), "'black_crop' moves no masks.*use 'crop'"),
    (masked(), ("sla",), "'sla' changes the label.*pixels have labels. Valid: flip, crop"),
    (ImageData(["a"], torch.zeros(1), NAMES, *PLAIN), (), "for detectors; task 'crops'"),
])  # fmt: skip
def test_an_augmentation_that_does_not_fit_is_refused(data, names, says):
    with pytest.raises(KdlibError, match=says):
        Batches(data, 3, names)


def test_a_random_crop_is_a_window_that_reaches_every_edge_and_moves_nothing_else():
    def pixels(*augmentation: str) -> torch.Tensor:
        return epoch(numbered(250), 4, *augmentation)[0].round().int()

    made, labels = pixels("random_crop"), epoch(numbered(250), 4)[1]
    assert (made[:, 0] == labels[:, None, None]).all()
    tops, lefts = made[:, 1, 0, 0], made[:, 2, 0, 0]
    assert (made[:, 1, -1, 0] == tops + 27).all() and (made[:, 2, 0, -1] == lefts + 27).all()
    assert (tops.unique().tolist(), lefts.unique().tolist()) == ([*range(13)], [*range(5)])
    flipped = (images[:, 2, 0, 0] > images[:, 2, 0, -1]
               for images in (pixels("flip", "random_crop"), pixels("flip")))  # fmt: skip
    assert torch.equal(*flipped)
    middle = torch.cat([batch.images for batch in Batches(numbered(), 4).in_order()]).round()
    assert (middle[:, 1, 0, 0] == 6).all() and (middle[:, 2, 0, 0] == 2).all()
    assert pixels("flip", "crop").shape == (250, 3, 28, 28)


def test_photographs_are_read_no_earlier_than_asked_for_and_threads_end():
    asked = []
    data = numbered(read=lambda position: asked.append(position) or np.zeros((28, 28, 3), "u1"))
    part = data.part(4, 7)
    assert len(part) == len(part.images) == 3 and not asked
    assert part.first(2).images.centres().shape == (2, 3, 28, 28) and sorted(asked) == [4, 5]
    batches = Batches(data, 2, ("random_crop",)).epoch(0, 0)
    next(batches)
    del batches  # closed alone, Python 3.12.3 keeps what it holds
    assert not [t for t in threading.enumerate() if t.name.startswith("photographs")]


def some(count: int = 6, size: int = 8) -> Batch:
    made = torch.randn(count, 3, size, size, generator=torch.manual_seed(0))
    return Batch(made, torch.arange(count), torch.arange(count))


def test_mixup_is_that_of_torchvision():
    for seed in range(5):
        made = mixture(some(), "mixup", np.random.default_rng(seed))
        share = np.random.default_rng(seed).beta(0.2, 0.2)
        theirs = v2.MixUp(alpha=0.2, num_classes=16)
        expected = theirs.transform(some().images, {"lam": share, "labels": None, "batch_size": 6})
        torch.testing.assert_close(made.images, expected)
        assert made.mixed.share == share and torch.equal(made.labels, some().labels)
        assert made.mixed.labels.tolist() == [5, 0, 1, 2, 3, 4]


def test_cutmix_pastes_one_box_of_the_area_that_was_drawn_and_counts_its_pixels():
    differences, plain = [], some(2, 64)
    for seed in range(200):
        made = mixture(plain, "cutmix", np.random.default_rng(seed))
        taken = (made.images != plain.images).any(1)
        expected = torch.where(taken[:, None], plain.images.roll(1, 0), plain.images)
        assert torch.equal(made.images, expected) and torch.equal(taken[0], taken[1])
        assert taken[0].sum() == taken[0].any(0).sum() * taken[0].any(1).sum(), "a box"
        assert made.mixed.share == pytest.approx(1 - taken[0].float().mean().item())
        differences.append(made.mixed.share - np.random.default_rng(seed).beta(1, 1))
    assert min(differences) > -0.04, "the border can only take of the box"
    assert (np.abs(differences) < 0.04).mean() > 0.2


def test_rotations_are_classes_the_first_are_upright_and_mixed_images_turn_too():
    plain = mixture(some(), "mixup", np.random.default_rng(0))
    turned = with_rotations(plain, 16)
    assert [RunConfig(augmentation=some).outputs(16) for some in (["flip", "sla"], [])] == [64, 16]
    for turns in range(4):
        part = slice(6 * turns, 6 * turns + 6)
        assert torch.equal(turned.images[part], torch.rot90(plain.images, turns, (2, 3)))
        assert torch.equal(turned.labels[part], plain.labels + 16 * turns)
        assert torch.equal(turned.mixed.labels[part], plain.mixed.labels + 16 * turns)
        assert torch.equal(turned.indices[part], plain.indices)


@pytest.mark.parametrize("name", [*MIXTURES, "sla"])
def test_mixing_is_a_function_of_the_epoch_and_leaves_order_flips_and_crops(name):
    plain, first, second, other = (
        list(Batches(images(40, 16), 16, ("flip", "crop", *names)).epoch(7, number))
        for names, number in (((), 0), ((name,), 0), ((name,), 0), ((name,), 1))
    )
    for one, two, before in zip(first, second, plain, strict=True):
        count = len(before.images)
        assert same(one[:3], two[:3])
        assert same((part[:count] for part in one[1:3]), before[1:3])
        if name == "mixup":
            expected = before.images.lerp(before.images.roll(1, 0), 1 - one.mixed.share)
            torch.testing.assert_close(one.images, expected)
        if name == "sla":
            assert torch.equal(one.images[:count], before.images)
    assert not torch.equal(first[0].images, other[0].images)
