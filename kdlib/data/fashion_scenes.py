"""Scenes of garments: real photographs in scenes whose ground truth is known all the same.

The objects are the photographs of Fashion-MNIST, dyed; a class is an outfit (``outfits``), shown
by as many of its garments as there are attentions. Scenes for training show garments of the
training set, scenes for testing those of the test set: a network is tested on garments, not only
on scenes, that it has never seen.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdlib.data.compose import ObjectBank, Recipe
from kdlib.data.fashion import CLASSES, FOLDER, Garments, read_garments
from kdlib.data.image_data import ImageData
from kdlib.data.outfits import COLOURS, OUTFITS
from kdlib.data.pixels import fingerprint
from kdlib.data.random_numbers import uniforms
from kdlib.data.roots import data_root as checked_root
from kdlib.data.scenes import composed, statistics
from kdlib.errors import KdlibError
from kdlib.seeds import derive_seed

TRAIN_SIZE, TEST_SIZE = 24000, 10000
OPACITY = 4.0
"""Opacity as a multiple of brightness: soft edges, but nothing shines through a dark garment."""
DARKEST = 0.45
"""Brightness of black cloth; without it a dark garment would have no colour."""
DYE = 0.15
"""How far a dye strays from its colour, each way, as a factor: no two garments are alike."""


def load_fashion_scenes(
    split: str,
    *,
    size: int | None = None,
    image_size: int = 64,
    attentions: int = 2,
    distractors: int = 4,
    data_root: Path | None = None,
) -> ImageData:
    """Scenes of garments, composed once and then read from the cache.

    Args:
        split: ``train`` or ``test``.
        size: number of images; ``None`` for 24,000 for training and 10,000 for testing.
        image_size: pixels a side.
        attentions: garments of its outfit that a scene shows, 1 to 4.
        distractors: other garments, 0 to 12 (with one attention, 0 to 10).
        data_root: folder that holds ``FashionMNIST/raw``; ``None`` reads ``KDLIB_DATA``.

    Raises:
        KdlibError: Fashion-MNIST is missing or damaged, or an option is out of range.
    """
    recipe = outfit_recipe(attentions, distractors, image_size)
    root = checked_root(data_root).resolve()
    bank, source = garment_bank(root, split)
    count = size or (TRAIN_SIZE if split == "train" else TEST_SIZE)
    data = composed("fashion_scenes", bank, recipe, split, count, source)
    mean, std = statistics(garment_bank(root, "train")[0], recipe)
    return replace(data, mean=mean, std=std)


def outfit_recipe(attentions: int = 2, distractors: int = 4, size: int = 64) -> Recipe:
    """The recipe of the scenes of garments."""
    classes = {
        outfit: tuple(_kind(colour, garment) for garment, colour in garments.items())
        for outfit, garments in OUTFITS.items()
    }
    return Recipe(classes, attentions, distractors, size)


@cache
def garment_bank(root: Path, split: str) -> tuple[ObjectBank, str]:
    """Fifty objects, every garment in every colour, and the fingerprint of what they are made of.

    A photograph is dyed in one colour only, so the training set gives 1,200 of each object (6,000
    of each garment) and the test set 200.

    Raises:
        KdlibError: Fashion-MNIST is missing or damaged.
    """
    garments = read_garments(split, root)
    kinds = [_kind(colour, garment) for garment in CLASSES for colour in COLOURS]
    pictures = [
        dyed(photographs, colour)
        for shares in _shares(garments, root)
        for photographs, colour in zip(shares, COLOURS.values(), strict=True)
    ]
    facts = (OUTFITS, COLOURS, OPACITY, DARKEST, DYE)
    return ObjectBank(tuple(kinds), torch.stack(pictures)), fingerprint(facts, garments)


def dyed(photographs: Tensor, colour: tuple[float, float, float]) -> Tensor:
    """Cut bright garments out of their black ground and dye them.

    (E, 28, 28) uint8 -> (E, 4, 28, 28) uint8: red, green, blue, opacity.
    """
    bright = photographs.float().unsqueeze(1)
    draws = uniforms(derive_seed(0, "dye"), np.arange(len(photographs)), 3)
    dyes = torch.tensor(colour) * (1 + DYE * (2 * torch.from_numpy(draws).float() - 1))
    cloth = (255 * DARKEST + (1 - DARKEST) * bright) * dyes[..., None, None]
    return torch.cat([cloth, OPACITY * bright], dim=1).clamp(max=255).byte()


def _shares(garments: Garments, root: Path) -> list[list[Tensor]]:
    """For each garment, its photographs dealt out to the colours, equally many to all."""
    found = [garments.images[garments.labels == label] for label in range(len(CLASSES))]
    count = min(map(len, found)) // len(COLOURS)
    if count == 0:
        raise KdlibError(
            f"{root / FOLDER} has too few photographs for scenes: {min(map(len, found))} of a "
            f"garment; at least {len(COLOURS)} of each are needed."
        )
    return [[own[c :: len(COLOURS)][:count] for c in range(len(COLOURS))] for own in found]


def _kind(colour: str, garment: str) -> str:
    return f"{colour} {garment}"
