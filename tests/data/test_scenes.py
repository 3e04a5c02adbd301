"""Scenes: reproducible by index, true to their ground truth, never two classes at once."""

import hashlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from kdlib.data import load_data
from kdlib.data import scenes as render
from kdlib.data.scenes import (
    ATLAS,
    SCENE_CLASSES,
    ObjectBank,
    Recipe,
    choose_objects,
    compose,
    membership,
    scene_recipe,
    scenes,
    sprite_bank,
)
from kdlib.errors import KdlibError

pytestmark = pytest.mark.usefixtures("own_cache")
SEED = 3


def scenes_of(indices, **options):
    recipe = replace(scene_recipe(), **options)
    return compose(sprite_bank(), recipe, SEED, np.asarray(indices))


def chosen(bank: ObjectBank, recipe: Recipe, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) and objects (N, n) of so many scenes, which are not drawn."""
    indices = np.arange(count)
    labels = indices % len(recipe.classes)
    return labels, choose_objects(bank, recipe, SEED, indices, labels)


def test_an_image_is_the_same_in_any_batch_and_order():
    together = scenes_of(range(20))
    backwards = scenes_of(range(20)[::-1])
    pieces = [scenes_of(part) for part in (range(7), [7], range(8, 20))]
    for name in ("images", "labels", "objects", "owners"):
        whole = getattr(together, name)
        assert torch.equal(whole, getattr(backwards, name).flip(0))
        assert torch.equal(whole, torch.cat([getattr(piece, name) for piece in pieces]))
    other = compose(sprite_bank(), scene_recipe(), SEED + 1, np.arange(20))
    assert not (other.images == together.images).flatten(1).all(1).any()


@pytest.mark.parametrize("attentions", [1, 2, 3, 4])
@pytest.mark.parametrize("distractors", [0, 4, 6])
def test_a_scene_has_its_class_quorum_and_no_other(attentions, distractors):
    recipe = scene_recipe(attentions, distractors)
    labels, objects = chosen(sprite_bank(), recipe, 320)
    counts = membership(sprite_bank(), recipe)[objects].sum(1)
    own = counts[np.arange(320), labels]
    counts[np.arange(320), labels] = 0
    assert (own == attentions).all() and (counts < attentions).all()
    assert all(len(set(row)) == attentions + distractors for row in objects.tolist())


def test_classes_are_balanced_and_every_object_occurs():
    labels, objects = chosen(sprite_bank(), scene_recipe(), 1600)
    assert np.bincount(labels).tolist() == [100] * len(SCENE_CLASSES)
    assert set(objects.flatten().tolist()) == set(range(len(sprite_bank().kinds)))
    names = [set(own) for own in SCENE_CLASSES.values()]
    assert max(len(a & b) for i, a in enumerate(names) for b in names[:i]) == 1
    assert all(len(own) == 4 for own in names)


def bank_of(kinds: str, shades: tuple[int, ...] = (255,)) -> ObjectBank:
    """Opaque squares, an exemplar of each shade."""
    pictures = torch.full((len(kinds), len(shades), 4, 8, 8), 255, dtype=torch.uint8)
    pictures[:, :, :3] = torch.tensor(shades).view(1, -1, 1, 1, 1)
    return ObjectBank(tuple(kinds), pictures)


def test_classes_that_overlap_make_no_second_quorum():
    recipe = Recipe({"one": tuple("abc"), "two": tuple("bcd")}, distractors=1)
    counts = membership(bank_of("abcde"), recipe)[chosen(bank_of("abcde"), recipe, 50)[1]].sum(1)
    assert (counts.min(1) < 2).all() and (counts.max(1) == 2).all()


def test_a_kind_shows_all_its_exemplars():
    recipe = Recipe({"one": tuple("abc")}, attentions=1, distractors=0, size=32)
    shades = (40, 120, 250)
    found = compose(bank_of("abc", shades), recipe, SEED, np.arange(60))
    pairs = zip(found.images, found.relevance, strict=True)
    shown = [image[:, mask].float().mean() for image, mask in pairs]
    assert {int((torch.tensor(shades) - shade).abs().argmin()) for shade in shown} == {0, 1, 2}


def test_masks_kinds_boxes_and_relevance_agree():
    found = scenes_of(range(50), distractors=8)
    masks = found.masks
    assert (masks.sum(1) <= 1).all(), "two objects own one pixel"
    assert torch.equal(found.relevance, masks[:, :2].any(1))
    kinds = (masks * (found.objects + 1)[..., None, None]).sum(1)
    assert torch.equal(found.kinds.long(), kinds)
    for mask, box in zip(masks.flatten(0, 1), found.boxes.flatten(0, 1).tolist(), strict=True):
        rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
        corners = (
            [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else []
        )
        assert box == ([int(corner) for corner in corners] or [0, 0, 0, 0])
    visible = scenes_of(range(300)).masks[:, :2].sum((2, 3)) > 20
    assert visible.float().mean() > 0.98, "the objects that define the class can be seen"


@pytest.mark.parametrize("size", [16, 32, 96])
def test_any_size(size):
    found = scenes_of(range(4), size=size)
    assert found.images.shape == (4, 3, size, size) and found.images.float().std() > 10


@pytest.mark.parametrize(
    ("option", "value", "valid"),
    [("attentions", 0, "1 to 4"), ("attentions", 5, "1 to 4"), ("distractors", -1, "0 to 12"),
     ("size", 4, "image_size is 4.*16 to 512"), ("attentions", True, "whole number")],
)  # fmt: skip
def test_an_option_out_of_range_is_refused_with_its_range(option, value, valid):
    with pytest.raises(KdlibError, match=valid):
        replace(scene_recipe(), **{option: value})


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        (scene_recipe(1, 12), "valid here: 0 to 7"),
        (replace(scene_recipe(), classes={"zoo": ("unicorn",)}), "no object 'unicorn'"),
        (Recipe({"one": ("bed", "car"), "two": ("bed", "car")}), "cannot show attentions=2"),
    ],
)
def test_a_recipe_that_cannot_be_composed_is_refused(recipe, says):
    with pytest.raises(KdlibError, match=says):
        chosen(sprite_bank(), recipe, 50)


def test_the_atlas_is_the_one_that_was_published():
    """What records know scenes by does not hold for other sprites: fingerprints must change."""
    bank = sprite_bank()
    assert ATLAS.stat().st_size < 2**20
    assert "MIT License" in (ATLAS.parent / "LICENSE").read_text()
    assert len(bank.kinds) == 68 and bank.pictures.shape == (68, 1, 4, 64, 64)
    assert (bank.kinds[0], bank.kinds[-1]) == ("bathtub", "lollipop")
    digest = hashlib.sha256(bank.pictures.numpy().tobytes()).hexdigest()
    assert (digest[:16], bank.source[:16]) == ("8c43f4c529485e79", "71d2511febc499bb")


def test_normalisation_and_noise_are_what_they_say():
    data = load_data("scenes", "test", size=400)
    images = data.images.float() / 255
    assert torch.allclose(images.mean((0, 2, 3)), torch.tensor(data.mean), atol=0.02)
    assert torch.allclose(images.std((0, 2, 3)), torch.tensor(data.std), atol=0.02)
    assert data.mean == load_data("scenes", "train", size=20).mean
    field = render._noise_field(64)
    assert abs(field.std() - render.NOISE) < 0.05 * render.NOISE
    assert abs(field.mean()) < 0.1 * render.NOISE


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_parts_of_a_split_have_their_own_truth_and_splits_do_not_overlap(task):
    train, fit, dev, test = (
        load_data("scenes", split, size=40, image_size=32, task=task)
        for split in ("train", "fit", "dev", "test")
    )
    assert [len(part) for part in (train, fit, dev)] == [40, 32, 8] and dev.task == task
    assert torch.equal(torch.cat([fit.images, dev.images]), train.images)
    assert not any((test.images == image).all((1, 2, 3)).any() for image in train.images)
    places = torch.arange(40)
    truth = scenes("train", 2, 4, 32, places)
    assert torch.equal(train.images, truth.images)
    if task == "segmentation":
        assert torch.equal(train.masks, truth.kinds) and torch.equal(dev.masks, train.masks[32:])
        assert train.classes == ("background", *sprite_bank().kinds) and not train.labels.any()
    else:
        assert torch.equal(train.relevance(places), truth.relevance)
        assert torch.equal(dev.relevance(places[:8]), truth.relevance[32:])
        assert torch.equal(train.labels, truth.labels) and train.relevance(places).any((1, 2)).all()


def test_the_fingerprint_changes_with_recipe_difficulty_task_and_split(monkeypatch):
    def of(split="test", **options):
        return load_data("scenes", split, size=2, image_size=32, **options).fingerprint

    found = {of(), of(attentions=1), of(attentions=3), of("train"), of(task="segmentation")}
    monkeypatch.setattr(render, "NOISE", 0.0)
    assert len(found | {of()}) == 6
