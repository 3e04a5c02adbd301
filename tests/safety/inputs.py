"""Small data sets in the files of real ones, the same whenever they are written."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

BOXES = ([4, 6, 26, 30], [30, 12, 28, 24], [10, 20, 40, 20])
"""Of the objects of a photograph: x, y, width, height."""


def write_all(root: Path) -> Path:
    """Photographs in folders, garments, and photographs with objects; the root of them all."""
    for part, count in (("train", 96), ("test", 48)):
        for number in range(count):
            _photograph(root / part / f"kind{number % 3}" / f"{number}.png", number)
    _garments(root / "FashionMNIST" / "raw")
    for part, count in (("train2017", 32), ("val2017", 16)):
        _objects(root / "coco", part, count)
    return root


def _photograph(path: Path, number: int) -> None:
    random = np.random.default_rng(number)
    coarse = random.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((96, 72), Image.Resampling.BICUBIC).save(path)


def _garments(folder: Path) -> None:
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for stem in ("train", "t10k"):
        images = random.integers(0, 256, (300, 28, 28), dtype=np.uint8)
        for name, values in (("images-idx3", images), ("labels-idx1", np.arange(300) % 10)):
            header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
            (folder / f"{stem}-{name}-ubyte").write_bytes(header + values.astype("u1").tobytes())


def _objects(root: Path, part: str, count: int) -> None:
    names = [f"{number + 1:012}.jpg" for number in range(count)]
    for number, name in enumerate(names):
        _photograph(root / part / name, number)
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
