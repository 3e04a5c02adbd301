"""MIT Indoor 67 (Quattoni, Torralba 2009, doi 10.1109/CVPR.2009.5206537), official lists.

    ROOT/mit67/Images/airport_inside/*.jpg ...     67 folders
    ROOT/mit67/TrainImages.txt                     80 photographs a class, 5,360
    ROOT/mit67/TestImages.txt                      20 photographs a class, 1,340

Photographs from the web, for research only, under no licence of their own. Classes are in the
order of their names. A line of a list is like ``airport_inside/airport_inside_0001.jpg``.
"""

from pathlib import Path

from kdlib.data.listing import Listing, check_apart, check_classes, read_lines
from kdlib.data.roots import missing

LISTS = {"train": "TrainImages.txt", "test": "TestImages.txt"}
LAYOUT = """
ROOT/mit67/Images/CLASS/*.jpg   (67 classes)
ROOT/mit67/TrainImages.txt
ROOT/mit67/TestImages.txt
"""
REMEDY = (
    "download indoorCVPR_09.tar, TrainImages.txt and TestImages.txt from the page of "
    "'Indoor Scene Recognition' (MIT), unpack the first in ROOT/mit67, put the lists beside Images"
)


def list_mit67(split: str, root: Path) -> Listing:
    """MIT Indoor 67: indoor scenes, the official lists.

    Raises:
        KdlibError: something is missing, a line is malformed, the lists overlap, or their classes
            differ.
    """
    folder = root / "mit67"
    for path in (folder / "Images", *(folder / name for name in LISTS.values())):
        if not path.exists():
            raise missing("mit67", path, LAYOUT, REMEDY)
    names = {part: _names(folder / file) for part, file in LISTS.items()}
    check_apart("mit67", *names.values())
    check_classes("mit67", {part: map(_class_of, listed) for part, listed in names.items()})
    classes = tuple(sorted({_class_of(name) for name in names["train"]}))
    labels = {name: label for label, name in enumerate(classes)}
    chosen = tuple(names[split])
    targets = tuple(labels[_class_of(name)] for name in chosen)
    return Listing("mit67", folder / "Images", chosen, targets, classes, REMEDY)


def _names(path: Path) -> list[str]:
    expected = "airport_inside/airport_inside_0001.jpg"
    return read_lines(path, lambda line: line if _is_name(line) else None, expected)


def _is_name(line: str) -> bool:
    parts = line.split("/")
    return len(parts) == 2 and all(parts) and ".." not in parts


def _class_of(name: str) -> str:
    return name.split("/")[0]
