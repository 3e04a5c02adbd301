"""Build the sprites that scenes are composed of from Microsoft's Fluent Emoji (MIT licence).

Usage: npm pack @lobehub/fluent-emoji-3d@1.1.0 && tar xzf *.tgz
       python tools/build_atlas.py package/assets
"""

import argparse
import hashlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from kdlib.data.scenes import ATLAS, sprites

COLUMNS, TILE = 8, 64


def main() -> None:
    """Put every sprite into a tile of one picture, and keep the tiles of that."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("assets", type=Path, help="folder of the package's WebP files")
    assets = parser.parse_args().assets
    codes = list(sprites().values())
    sheet = Image.new("RGBA", (COLUMNS * TILE, -(-len(codes) // COLUMNS) * TILE))
    for index, code in enumerate(codes):
        sheet.paste(_tile(assets, code), (index % COLUMNS * TILE, index // COLUMNS * TILE))
    file = io.BytesIO()
    sheet.save(file, "webp", quality=90, method=6, exact=True)
    write(file.getvalue())


def _tile(assets: Path, code: str) -> Image.Image:
    """One object without its margins, as large as the tile allows, its proportions kept."""
    path = next(p for p in (assets / f"{code}.webp", assets / f"{code}-fe0f.webp") if p.exists())
    picture = Image.open(path).convert("RGBA")
    picture = picture.crop(picture.getchannel("A").getbbox())
    return ImageOps.pad(picture, (TILE, TILE), Image.Resampling.LANCZOS, color=(0, 0, 0, 0))


def write(webp: bytes) -> None:
    """Write the atlas of a lossy WebP, by whose bytes fingerprints of scenes know the sprites.

    Colours without opacity are left out. It is what ``np.savez`` writes, but half as large.
    """
    sheet = np.asarray(Image.open(io.BytesIO(webp)).convert("RGBA"))
    tiles = sheet.reshape(-1, TILE, COLUMNS, TILE, 4).transpose(0, 2, 4, 1, 3)
    pictures = tiles.reshape(-1, 4, TILE, TILE)[: len(sprites())].copy()
    pictures[:, :3] *= pictures[:, 3:] > 0
    index = json.dumps(sprites(), indent=1) + "\n"
    source = np.array(hashlib.sha256(webp + index.encode()).hexdigest())
    with zipfile.ZipFile(ATLAS, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in (("pictures", pictures), ("source", source)):
            member = zipfile.ZipInfo(f"{name}.npy")
            member.compress_type = zipfile.ZIP_LZMA
            with archive.open(member, "w") as part:
                np.lib.format.write_array(part, array)


if __name__ == "__main__":
    main()
