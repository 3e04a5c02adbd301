"""Scenes: reproducible by index, true to their ground truth, never two classes at once."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from kdlib.data import dataset_names, load_data
from kdlib.data.cache import cache_root, cached
from kdlib.data.render import NOISE, _noise_field
from kdlib.data.scenes import (
    ATLAS,
    SCENE_CLASSES,
    ObjectBank,
    Recipe,
    compose,
    membership,
    scene_recipe,
    sprite_bank,
    sprites,
)
from kdlib.errors import KdlibError

SEED = 3


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))


def scenes_of(indices, **options):
    recipe = replace(scene_recipe(), **options)
    return compose(sprite_bank(), recipe, SEED, np.asarray(indices))


def test_an_image_is_the_same_in_any_batch_and_order():
    together = scenes_of(range(20))
    backwards = scenes_of(list(range(20))[::-1])
    alone = [scenes_of([index]) for index in range(20)]
    assert torch.equal(together.images, backwards.images.flip(0))
    assert all(torch.equal(together.images[i], one.images[0]) for i, one in enumerate(alone))
    assert all(torch.equal(together.owners[i], one.owners[0]) for i, one in enumerate(alone))


def test_a_large_batch_equals_its_pieces():
    pieces = [scenes_of(range(start, start + 7)).images for start in range(0, 70, 7)]
    assert torch.equal(scenes_of(range(70)).images, torch.cat(pieces))


def test_another_seed_gives_other_images():
    other = compose(sprite_bank(), scene_recipe(), SEED + 1, np.arange(4))
    assert not torch.equal(scenes_of(range(4)).images, other.images)


@pytest.mark.parametrize("attentions", [1, 2, 3, 4])
@pytest.mark.parametrize("distractors", [0, 4, 6])
def test_a_scene_has_its_class_quorum_and_no_other(attentions, distractors):
    scenes = scenes_of(range(320), attentions=attentions, distractors=distractors)
    table = torch.from_numpy(membership(sprite_bank(), scene_recipe())).long()
    counts = table[scenes.objects].sum(1)
    own = counts.gather(1, scenes.labels[:, None]).squeeze(1)
    others = counts.scatter(1, scenes.labels[:, None], 0)
    assert (own == attentions).all()
    assert (others < attentions).all()


def test_no_object_is_twice_in_a_scene():
    objects = scenes_of(range(200)).objects
    assert all(len(set(row)) == len(row) for row in objects.tolist())


def test_classes_are_balanced_and_every_object_occurs():
    scenes = scenes_of(range(1600))
    assert torch.bincount(scenes.labels).tolist() == [100] * len(SCENE_CLASSES)
    assert set(scenes.objects.flatten().tolist()) == set(range(len(sprite_bank().kinds)))


def test_two_classes_share_at_most_one_object():
    names = [set(objects) for objects in SCENE_CLASSES.values()]
    shared = [len(a & b) for i, a in enumerate(names) for b in names[:i]]
    assert max(shared) <= 1
    assert all(4 <= len(objects) <= 6 for objects in names)


def overlapping_bank(exemplars=1):
    pictures = torch.full((5, exemplars, 4, 8, 8), 255, dtype=torch.uint8)
    return ObjectBank(tuple("abcde"), pictures, tinted=True)


def test_classes_that_overlap_make_no_second_quorum():
    recipe = Recipe({"one": tuple("abc"), "two": tuple("bcd")}, distractors=1)
    table = torch.from_numpy(membership(overlapping_bank(), recipe)).long()
    counts = table[compose(overlapping_bank(), recipe, SEED, np.arange(50)).objects].sum(1)
    assert (counts.min(1).values < 2).all() and (counts.max(1).values == 2).all()


def test_classes_that_cannot_be_told_apart_are_refused():
    recipe = Recipe({"one": tuple("ab"), "two": tuple("ab")}, distractors=0)
    with pytest.raises(KdlibError, match="cannot show attentions=2"):
        compose(overlapping_bank(), recipe, SEED, np.arange(50))


def test_a_kind_shows_all_its_exemplars():
    bank = overlapping_bank(exemplars=3)
    shades = torch.tensor([40, 120, 250], dtype=torch.uint8)
    bank.pictures[:, :, :3] = shades.view(1, 3, 1, 1, 1)
    plain = ObjectBank(bank.kinds, bank.pictures)
    recipe = Recipe({"one": tuple("abc")}, attentions=1, distractors=0, size=32)
    scenes = compose(plain, recipe, SEED, np.arange(60))
    shown = [image[:, mask].float().mean() for image, mask in
             zip(scenes.images, scenes.relevance, strict=True)]  # fmt: skip
    nearest = {int((shades.float() - shade).abs().argmin()) for shade in shown}
    assert nearest == {0, 1, 2}


def test_masks_boxes_and_relevance_agree():
    scenes = scenes_of(range(50))
    masks, boxes = scenes.masks, scenes.boxes
    assert (masks.sum(1) <= 1).all(), "two objects own one pixel"
    assert torch.equal(scenes.relevance, masks[:, : scenes.attentions].any(1))
    for mask, box in zip(masks.flatten(0, 1), boxes.flatten(0, 1).tolist(), strict=True):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        if len(rows):
            corners = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box == [int(corner) for corner in corners]
        else:
            assert box == [0, 0, 0, 0]


def test_the_objects_that_define_the_class_can_be_seen():
    masks = scenes_of(range(500)).masks
    visible = masks[:, :2].sum((2, 3)) > 20
    assert visible.float().mean() > 0.98


@pytest.mark.parametrize("size", [16, 32, 96])
def test_any_size(size):
    scenes = scenes_of(range(4), size=size)
    assert scenes.images.shape == (4, 3, size, size)
    assert scenes.images.float().std() > 10


@pytest.mark.parametrize(
    ("option", "value", "valid"),
    [("attentions", 0, "1 to 4"), ("attentions", 5, "1 to 4"), ("distractors", -1, "0 to 12"),
     ("size", 4, "16 to 512")],
)  # fmt: skip
def test_an_option_out_of_range_is_refused_with_its_range(option, value, valid):
    with pytest.raises(KdlibError, match=valid):
        replace(scene_recipe(), **{option: value})


def test_too_many_objects_are_refused():
    with pytest.raises(KdlibError, match="valid here: 0 to 7"):
        scenes_of(range(4), attentions=1, distractors=12)


def test_an_unknown_object_is_named():
    with pytest.raises(KdlibError, match="no object 'unicorn'"):
        membership(sprite_bank(), Recipe({"zoo": ("unicorn",)}))


def test_the_atlas_is_small_and_carries_its_licence():
    assert ATLAS.stat().st_size < 2**20
    assert "MIT License" in (ATLAS.parent / "LICENSE").read_text()


def test_the_atlas_holds_what_the_classes_use():
    assert len(sprite_bank().kinds) == len(sprite_bank().pictures) == len(sprites())


def test_the_statistics_for_normalisation_are_those_of_the_images():
    data = load_data("scenes", "test", size=400)
    images = data.images.float() / 255
    assert torch.allclose(images.mean((0, 2, 3)), torch.tensor(data.mean), atol=0.02)
    assert torch.allclose(images.std((0, 2, 3)), torch.tensor(data.std), atol=0.02)
    assert data.mean == load_data("scenes", "train", size=20).mean


def test_the_noise_is_as_strong_as_it_says():
    field = _noise_field(64)
    assert abs(field.std() - NOISE) < 0.05 * NOISE
    assert abs(field.mean()) < 0.1 * NOISE


@pytest.mark.parametrize("size", [-1, 0, 1])
def test_a_size_without_images_is_refused(size):
    with pytest.raises(KdlibError, match="at least 2"):
        load_data("scenes", "train", size=size)


def test_the_smallest_set_still_has_both_parts():
    assert [len(load_data("scenes", split, size=2)) for split in ("fit", "dev")] == [1, 1]


def test_load_data_splits_do_not_overlap():
    train, fit, dev = (load_data("scenes", split, size=40) for split in ("train", "fit", "dev"))
    assert (len(train), len(fit), len(dev)) == (40, 32, 8)
    assert torch.equal(torch.cat([fit.images, dev.images]), train.images)
    test = load_data("scenes", "test", size=40)
    assert not any((test.images == image).all((1, 2, 3)).any() for image in train.images)


def test_relevance_of_a_part_is_that_of_the_whole():
    train, dev = (load_data("scenes", split, size=40) for split in ("train", "dev"))
    positions = torch.arange(8)
    assert torch.equal(dev.relevance(positions), train.relevance(positions + 32))
    assert train.relevance(positions).any((1, 2)).all()


def test_the_fingerprint_changes_with_the_recipe():
    prints = {load_data("scenes", "test", size=2, attentions=a).fingerprint for a in (1, 2, 3)}
    assert len(prints) == 3


def test_the_fingerprint_changes_with_the_difficulty(monkeypatch):
    before = load_data("scenes", "test", size=2).fingerprint
    monkeypatch.setattr("kdlib.data.render.NOISE", 0.0)
    assert load_data("scenes", "test", size=2).fingerprint != before


@pytest.mark.parametrize("checksums", [b"", b"{}", bytes(4), b"1234"])
def test_a_cache_with_bad_checksums_is_made_again(checksums):
    before = load_data("scenes", "test", size=4).images.clone()
    (file,) = cache_root().glob("scenes-*/sums")
    file.write_bytes(checksums)
    assert torch.equal(load_data("scenes", "test", size=4).images, before)


def test_a_truncated_cache_is_made_again():
    before = load_data("scenes", "test", size=4).images.clone()
    (file,) = cache_root().glob("scenes-*/images.npy")
    file.write_bytes(file.read_bytes()[:-1000])
    assert torch.equal(load_data("scenes", "test", size=4).images, before)


def test_what_a_killed_process_left_is_gone_on_with():
    made = []

    def make(rows, killed=False):
        if killed and rows[0] == 128:
            raise KeyboardInterrupt
        made.append(int(rows[0]))
        return {"rows": rows, "squares": rows[:, None] ** 2}

    with pytest.raises(KeyboardInterrupt):
        cached("mine", 300, lambda rows: make(rows, True), progress=False)
    found = cached("mine", 300, make, progress=False)
    assert made == [0, 64, 128, 192, 256]
    assert found["squares"][:, 0].tolist() == [row**2 for row in range(300)]


def test_an_empty_setting_means_the_default_cache(monkeypatch):
    monkeypatch.setenv("KDLIB_CACHE", "")
    assert cache_root().parts[-2:] == (".cache", "kdlib")


def test_a_cache_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(KdlibError, match="set KDLIB_CACHE"):
        load_data("scenes", "test", size=2)


def test_a_damaged_cache_is_made_again():
    before = load_data("scenes", "test", size=20).images.clone()
    (file,) = cache_root().glob("scenes-*/images.npy")
    content = bytearray(file.read_bytes())
    content[-100] ^= 0xFF
    file.write_bytes(content)
    assert torch.equal(load_data("scenes", "test", size=20).images, before)


def test_a_failure_while_making_a_cache_leaves_nothing(tmp_path):
    def fail(rows):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        cached("broken", 10, fail, progress=False)


def test_an_unknown_data_set_lists_the_valid_ones():
    with pytest.raises(KdlibError, match="Did you mean 'scenes'"):
        load_data("scene", "train")
    assert "scenes" in dataset_names()


def test_an_unknown_split_lists_the_valid_ones():
    with pytest.raises(KdlibError, match="test"):
        load_data("scenes", "validation")
