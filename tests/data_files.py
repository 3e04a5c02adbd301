"""Tiny data sets in the on-disk formats of the real ones."""

import gzip
import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision.datasets import CIFAR100, Places365

from kdlib.data.photographs import TURNS

FASHION = Path("FashionMNIST") / "raw"


def write_fashion(root, count=60, packed=False):
    """Fashion-MNIST's four IDX files with random garments, all ten kinds in both splits."""
    (root / FASHION).mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    for stem in ("train", "t10k"):
        pictures = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, values in (("images-idx3", pictures), ("labels-idx1", labels)):
            header = bytes([0, 0, 8, values.ndim]) + np.array(values.shape, ">i4").tobytes()
            content, path = header + values.tobytes(), root / FASHION / f"{stem}-{name}-ubyte"
            path = path.with_name(path.name + ".gz" * packed)
            path.write_bytes(gzip.compress(content) if packed else content)
    return root


def _md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


def write_cifar100(root, monkeypatch, count=20):
    """CIFAR-100's pickles with random pixels, made the published ones by their MD5 sums."""
    folder, random = root / CIFAR100.base_folder, np.random.default_rng(0)
    folder.mkdir(parents=True)
    contents = {"meta": {"fine_label_names": [f"class {index}" for index in range(100)]}}
    for name in ("train", "test"):
        pixels = random.integers(0, 256, (count, 3072), dtype=np.uint8)
        contents[name] = {"data": pixels, "fine_labels": list(range(count))}
    for name, content in contents.items():
        (folder / name).write_bytes(pickle.dumps(content))
    meta, *splits = ([name, _md5(folder / name)] for name in contents)
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "md5": meta[1]})
    for split in splits:
        monkeypatch.setattr(CIFAR100, f"{split[0]}_list", [split])
    return root


def _save(path, image, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


def photograph(path, seed, size=(60, 40)):
    """A picture of soft colours, (width, height) pixels; its kind follows from the suffix."""
    colours = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    _save(path, Image.fromarray(colours).resize(size, Image.Resampling.BICUBIC))


def turned(path, seen, tag):
    """Write a picture such that EXIF's orientation makes of the stored pixels what is ``seen``."""
    stored(path, seen.transpose(TURNS[{6: 8, 8: 6}.get(tag, tag)]), tag)


def stored(path, pixels, tag):
    """Write a picture without loss, of any suffix, with EXIF's orientation."""
    exif = Image.Exif()
    exif[0x0112] = tag
    _save(path, pixels, format="TIFF" if path.suffix == ".tif" else "PNG", exif=exif)


def _lines(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


def write_mit67(root, count=4):
    """Two classes, ``count`` photographs of each in both splits."""
    for part, split in enumerate(("train", "test")):
        scenes = ("airport_inside", "bakery")
        names = [f"{scene}/{split}_{number}.jpg" for scene in scenes for number in range(count)]
        for number, name in enumerate(names):
            photograph(root / "mit67" / "Images" / name, 1000 * part + number)
        _lines(root / "mit67" / f"{split.title()}Images.txt", names)
    return root


def write_photographs(root, monkeypatch):
    """MIT67; SUN397 with nested classes out of order; ADE20K; and Places365.

    ADE20K has one class in both splits, one to train and two to test on only. The lists of
    Places365 are made the published ones by their MD5 sums.
    """
    folder, classes = root / "SUN397", ("/a/abbey", "/b/bow_window/indoor", "/a/airport")
    _lines(folder / "ClassName.txt", classes)
    for split in ("Training", "Testing"):
        names = [f"{scene}/sun_{split[:3]}{n}.jpg" for scene in classes for n in range(3)]
        for number, name in enumerate(names):
            photograph(folder / name[1:], number)
        _lines(folder / f"{split}_01.txt", names)

    folder, lines = root / "ADEChallengeData2016", []
    for split, part, scenes in (("train", "training", ("misc", "abbey", "misc")),
                                ("val", "validation", ("zoo", "misc", "bakery"))):  # fmt: skip
        for number, scene in enumerate(scenes, 1):
            lines.append(f"ADE_{split}_{number:08} {scene}")
            photograph(folder / "images" / part / f"ADE_{split}_{number:08}.jpg", number)
    _lines(folder / "sceneCategories.txt", lines)

    folder = root / "places365"
    lists = {
        "categories_places365.txt": ["/a/airfield 0", "/b/bakery/shop 1"],
        "places365_train_standard.txt": ["/a/airfield/00000001.jpg 0", "/b/bakery/shop/1.jpg 1"],
        "places365_val.txt": ["/Places365_val_1.jpg 1", "/Places365_val_2.jpg 0"],
    }
    for name, lines in lists.items():
        _lines(folder / name, lines)
    categories, train, val = [(name, _md5(folder / name)) for name in lists]
    monkeypatch.setattr(Places365, "_CATEGORIES_META", categories)
    monkeypatch.setattr(Places365, "_FILE_LIST_META", {"train-standard": train, "val": val})
    for (name, _), images in zip((train, val), ("data_256_standard", "val_256"), strict=True):
        for line in lists[name]:
            photograph(folder / f"{images}{line.split()[0]}", len(line), (256, 256))
    return write_mit67(root)


def write_voc(root):
    """Pascal VOC 2007 and 2012: each photograph is of one class to the left, another to the right.

    The colour of a pixel tells its class (``10 * class + 5`` in all channels), a border of void
    pixels lies around each. 2012 has one photograph of 2007's training and one of its test set.
    """
    lists = {("2007", "trainval"): ("000001", "000002"), ("2007", "test"): ("000003", "000004"),
             ("2012", "trainval"): ("2007_000001", "2007_000003", "2008_000010")}  # fmt: skip
    for (year, part), names in lists.items():
        folder = root / "VOCdevkit" / f"VOC{year}"
        _lines(folder / "ImageSets" / "Segmentation" / f"{part}.txt", names)
        for name in names:
            classes = np.zeros((40, 60), np.uint8)
            classes[:, :30] = int(name[-6:]) % 21
            colours = np.repeat(10 * classes[..., None] + 5, 3, axis=2)
            classes[:2], classes[-2:] = 255, 255
            _save(folder / "JPEGImages" / f"{name}.jpg", Image.fromarray(colours), quality=100)
            masks = Image.fromarray(classes).convert("P")
            _save(folder / "SegmentationClass" / f"{name}.png", masks)
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


def _picture_of_objects(path, number):
    """A grey photograph whose objects are rectangles, each of its class's colour."""
    found = OBJECTS[number % len(OBJECTS)]
    pixels = np.random.default_rng(number).integers(90, 130, (*PICTURE[::-1], 3), dtype=np.uint8)
    for name, (x1, y1, x2, y2) in found:
        pixels[y1:y2, x1:x2] = SHADES[name]
    _save(path, Image.fromarray(pixels), quality=95)
    return found


VOC_OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin>"
    "<xmax>{}</xmax><ymax>{}</ymax></bndbox></object>"
)
VOC_SIZE = "<size><width>64</width><height>48</height><depth>3</depth></size>"


def write_voc_detection(root):
    """Pascal VOC's objects: four photographs of each year to train on, four to test on.

    The last object of the fourth of each is difficult. Pixels count from 1, the last one included.
    """
    for first, (year, part) in {
        10: ("2007", "trainval"), 20: ("2007", "test"), 30: ("2012", "trainval"),
    }.items():  # fmt: skip
        folder, names = root / "VOCdevkit" / f"VOC{year}", [f"{first + n:06}" for n in range(4)]
        for number, name in enumerate(names):
            found = _picture_of_objects(folder / "JPEGImages" / f"{name}.jpg", number)
            objects = [VOC_OBJECT.format(kind, int(place == 2), x1 + 1, y1 + 1, x2, y2)
                       for place, (kind, (x1, y1, x2, y2)) in enumerate(found)]  # fmt: skip
            content = ["<annotation>", VOC_SIZE, *objects, "</annotation>"]
            _lines(folder / "Annotations" / f"{name}.xml", content)
        _lines(folder / "ImageSets" / "Main" / f"{part}.txt", names)
    return root


COCO_IDS = {"person": 1, "train": 7, "dog": 18}


def write_coco(root):
    """COCO's objects: eight photographs to train on, four to test on, three of the 80 classes.

    The last object of the fourth of each four is a crowd. Boxes are x, y, width, height.
    """
    categories = [{"id": number, "name": name} for name, number in COCO_IDS.items()]
    shape = dict(zip(("width", "height"), PICTURE, strict=True))
    for part, count in (("train2017", 8), ("val2017", 4)):
        content = {"images": [], "annotations": [], "categories": categories}
        for image in range(1000, 1000 + count):
            name = f"{image:012}.jpg"
            found = _picture_of_objects(root / "coco" / part / name, image - 1000)
            content["images"].append({"id": image, "file_name": name, **shape})
            content["annotations"] += [
                {"id": 10 * image + place, "image_id": image, "category_id": COCO_IDS[name],
                 "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": int(place == 2)}
                for place, (name, (x1, y1, x2, y2)) in enumerate(found)
            ]  # fmt: skip
        _lines(root / "coco" / "annotations" / f"instances_{part}.json", [json.dumps(content)])
    return root
