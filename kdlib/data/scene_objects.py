"""Composed scenes with their objects' boxes and kinds, as the composer itself knows them.

A box is what is seen of an object. These are the same images as those that classifiers see, from
the same cache; their boxes have a cache of their own, made when they are first asked for. An
object of which next to nothing is seen is not asked for: it is left out.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from kdlib.data.cache import Arrays, cached
from kdlib.data.compose import ObjectBank, Recipe, Scenes, compose
from kdlib.data.image_data import ImageData
from kdlib.data.objects import Objects
from kdlib.data.pixels import fingerprint
from kdlib.data.scene_truth import fashion_scenes_with, scenes_with
from kdlib.data.scenes import split_seed

SMALLEST_SEEN = 20 / 64**2
"""Share of the image's pixels that must be seen of an object: 20 pixels of 64 x 64."""
SIDES = (17.3 / 64, 20 / 64)
"""Sides, as shares of the image's, of the squares that part the objects' areas in equal thirds."""


def seen_pixels(scenes: Scenes) -> NDArray[np.int64]:
    """(B, n): pixels at which each object is seen."""
    return scenes.masks.flatten(2).sum(2).numpy()


def _with_objects(
    name: str, data: ImageData, bank: ObjectBank, recipe: Recipe, split: str
) -> ImageData:
    """The same images with objects in the place of labels."""

    def make(rows: NDArray[np.int64]) -> Arrays:
        scenes = compose(bank, recipe, split_seed(split), rows)
        boxes, kinds = scenes.boxes.short().numpy(), scenes.objects.short().numpy()
        return {"boxes": boxes, "kinds": kinds, "seen": seen_pixels(scenes).astype(np.int32)}

    arrays = cached(f"{name}-objects-{data.fingerprint}-{len(data)}", len(data), make)
    return replace(
        data,
        labels=torch.zeros(len(data), dtype=torch.int64),
        classes=bank.kinds,
        fingerprint=fingerprint(("objects", data.fingerprint), ()),
        relevance=None,
        objects=_tabled(arrays, recipe.size),
    )


def _tabled(arrays: Arrays, side: int) -> Objects:
    images, most = arrays["kinds"].shape
    kinds = torch.from_numpy(arrays["kinds"]).long().flatten()
    every = Objects(
        boxes=torch.from_numpy(arrays["boxes"]).float().view(-1, 4),
        kinds=kinds,
        crowd=torch.zeros_like(kinds, dtype=torch.bool),
        starts=torch.arange(images + 1) * most,
        sizes=((SIDES[0] * side) ** 2, (SIDES[1] * side) ** 2),
    )
    return every.chosen(torch.from_numpy(arrays["seen"]).flatten() >= SMALLEST_SEEN * side**2)


load_scene_objects = partial(scenes_with, _with_objects)
load_fashion_scene_objects = partial(fashion_scenes_with, _with_objects)
