"""The sprites that the package ships: one picture, one square tile an object."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from kdlib.data.compose import ObjectBank
from kdlib.data.scene_classes import sprites

ATLAS = Path(__file__).parent / "atlas" / "sprites.webp"
COLUMNS = 8
TILE = 64


@cache
def sprite_bank() -> ObjectBank:
    """The sprites as objects for the composer, one exemplar of each kind."""
    picture = torch.from_numpy(np.asarray(Image.open(ATLAS).convert("RGBA")).copy())
    rows = picture.shape[0] // TILE
    tiles = picture.view(rows, TILE, COLUMNS, TILE, 4).permute(0, 2, 4, 1, 3).flatten(0, 1)
    names = tuple(sprites())
    return ObjectBank(names, tiles[: len(names)].unsqueeze(1).contiguous())
