"""Mixup, CutMix and rotations as classes: as published, and the same whenever they are made."""

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from kdlib.data import load_data
from kdlib.data.batches import Batch, Batches, mixture, output_count, with_rotations
from kdlib.errors import KdlibError
from kdlib.tasks import MIXTURES

CLASSES = 16


def some(count: int = 6, size: int = 8) -> Batch:
    stream = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, size, size, generator=stream)
    return Batch(images, torch.arange(count) % CLASSES, torch.arange(count))


@pytest.fixture(scope="module")
def scenes():
    return load_data("scenes", "train", size=40, image_size=32)


@pytest.mark.parametrize("seed", range(5))
def test_mixup_is_that_of_torchvision(seed):
    mixed = mixture(some(), "mixup", np.random.default_rng(seed))
    share = np.random.default_rng(seed).beta(0.2, 0.2)
    assert mixed.mixed.share == share
    theirs = v2.MixUp(alpha=0.2, num_classes=CLASSES)
    images = theirs.transform(some().images, {"lam": share, "labels": None, "batch_size": 6})
    torch.testing.assert_close(mixed.images, images)
    assert torch.equal(mixed.labels, some().labels)
    assert mixed.mixed.labels.tolist() == [5, 0, 1, 2, 3, 4]


@pytest.mark.parametrize("seed", range(20))
def test_cutmix_pastes_one_box_and_counts_its_pixels(seed):
    plain, mixed = some(), mixture(some(), "cutmix", np.random.default_rng(seed))
    taken = (mixed.images != plain.images).any(1)
    assert torch.equal(mixed.images[taken[:, None].expand_as(mixed.images)],
                       plain.images.roll(1, 0)[taken[:, None].expand_as(mixed.images)])  # fmt: skip
    assert all(torch.equal(one, taken[0]) for one in taken)
    rows, columns = taken[0].nonzero(as_tuple=True)
    if len(rows):
        box = (rows.max() - rows.min() + 1) * (columns.max() - columns.min() + 1)
        assert box == len(rows)
    assert mixed.mixed.share == pytest.approx(1 - len(rows) / 64)


def test_the_box_of_cutmix_has_the_area_that_was_drawn_where_nothing_is_cut_off():
    drawn, found = [], []
    for seed in range(200):
        mixed = mixture(some(2, 64), "cutmix", np.random.default_rng(seed))
        share = np.random.default_rng(seed).beta(1, 1)
        drawn.append(share)
        found.append(mixed.mixed.share)
    differences = np.array(found) - np.array(drawn)
    assert (differences > -0.04).all()  # the border can only take of the box
    assert (np.abs(differences) < 0.04).mean() > 0.2


def test_rotations_are_classes_and_the_first_are_upright():
    plain, turned = some(), with_rotations(some(), CLASSES)
    assert output_count(CLASSES, ("flip", "sla")) == 64 and output_count(CLASSES, ("flip",)) == 16
    for turns in range(4):
        part = slice(6 * turns, 6 * turns + 6)
        assert torch.equal(turned.images[part], torch.rot90(plain.images, turns, (2, 3)))
        assert torch.equal(turned.labels[part], plain.labels + 16 * turns)
        assert torch.equal(turned.indices[part], plain.indices)


def test_mixed_images_can_be_turned_too():
    both = with_rotations(mixture(some(), "mixup", np.random.default_rng(0)), CLASSES)
    assert both.images.shape[0] == 24
    assert torch.equal(both.mixed.labels % CLASSES, both.mixed.labels[:6].repeat(4))


@pytest.mark.parametrize("name", [*MIXTURES, "sla"])
def test_an_epoch_is_a_function_of_seed_and_number(scenes, name):
    first, second, other = (
        list(Batches(scenes, 16, ("flip", name)).epoch(7, epoch)) for epoch in (3, 3, 4)
    )
    for one, two in zip(first, second, strict=True):
        assert torch.equal(one.images, two.images) and torch.equal(one.labels, two.labels)
        assert one.mixed is None or one.mixed.share == two.mixed.share
    assert not torch.equal(first[0].images, other[0].images)


def test_mixing_leaves_order_flips_and_crops_as_they_were(scenes):
    plain, mixed = (
        list(Batches(scenes, 16, ("flip", "crop", *names)).epoch(7, 0))
        for names in ((), ("mixup",))
    )
    for one, two in zip(plain, mixed, strict=True):
        assert torch.equal(one.indices, two.indices) and torch.equal(one.labels, two.labels)
        expected = one.images.lerp(one.images.roll(1, 0), 1 - two.mixed.share)
        torch.testing.assert_close(two.images, expected)
    (turned, *_) = Batches(scenes, 16, ("flip", "crop", "sla")).epoch(7, 0)
    assert torch.equal(turned.images[:16], plain[0].images)


def test_evaluation_is_never_mixed(scenes):
    for batch in Batches(scenes, 16, ("mixup", "sla")).in_order():
        assert batch.mixed is None and len(batch.images) <= 16


def test_two_mixtures_at_once_are_refused(scenes):
    with pytest.raises(KdlibError, match="Choose one of mixup and cutmix"):
        Batches(scenes, 16, ("mixup", "cutmix"))
