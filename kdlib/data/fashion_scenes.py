"""Scenes of real pixels: the composer with Fashion-MNIST's photographs as objects.

Ten kinds of garments stand in a circle; a class is ``attentions`` neighbours on it, so there are
ten classes and each garment belongs to ``attentions`` of them. No garment alone decides a class
(unless ``attentions=1``), and the distractors never complete another class: this allows two
distractors, and none where one garment is a class. Training scenes show garments of
Fashion-MNIST's training set, test scenes those of its test set.
"""

import hashlib
from functools import cache
from pathlib import Path

import torch
from torchvision.datasets import FashionMNIST

from kdlib.data.compose import ObjectBank, Recipe
from kdlib.data.fashion import as_sprites, read_fashion
from kdlib.data.image_data import ImageData
from kdlib.data.roots import data_root as resolve_root
from kdlib.data.scenes import TEST_SIZE, TRAIN_SIZE, composed

KINDS = tuple(FashionMNIST.classes)


def load_fashion_scenes(
    split: str,
    *,
    size: int | None = None,
    image_size: int = 64,
    attentions: int = 2,
    distractors: int = 2,
    data_root: Path | None = None,
) -> ImageData:
    """Scenes of garments; see the module for what a class is."""
    recipe = Recipe(combinations(attentions), attentions, distractors, image_size)
    bank, source = garment_bank(split, resolve_root(data_root))
    count = size or (TRAIN_SIZE if split == "train" else TEST_SIZE)
    return composed("fashion_scenes", bank, recipe, split, count, source)


def combinations(attentions: int) -> dict[str, tuple[str, ...]]:
    """The ten classes: ``attentions`` neighbours each, named after them."""
    circle = [
        tuple(KINDS[(start + step) % len(KINDS)] for step in range(attentions))
        for start in range(len(KINDS))
    ]
    return {" + ".join(garments): garments for garments in circle}


@cache
def garment_bank(split: str, root: Path) -> tuple[ObjectBank, str]:
    """The garments of a split by kind, and a digest of what they were read from."""
    pictures, labels = read_fashion(split, root)
    fewest = int(torch.bincount(labels, minlength=len(KINDS)).min())
    kinds = [as_sprites(pictures[labels == kind][:fewest]) for kind in range(len(KINDS))]
    digest = hashlib.sha256(pictures.numpy().tobytes()).hexdigest()
    return ObjectBank(KINDS, torch.stack(kinds), tinted=True), digest
