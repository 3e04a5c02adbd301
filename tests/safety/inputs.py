"""Small data sets in the files of real ones, the same whenever they are written."""

import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
from data_files import photograph, write_fashion

SIZE = (96, 72)
BOXES = ([4, 6, 26, 30], [30, 12, 28, 24], [10, 20, 40, 20])
"""Of the objects of a photograph: x, y, width, height."""


def write_all(root: Path) -> Path:
    """Photographs in folders, garments, and photographs with objects; the root of them all."""
    for part, count in (("train", 96), ("test", 48)):
        for number in range(count):
            photograph(root / part / f"kind{number % 3}" / f"{number}.png", number, SIZE)
    for part, count in (("train2017", 32), ("val2017", 16)):
        _objects(root / "coco", part, count)
    return write_fashion(root, 300)


def _objects(root: Path, part: str, count: int) -> None:
    names = [f"{number + 1:012}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        photograph(root / part / name, number, SIZE)
    size = {"width": 96, "height": 72}
    images = [{"id": n, "file_name": name, **size} for n, name in enumerate(names, 1)]
    found = [
        {"id": 10 * n + i, "image_id": n, "bbox": box, "area": box[2] * box[3]}
        | {"iscrowd": int(i == 2), "category_id": (1, 18)[(n + i) % 2]}
        for n in range(1, count + 1)
        for i, box in enumerate(BOXES[: n % 4])
    ]
    named = {"person": 1, "dog": 18}.items()
    kinds = [{"id": number, "name": name, "supercategory": ""} for name, number in named]
    content = {"images": images, "annotations": found, "categories": kinds}
    (root / "annotations").mkdir(exist_ok=True)
    (root / "annotations" / f"instances_{part}.json").write_text(json.dumps(content))
