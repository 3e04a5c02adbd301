"""Composed scenes with the class of each pixel, as the composer itself knows it.

A pixel's class is the kind of the object that is seen there, or the background. These are the same
images as those that classifiers see, from the same cache; their masks have a cache of their own,
made when they are first asked for.
"""

from dataclasses import replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdlib.data.cache import Arrays, cached
from kdlib.data.compose import ObjectBank, Recipe, Scenes, compose
from kdlib.data.image_data import ImageData
from kdlib.data.pixels import fingerprint
from kdlib.data.scene_truth import fashion_scenes_with, scenes_with
from kdlib.data.scenes import split_seed

BACKGROUND = "background"


def kind_masks(scenes: Scenes) -> Tensor:
    """(B, H, W) uint8: 1 + the kind of the object that is seen at a pixel; 0 is background."""
    kinds = torch.cat([torch.zeros(len(scenes.objects), 1).long(), scenes.objects + 1], dim=1)
    return kinds.gather(1, scenes.owners.flatten(1).long()).view_as(scenes.owners).byte()


def _with_masks(
    name: str, data: ImageData, bank: ObjectBank, recipe: Recipe, split: str
) -> ImageData:
    """The same images with masks in the place of labels."""

    def make(rows: NDArray[np.int64]) -> Arrays:
        return {"masks": kind_masks(compose(bank, recipe, split_seed(split), rows)).numpy()}

    arrays = cached(f"{name}-masks-{data.fingerprint}-{len(data)}", len(data), make)
    return replace(
        data,
        labels=torch.zeros(len(data), dtype=torch.int64),
        classes=(BACKGROUND, *bank.kinds),
        fingerprint=fingerprint(("masks", data.fingerprint), ()),
        relevance=None,
        masks=torch.from_numpy(arrays["masks"]),
    )


load_scene_masks = partial(scenes_with, _with_masks)
load_fashion_scene_masks = partial(fashion_scenes_with, _with_masks)
