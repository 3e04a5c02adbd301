"""The sprites that the package ships: one picture, one square tile an object.

The index beside it names the tiles in their order (row by row) with their Unicode code points.
"""

import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from kdlib.data.object_bank import ObjectBank

ATLAS = Path(__file__).parent / "atlas" / "sprites.webp"
INDEX = ATLAS.with_name("index.json")
COLUMNS = 8
TILE = 64


@cache
def sprite_bank() -> ObjectBank:
    """The sprites as objects for the composer, one exemplar of each kind."""
    picture = torch.from_numpy(np.asarray(Image.open(ATLAS).convert("RGBA")).copy())
    rows = picture.shape[0] // TILE
    tiles = picture.view(rows, TILE, COLUMNS, TILE, 4).permute(0, 2, 4, 1, 3).flatten(0, 1)
    names = tuple(json.loads(INDEX.read_text(encoding="utf-8")))
    return ObjectBank(names, tiles[: len(names)].unsqueeze(1).contiguous())
