"""ADE20K's scenes (Zhou et al. 2017, doi 10.1109/CVPR.2017.544): one class a photograph.

    ROOT/ADEChallengeData2016/images/training/ADE_train_00000001.jpg ...      20,210
    ROOT/ADEChallengeData2016/images/validation/ADE_val_00000001.jpg ...       2,000
    ROOT/ADEChallengeData2016/sceneCategories.txt

A line of the last is like ``ADE_train_00000001 airport_terminal``. Its 1,055 classes (``misc``
among them) are in the order of their names. Most occur in one split only: 672 in validation, 15 of
them never in training; so the classes are those of both. Annotations are BSD-licensed, images for
non-commercial research and education.
"""

from pathlib import Path

from kdlib.data.listing import Listing, read_lines
from kdlib.data.roots import missing

FOLDERS = {"train": ("training", "ADE_train_"), "test": ("validation", "ADE_val_")}
CATEGORIES = "sceneCategories.txt"
LAYOUT = """
ROOT/ADEChallengeData2016/images/training/ADE_train_*.jpg
ROOT/ADEChallengeData2016/images/validation/ADE_val_*.jpg
ROOT/ADEChallengeData2016/sceneCategories.txt
"""
REMEDY = (
    "download ADEChallengeData2016.zip from the page of the 'Scene Parsing' challenge (MIT) "
    "and unpack it in ROOT"
)


def list_ade20k(split: str, root: Path) -> Listing:
    """ADE20K: the scene of each photograph, 1,055 classes of which many have a few.

    Raises:
        KdlibError: something is missing or a line is malformed.
    """
    folder = root / "ADEChallengeData2016"
    for path in (folder / CATEGORIES, *(folder / "images" / part for part, _ in FOLDERS.values())):
        if not path.exists():
            raise missing("ade20k", path, LAYOUT, REMEDY)
    pairs = [line.split() for line in read_lines(folder / CATEGORIES, _entry, "ADE_val_00000001 x")]
    classes = tuple(sorted({scene for _, scene in pairs}))
    labels = {name: label for label, name in enumerate(classes)}
    part, prefix = FOLDERS[split]
    own = [(name, labels[scene]) for name, scene in pairs if name.startswith(prefix)]
    names = tuple(f"{name}.jpg" for name, _ in own)
    targets = tuple(label for _, label in own)
    return Listing("ade20k", folder / "images" / part, names, targets, classes, REMEDY)


def _entry(line: str) -> str | None:
    name, _, scene = line.partition(" ")
    known = any(name.startswith(prefix) for _, prefix in FOLDERS.values())
    return line if known and scene.strip() and len(line.split()) == 2 else None
