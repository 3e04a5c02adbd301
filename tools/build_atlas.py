"""Build the sprite atlas from Microsoft's Fluent Emoji (MIT licence).

Usage: npm pack @lobehub/fluent-emoji-3d@1.1.0 && tar xzf *.tgz
       python tools/build_atlas.py package/assets
"""

import argparse
import json
from pathlib import Path

from PIL import Image, ImageOps

from kdlib.data.scenes import ATLAS, COLUMNS, INDEX, TILE, sprites


def main() -> None:
    """Paste every sprite into its tile; write one lossy WebP and the index of its tiles."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("assets", type=Path, help="folder of the package's WebP files")
    assets = parser.parse_args().assets
    codes = list(sprites().values())
    atlas = Image.new("RGBA", (COLUMNS * TILE, -(-len(codes) // COLUMNS) * TILE))
    for index, code in enumerate(codes):
        atlas.paste(_tile(assets, code), (index % COLUMNS * TILE, index // COLUMNS * TILE))
    atlas.save(ATLAS, quality=90, method=6, exact=True)
    INDEX.write_text(json.dumps(sprites(), indent=1) + "\n", encoding="utf-8")


def _tile(assets: Path, code: str) -> Image.Image:
    """One object without its margins, as large as the tile allows, its proportions kept."""
    path = next(p for p in (assets / f"{code}.webp", assets / f"{code}-fe0f.webp") if p.exists())
    picture = Image.open(path).convert("RGBA")
    picture = picture.crop(picture.getchannel("A").getbbox())
    return ImageOps.pad(picture, (TILE, TILE), Image.Resampling.LANCZOS, color=(0, 0, 0, 0))


if __name__ == "__main__":
    main()
