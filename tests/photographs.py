"""Tiny data sets of photographs in the on-disk formats of the real ones."""

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from kdlib.data.image_data import ImageData
from kdlib.data.photographs import Photographs

SCENES = ("airport_inside", "bakery")


def photograph(path: Path, seed: int, size: tuple[int, int] = (60, 40)) -> None:
    """A picture of soft colours, (width, height) pixels; its kind follows from the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    colours = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC).save(path)


def numbered(count: int = 10, read: Callable | None = None) -> ImageData:
    """Photographs of 40 x 32 whose pixels tell which one they are of, and their row and column."""

    def picture(position: int) -> np.ndarray:
        return np.stack([np.full((40, 32), position), *np.mgrid[:40, :32]], -1).astype(np.uint8)

    names = tuple(map(str, range(count)))
    images = Photographs(read or picture, np.arange(count), 28)
    return ImageData(images, torch.arange(count), names, (0.0,) * 3, (1 / 255,) * 3, "digits")


def _lines(path: Path, lines: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def write_mit67(root: Path, count: int = 4) -> Path:
    """Two classes, ``count`` photographs of each in both splits."""
    folder = root / "mit67"
    for part, (split, listed) in enumerate({"train": "Train", "test": "Test"}.items()):
        names = [f"{scene}/{split}_{n}.jpg" for scene in SCENES for n in range(count)]
        for number, name in enumerate(names):
            photograph(folder / "Images" / name, 1000 * part + number)
        _lines(folder / f"{listed}Images.txt", names)
    return root


def write_sun397(root: Path, count: int = 3) -> Path:
    """Three classes, one of them nested and not in the order of the alphabet."""
    folder, classes = root / "SUN397", ("/a/abbey", "/b/bow_window/indoor", "/a/airport")
    _lines(folder / "ClassName.txt", classes)
    for split in ("Training", "Testing"):
        names = [f"{scene}/sun_{split[:3]}{n}.jpg" for scene in classes for n in range(count)]
        for number, name in enumerate(names):
            photograph(folder / name[1:], number)
        _lines(folder / f"{split}_01.txt", names)
    return root


def write_ade20k(root: Path) -> Path:
    """Four classes: ``misc`` in both splits, one in training only, two in validation only."""
    folder = root / "ADEChallengeData2016"
    scenes = {"train": ("misc", "abbey", "misc"), "val": ("zoo", "misc", "bakery")}
    lines = []
    for split, part in (("train", "training"), ("val", "validation")):
        for number, scene in enumerate(scenes[split], 1):
            name = f"ADE_{split}_{number:08}"
            photograph(folder / "images" / part / f"{name}.jpg", number)
            lines.append(f"{name} {scene}")
    _lines(folder / "sceneCategories.txt", lines)
    return root


def write_places365(root: Path, published: Callable[[str, object], None]) -> Path:
    """Two classes; ``published(name, value)`` makes the lists' MD5 sums the published ones."""
    folder = root / "places365"
    lists = {
        "categories_places365.txt": ["/a/airfield 0", "/b/bakery/shop 1"],
        "places365_train_standard.txt": ["/a/airfield/00000001.jpg 0", "/b/bakery/shop/1.jpg 1"],
        "places365_val.txt": ["Places365_val_1.jpg 1", "Places365_val_2.jpg 0"],
    }
    for name, lines in lists.items():
        _lines(folder / name, lines)
    sums = {name: hashlib.md5((folder / name).read_bytes()).hexdigest() for name in lists}
    categories, train, val = sums.items()
    published("_CATEGORIES_META", categories)
    published("_FILE_LIST_META", {"train-standard": train, "val": val})
    for name in lists["places365_train_standard.txt"]:
        photograph(folder / "data_256_standard" / name.split()[0][1:], len(name), (256, 256))
    for number in (1, 2):
        photograph(folder / "val_256" / f"Places365_val_{number}.jpg", number, (256, 256))
    return root


def write_voc(root: Path) -> Path:
    """Pascal VOC 2007 and 2012: each photograph is of one class to the left, another to the right.

    The colour of a pixel tells its class (``10 * class + 5`` in all channels), a border of void
    pixels lies around each. 2012 has one photograph of 2007's training and one of its test set.
    """
    lists = {
        ("2007", "trainval"): ("000001", "000002"),
        ("2007", "test"): ("000003", "000004"),
        ("2012", "trainval"): ("2007_000001", "2007_000003", "2008_000010"),
    }
    for (year, part), names in lists.items():
        folder = root / "VOCdevkit" / f"VOC{year}"
        _lines(folder / "ImageSets" / "Segmentation" / f"{part}.txt", names)
        for name in names:
            _annotated(folder, name, int(name[-6:]))
    return root


def _annotated(folder: Path, name: str, number: int) -> None:
    classes = np.full((40, 60), number % 21, np.uint8)
    classes[:, 30:] = 0
    colours = np.repeat(10 * classes[..., None] + 5, 3, axis=2)
    classes[:2], classes[-2:] = 255, 255
    mask = Image.fromarray(classes).convert("P")
    for part in ("JPEGImages", "SegmentationClass"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    Image.fromarray(colours).save(folder / "JPEGImages" / f"{name}.jpg", quality=100)
    mask.save(folder / "SegmentationClass" / f"{name}.png")
