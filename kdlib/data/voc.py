"""Pascal VOC's classes, lists and files (Everingham 2010, doi 10.1007/s11263-009-0275-4).

Masks and boxes are told of the same photographs, by lists of their own; torchvision reads both.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from kdlib.data.image_data import missing
from kdlib.data.photographs import Listing
from kdlib.errors import KdlibError

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
FOLDER = "VOCdevkit"
PARTS = {"train": (("2012", "trainval"), ("2007", "trainval")), "test": (("2007", "test"),)}


class Kind(NamedTuple):
    """One kind of truth: torchvision's name for it, folder of its lists, its files, its classes."""

    reader: str
    lists: str
    files: str
    classes: tuple[str, ...]


MASKS = Kind("VOCSegmentation", "Segmentation", "SegmentationClass/*.png", CLASSES)
BOXES = Kind("VOCDetection", "Main", "Annotations/*.xml", CLASSES[1:])


def tasks_there(root: Path) -> tuple[str, ...]:
    """``segmentation`` and ``detection``, as far as their lists are there; the first if none is."""
    folder = root / FOLDER / "VOC2007" / "ImageSets"
    kinds = {"segmentation": MASKS, "detection": BOXES}
    found = tuple(task for task, kind in kinds.items() if (folder / kind.lists).is_dir())
    return found or ("segmentation",)


def published(kind: Kind, year: str, part: str, root: Path) -> Any:
    """What torchvision makes of a year's list: its ``images`` and ``targets`` are paths.

    Raises:
        KdlibError: the list is missing or empty.
    """
    from torchvision import datasets

    lists = root / FOLDER / f"VOC{year}" / "ImageSets" / kind.lists / f"{part}.txt"
    if not lists.is_file():
        raise missing("voc", lists, _layout(kind), _remedy(kind))
    found = getattr(datasets, kind.reader)(str(root), year, part)
    if not found.images:
        raise KdlibError(f"{lists} is empty; it must name a photograph a line. Get it again.")
    return found


def listed(kind: Kind, root: Path, pictures: Iterable[str], targets: Iterable[str]) -> Listing:
    """Photographs and, after them all, the files of their truth in the same order."""
    names = tuple(str(Path(path).relative_to(root)) for path in (*pictures, *targets))
    return Listing("voc", root, names, (0,) * len(names), kind.classes, _remedy(kind))


def _layout(kind: Kind) -> str:
    return f"""
ROOT/{FOLDER}/VOC2007/ImageSets/{kind.lists}/trainval.txt, test.txt
ROOT/{FOLDER}/VOC2012/ImageSets/{kind.lists}/trainval.txt
ROOT/{FOLDER}/VOC2007 and VOC2012/JPEGImages/*.jpg
ROOT/{FOLDER}/VOC2007 and VOC2012/{kind.files}
"""


def _remedy(kind: Kind) -> str:
    return (
        f'python -c "from torchvision.datasets import {kind.reader} as V; '
        "[V('ROOT', year, part, download=True) for year, part in "
        "(('2007', 'trainval'), ('2007', 'test'), ('2012', 'trainval'))]\""
    )
