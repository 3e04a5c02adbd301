"""The embedded data set: scenes of several objects, made to test the paper's claim."""

import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdlib.data.atlas import ATLAS, INDEX, sprite_bank
from kdlib.data.cache import Arrays, cached
from kdlib.data.compose import ObjectBank, Recipe, Scenes, compose
from kdlib.data.difficulty import difficulty
from kdlib.data.image_data import ImageData
from kdlib.data.scene_classes import SCENE_CLASSES
from kdlib.seeds import derive_seed

TRAIN_SIZE, TEST_SIZE = 24000, 10000
SAMPLE = 256
"""Training images that the statistics for normalisation are taken from."""
Colour = tuple[float, float, float]


def scene_recipe(attentions: int = 2, distractors: int = 4, size: int = 64) -> Recipe:
    """The recipe of the embedded scenes."""
    classes = {name: tuple(objects) for name, objects in SCENE_CLASSES.items()}
    return Recipe(classes, attentions, distractors, size)


def scenes(split: str, attentions: int, distractors: int, size: int, indices: Tensor) -> Scenes:
    """Embedded scenes at ``indices`` of a split, with all their ground truth."""
    recipe = scene_recipe(attentions, distractors, size)
    return compose(sprite_bank(), recipe, split_seed(split), indices.numpy())


def load_scenes(
    split: str,
    *,
    size: int | None = None,
    image_size: int = 64,
    attentions: int = 2,
    distractors: int = 4,
    data_root: Path | None = None,
) -> ImageData:
    """The embedded scenes: made on the fly, no data root needed."""
    recipe = scene_recipe(attentions, distractors, image_size)
    count = size or (TRAIN_SIZE if split == "train" else TEST_SIZE)
    source = hashlib.sha256(ATLAS.read_bytes() + INDEX.read_bytes()).hexdigest()
    return composed("scenes", sprite_bank(), recipe, split, count, source)


def composed(
    name: str, bank: ObjectBank, recipe: Recipe, split: str, count: int, source: str
) -> ImageData:
    """``count`` composed scenes of a split, through the cache.

    Args:
        name: of the data set.
        bank: the objects.
        recipe: the scenes.
        split: ``train`` or ``test``: different seeds.
        count: number of images.
        source: digest of what the bank was made from.
    """
    parts = (difficulty(), source, recipe, split)
    fingerprint = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
    arrays = cached(
        f"{name}-{fingerprint}-{count}", count, lambda rows: _rows(bank, recipe, split, rows)
    )
    mean, std = statistics(bank, recipe)
    return ImageData(
        images=torch.from_numpy(arrays["images"]),
        labels=torch.from_numpy(arrays["labels"]),
        classes=tuple(recipe.classes),
        mean=mean,
        std=std,
        fingerprint=fingerprint,
        relevance=lambda indices: _unpacked(arrays["relevance"], indices, recipe.size),
    )


def statistics(bank: ObjectBank, recipe: Recipe) -> tuple[Colour, Colour]:
    """Mean and standard deviation of each colour over the first training images, in 0..1."""
    images = compose(bank, recipe, split_seed("train"), np.arange(SAMPLE)).images.double() / 255
    mean = [round(value, 3) for value in images.mean((0, 2, 3)).tolist()]
    std = [round(value, 3) for value in images.std((0, 2, 3)).tolist()]
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def split_seed(split: str) -> int:
    """Seed of a split's images; no two splits share an image."""
    return derive_seed(0, "scenes", split)


def _rows(bank: ObjectBank, recipe: Recipe, split: str, rows: NDArray[np.int64]) -> Arrays:
    batch = compose(bank, recipe, split_seed(split), rows)
    relevance = np.packbits(batch.relevance.flatten(1).numpy(), axis=1)
    return {"images": batch.images.numpy(), "labels": batch.labels.numpy(), "relevance": relevance}


def _unpacked(packed: NDArray[np.uint8], indices: Tensor, size: int) -> Tensor:
    bits = np.unpackbits(packed[indices.cpu().numpy()], axis=1, count=size * size)
    return torch.from_numpy(bits.astype(bool)).view(-1, size, size)
