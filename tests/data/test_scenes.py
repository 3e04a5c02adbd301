"""Scenes: reproducible by index, true to their ground truth, never two classes at once."""

import hashlib
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from kdlib import KdlibError, load_data
from kdlib.data import scenes as render
from kdlib.data.scenes import SCENE_CLASSES, ObjectBank, Recipe, sprite_bank
from kdlib.frskd.segmentation import kinds_seen

SEED = 3


def scenes_of(indices, seed=SEED, **options):
    recipe = replace(Recipe(SCENE_CLASSES), **options)
    return render.compose(sprite_bank(), recipe, seed, np.asarray(indices))


def chosen(recipe: Recipe, count: int, bank: ObjectBank | None = None):
    """Labels (N,), objects (N, n) and objects of each class (N, classes) of scenes not drawn."""
    indices, bank = np.arange(count), bank or sprite_bank()
    labels = indices % len(recipe.classes)
    objects = render.choose_objects(bank, recipe, SEED, indices, labels)
    return labels, objects, render.membership(bank, recipe)[objects].sum(1)


def bank_of(kinds: str, shades: tuple[int, ...] = (255,)) -> ObjectBank:
    """Opaque squares, an exemplar of each shade."""
    pictures = torch.full((len(kinds), len(shades), 4, 8, 8), 255, dtype=torch.uint8)
    pictures[:, :, :3] = torch.tensor(shades).view(1, -1, 1, 1, 1)
    return ObjectBank(tuple(kinds), pictures)


@pytest.mark.parametrize("size", [16, 32, 96])
def test_an_image_is_the_same_in_any_batch_and_order(size):
    together, other = scenes_of(range(20), size=size), scenes_of(range(20), SEED + 1, size=size)
    pieces = [scenes_of(part, size=size) for part in (range(7), [7], range(19, 7, -1))]
    for name in ("images", "labels", "objects", "owners"):
        first, one, rest = (getattr(piece, name) for piece in pieces)
        assert torch.equal(getattr(together, name), torch.cat([first, one, rest.flip(0)]))
    assert together.images.shape == (20, 3, size, size) and together.images.float().std() > 10
    assert not (other.images == together.images).flatten(1).all(1).any()


@pytest.mark.parametrize("attentions", [1, 2, 3, 4])
@pytest.mark.parametrize("distractors", [0, 4, 6])
@pytest.mark.parametrize("source", [render.embedded, render.combinations])
def test_a_scene_has_its_class_quorum_and_no_other(attentions, distractors, source):
    recipe = source("train", 9, 64, attentions=attentions, distractors=distractors, sample=0).recipe
    labels, objects, counts = chosen(recipe, 1600)
    own = counts[np.arange(1600), labels]
    counts[np.arange(1600), labels] = 0
    assert (own == attentions).all() and (counts < attentions).all()
    assert all(len(set(row)) == attentions + distractors for row in objects.tolist())
    assert np.bincount(labels).tolist() == [100] * len(SCENE_CLASSES)
    if source == render.combinations:
        assert {len(own) for own in recipe.classes.values()} == {attentions}
        assert not render.membership(sprite_bank(), recipe)[objects[:, attentions:]].any()
    elif attentions == 2 and distractors:
        assert set(objects.flatten().tolist()) == set(range(len(sprite_bank().kinds)))


def test_the_sprites_are_those_that_records_know_scenes_by():
    """Their ``source`` alone is in fingerprints of data: other pixels must have another one."""
    bank, known = sprite_bank(), ("lollipop", "8c43f4c529485e79", "71d2511febc499bb")
    digest = hashlib.sha256(bank.pictures.numpy().tobytes()).hexdigest()
    assert (bank.kinds[67], digest[:16], bank.source[:16]) == known


def test_classes_that_overlap_make_no_second_quorum():
    names = [set(own) for own in SCENE_CLASSES.values()]
    assert max(len(a & b) for i, a in enumerate(names) for b in names[:i]) == 1
    assert all(len(own) == 4 for own in names)
    recipe = Recipe({"one": tuple("abc"), "two": tuple("bcd")}, distractors=1)
    counts = chosen(recipe, 50, bank_of("abcde"))[2]
    assert (counts.min(1) < 2).all() and (counts.max(1) == 2).all()


def test_a_kind_shows_all_its_exemplars():
    recipe, shades = Recipe({"one": tuple("abc")}, 1, 0, size=32), torch.tensor((40, 120, 250))
    found = render.compose(bank_of("abc", (40, 120, 250)), recipe, SEED, np.arange(60))
    sums = (found.images * found.relevance[:, None]).flatten(1).sum(1)
    shown = sums / (3 * found.relevance.flatten(1).sum(1))
    assert set((shades - shown[:, None]).abs().argmin(1).tolist()) == {0, 1, 2}


def test_masks_kinds_boxes_and_relevance_agree():
    found = scenes_of(range(300), distractors=8)
    masks = found.masks
    assert (masks.sum(1) <= 1).all(), "two objects own one pixel"
    assert torch.equal(found.relevance, masks[:, :2].any(1))
    kinds = (masks * (found.objects + 1)[..., None, None]).sum(1)
    assert torch.equal(kinds_seen(found).long(), kinds)
    for mask, box in zip(masks[:50].flatten(0, 1), found.boxes[:50].flatten(0, 1), strict=True):
        rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
        ends = [columns[:1], rows[:1], columns[-1:] + 1, rows[-1:] + 1]
        assert box.tolist() == (torch.cat(ends).tolist() or [0, 0, 0, 0])
    visible = scenes_of(range(300)).masks[:, :2].sum((2, 3)) > 20
    assert visible.float().mean() > 0.98, "the objects that define the class can be seen"


@pytest.mark.parametrize(("change", "says"), [
    ({"attentions": 0}, "1 to 4"), ({"attentions": 5}, "1 to 4"), ({"distractors": -1}, "0 to 12"),
    ({"size": 4}, "image_size is 4.*16 to 512"), ({"attentions": True}, "whole number"),
    ({"attentions": 1, "distractors": 12}, "valid here: 0 to 7"),
    ({"classes": {"zoo": ("unicorn",)}}, "no object 'unicorn'"),
    ({"classes": dict.fromkeys("ab", ("bed", "car"))}, "Class 'a' cannot show attentions=2"),
])  # fmt: skip
def test_a_recipe_that_cannot_be_composed_is_refused(change, says):
    with pytest.raises(KdlibError, match=says):
        scenes_of(range(50), **change)


@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_parts_of_a_split_have_their_own_truth_and_splits_do_not_overlap(task):
    train, fit, dev, test = (
        load_data("scenes", split, size=40, image_size=32, task=task)
        for split in ("train", "fit", "dev", "test")
    )
    assert {len(part) for part in (train, fit, dev, test)} == {40} and dev.task == task
    assert torch.equal(fit.images, train.images)
    for one, other in combinations((train, dev, test), 2):
        assert not any((other.images == image).all((1, 2, 3)).any() for image in one.images)
    places = torch.arange(40)
    truth = render.scenes("train", 2, 4, 32, places)
    assert torch.equal(train.images, truth.images)
    if task == "segmentation":
        assert torch.equal(train.masks, kinds_seen(truth))
        assert torch.equal(dev.masks, kinds_seen(render.scenes("dev", 2, 4, 32, places)))
        assert train.classes == ("background", *sprite_bank().kinds) and not train.labels.any()
    else:
        assert torch.equal(train.relevance(places), truth.relevance)
        seen = render.scenes("dev", 2, 4, 32, places).relevance
        assert torch.equal(dev.relevance(places), seen)
        assert torch.equal(train.labels, truth.labels) and train.relevance(places).any((1, 2)).all()


def test_the_fingerprint_changes_with_recipe_difficulty_task_and_split(monkeypatch):
    def of(split="test", **options):
        return load_data("scenes", split, size=2, image_size=16, **options).fingerprint

    found = {of(), of(attentions=1), of(attentions=3), of("train"), of(task="segmentation")}
    monkeypatch.setattr(render, "NOISE", 0.0)
    assert len(found | {of()}) == 6
