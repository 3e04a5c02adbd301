"""Tiny data sets in the on-disk formats of the real ones."""

import gzip
import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import CIFAR100

FASHION = Path("FashionMNIST") / "raw"


def write_fashion(root: Path, count: int = 60, packed: bool = False) -> Path:
    """Fashion-MNIST's four IDX files with random garments, all ten kinds in both splits."""
    folder = root / FASHION
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for stem in ("train", "t10k"):
        pictures = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        _write_idx(folder / f"{stem}-images-idx3-ubyte", pictures, packed)
        _write_idx(folder / f"{stem}-labels-idx1-ubyte", labels, packed)
    return root


def _write_idx(path: Path, values: np.ndarray, packed: bool) -> None:
    header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
    content = header + values.tobytes()
    if packed:
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(content))
    else:
        path.write_bytes(content)


def write_cifar100(root: Path, monkeypatch: pytest.MonkeyPatch, count: int = 20) -> Path:
    """CIFAR-100's pickles with random pixels, made the published ones by their MD5 sums."""
    folder = root / CIFAR100.base_folder
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    contents = {"meta": {"fine_label_names": [f"class {index}" for index in range(100)]}}
    for name in ("train", "test"):
        pixels = random.integers(0, 256, (count, 3072), dtype=np.uint8)
        contents[name] = {"data": pixels, "fine_labels": list(range(count))}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
    sums = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in contents}
    monkeypatch.setattr(CIFAR100, "train_list", [["train", sums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", sums["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": sums["meta"]})
    return root


PICTURE = (64, 48)
"""Width and height of the photographs with objects."""
SHADES = {"person": (200, 60, 40), "dog": (40, 160, 60), "train": (50, 70, 210)}
OBJECTS = (
    (("person", (4, 6, 30, 40)), ("dog", (34, 20, 60, 44))),
    (("train", (10, 10, 54, 38)),),
    (),
    (("dog", (2, 4, 26, 28)), ("dog", (30, 8, 62, 46)), ("person", (26, 0, 30, 6))),
)
"""Of the photographs in turn: class and x1, y1, x2, y2 (exclusive); the third has none."""


def _picture_of_objects(path: Path, number: int) -> tuple:
    """A grey photograph whose objects are rectangles, each of its class's colour."""
    found = OBJECTS[number % len(OBJECTS)]
    pixels = np.random.default_rng(number).integers(90, 130, (*PICTURE[::-1], 3), dtype=np.uint8)
    for name, (x1, y1, x2, y2) in found:
        pixels[y1:y2, x1:x2] = SHADES[name]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, quality=95)
    return found


def write_voc_detection(root: Path) -> Path:
    """Pascal VOC's objects: four photographs of each year to train on, four to test on.

    The third of each four has no object; the last object of the fourth is difficult.
    """
    parts = {("2007", "trainval"): 10, ("2007", "test"): 20, ("2012", "trainval"): 30}
    for (year, part), first in parts.items():
        folder = root / "VOCdevkit" / f"VOC{year}"
        names = [f"{first + place:06}" for place in range(4)]
        for place, name in enumerate(names):
            found = _picture_of_objects(folder / "JPEGImages" / f"{name}.jpg", place)
            (folder / "Annotations").mkdir(parents=True, exist_ok=True)
            (folder / "Annotations" / f"{name}.xml").write_text(_voc_annotation(found))
        lists = folder / "ImageSets" / "Main"
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"{part}.txt").write_text("".join(f"{name}\n" for name in names))
    return root


def _voc_annotation(found: tuple) -> str:
    """VOC's XML: pixels from 1, the last one included."""
    objects = "".join(
        f"<object><name>{name}</name><difficult>{int(place == 2)}</difficult><bndbox>"
        f"<xmin>{x1 + 1}</xmin><ymin>{y1 + 1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax>"
        "</bndbox></object>\n"
        for place, (name, (x1, y1, x2, y2)) in enumerate(found)
    )
    size = f"<size><width>{PICTURE[0]}</width><height>{PICTURE[1]}</height><depth>3</depth></size>"
    return f"<annotation>{size}\n{objects}</annotation>"


COCO_IDS = {"person": 1, "train": 7, "dog": 18}


def write_coco(root: Path) -> Path:
    """COCO's objects: eight photographs to train on, four to test on, three of the 80 classes.

    The third of each four has no object; the last object of the fourth is a crowd.
    """
    for part, count in (("train2017", 8), ("val2017", 4)):
        content: dict = {"images": [], "annotations": [], "categories": []}
        for name, number in COCO_IDS.items():
            content["categories"].append({"id": number, "name": name, "supercategory": "thing"})
        for place in range(count):
            name = f"{1000 + place:012}.jpg"
            found = _picture_of_objects(root / "coco" / part / name, place)
            shape = {"width": PICTURE[0], "height": PICTURE[1]}
            content["images"].append({"id": 1000 + place, "file_name": name, **shape})
            content["annotations"] += _coco_annotations(1000 + place, found)
        file = root / "coco" / "annotations" / f"instances_{part}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    return root


def _coco_annotations(image: int, found: tuple) -> list[dict]:
    """COCO's boxes are x, y, width, height."""
    return [
        {
            "id": 10 * image + place, "image_id": image, "category_id": COCO_IDS[name],
            "bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1),
            "iscrowd": int(place == 2),
        }
        for place, (name, (x1, y1, x2, y2)) in enumerate(found)
    ]  # fmt: skip
