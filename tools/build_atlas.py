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

from kdlib.data.scenes import ATLAS

COLUMNS, TILE = 8, 64
CODES = {
    "bathtub": "1f6c1", "toilet": "1f6bd", "toothbrush": "1faa5", "soap": "1f9fc", "bed": "1f6cf",
    "teddy bear": "1f9f8", "alarm clock": "23f0", "window": "1fa9f", "frying pan": "1f373",
    "knife": "1f52a", "teapot": "1fad6", "bread": "1f35e", "laptop": "1f4bb", "printer": "1f5a8",
    "paperclip": "1f4ce", "cabinet": "1f5c4", "microscope": "1f52c", "test tube": "1f9ea",
    "alembic": "2697", "petri dish": "1f9eb", "guitar": "1f3b8", "piano": "1f3b9",
    "violin": "1f3bb", "drum": "1f941", "car": "1f697", "traffic light": "1f6a6",
    "bicycle": "1f6b2", "bus": "1f68c", "locomotive": "1f682", "ticket": "1f3ab",
    "suitcase": "1f9f3", "anchor": "2693", "sailing boat": "26f5", "ship": "1f6a2",
    "crab": "1f980", "parasol": "26f1", "shell": "1f41a", "palm": "1f334", "cow": "1f404",
    "tractor": "1f69c", "chicken": "1f413", "maize": "1f33d", "tent": "26fa", "fire": "1f525",
    "axe": "1fa93", "backpack": "1f392", "sunflower": "1f33b", "butterfly": "1f98b",
    "tulip": "1f337", "snail": "1f40c", "balloon": "1f388", "cake": "1f382", "gift": "1f381",
    "football": "26bd", "trophy": "1f3c6", "basketball": "1f3c0", "tennis ball": "1f3be",
    "pill": "1f48a", "stethoscope": "1fa7a", "syringe": "1f489", "ambulance": "1f691",
    "umbrella": "2602", "crown": "1f451", "gem": "1f48e", "key": "1f511", "star": "2b50",
    "puzzle piece": "1f9e9", "lollipop": "1f36d",
}  # fmt: skip
"""Unicode code point of each sprite, in the order of the atlas."""


def main() -> None:
    """Put every sprite into a tile of one picture, and keep the tiles of that."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("assets", type=Path, help="folder of the package's WebP files")
    assets = parser.parse_args().assets
    codes = list(CODES.values())
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
    pictures = tiles.reshape(-1, 4, TILE, TILE)[: len(CODES)].copy()
    pictures[:, :3] *= pictures[:, 3:] > 0
    index = json.dumps(CODES, indent=1) + "\n"
    source = np.array(hashlib.sha256(webp + index.encode()).hexdigest())
    with zipfile.ZipFile(ATLAS, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in (("pictures", pictures), ("source", source)):
            member = zipfile.ZipInfo(f"{name}.npy")
            member.compress_type = zipfile.ZIP_LZMA
            with archive.open(member, "w") as part:
                np.lib.format.write_array(part, array)


if __name__ == "__main__":
    main()
