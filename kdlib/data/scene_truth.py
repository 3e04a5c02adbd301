"""Composed scenes with more of the truth about them than a class.

The images are those that classifiers see, from the same cache; what else the composer knows of them
(their masks, their objects) is added by a function.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from kdlib.data.atlas import sprite_bank
from kdlib.data.compose import ObjectBank, Recipe
from kdlib.data.fashion_scenes import garment_bank, load_fashion_scenes, outfit_recipe
from kdlib.data.image_data import ImageData
from kdlib.data.roots import data_root as checked_root
from kdlib.data.scenes import load_scenes, scene_recipe

Adding: TypeAlias = Callable[[str, ImageData, ObjectBank, Recipe, str], ImageData]
"""From a data set's name, its images, what they were composed of and the split to more truth."""


def scenes_with(
    adding: Adding,
    split: str,
    *,
    attentions: int = 2,
    distractors: int = 4,
    image_size: int = 64,
    size: int | None = None,
    data_root: Path | None = None,
) -> ImageData:
    """The embedded scenes and what ``adding`` adds: the other arguments as ``load_scenes``."""
    data = load_scenes(
        split, size=size, image_size=image_size, attentions=attentions, distractors=distractors
    )
    recipe = scene_recipe(attentions, distractors, image_size)
    return adding("scenes", data, sprite_bank(), recipe, split)


def fashion_scenes_with(
    adding: Adding,
    split: str,
    *,
    attentions: int = 2,
    distractors: int = 4,
    image_size: int = 64,
    size: int | None = None,
    data_root: Path | None = None,
) -> ImageData:
    """Scenes of garments and what ``adding`` adds: the others as ``load_fashion_scenes``."""
    data = load_fashion_scenes(
        split,
        size=size,
        image_size=image_size,
        attentions=attentions,
        distractors=distractors,
        data_root=data_root,
    )
    bank, _ = garment_bank(checked_root(data_root).resolve(), split)
    recipe = outfit_recipe(attentions, distractors, image_size)
    return adding("fashion_scenes", data, bank, recipe, split)
