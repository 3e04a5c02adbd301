"""Data sets of photographs by their official lists; each ``list_...`` gives one split.

MIT67, SUN397, ADE20K and Places365 are photographs from the web, for research only, under no
licence of their own.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from kdlib.data.image_data import missing, shown_lines
from kdlib.data.photographs import Listing
from kdlib.errors import KdlibError

LAYOUTS = {
    "mit67": "ROOT/mit67/Images/CLASS/*.jpg   (67 classes)\n"
    "ROOT/mit67/TrainImages.txt, TestImages.txt",
    "sun397": "ROOT/SUN397/a/abbey/*.jpg ...   (397 classes; b/bow_window/indoor is one, too)\n"
    "ROOT/SUN397/ClassName.txt, Training_01.txt, Testing_01.txt",
    "ade20k": "ROOT/ADEChallengeData2016/images/training/ADE_train_*.jpg\n"
    "ROOT/ADEChallengeData2016/images/validation/ADE_val_*.jpg\n"
    "ROOT/ADEChallengeData2016/sceneCategories.txt",
    "places365": "ROOT/places365/categories_places365.txt\n"
    "ROOT/places365/places365_train_standard.txt, places365_val.txt\n"
    "ROOT/places365/data_256_standard/a/airfield/*.jpg ...\nROOT/places365/val_256/*.jpg",
    "imagefolder": "ROOT/train/CLASS/*.jpg (.png, ...)\nROOT/test (or val)/CLASS/*.jpg (.png, ...)",
}
REMEDIES = {
    "mit67": "download indoorCVPR_09.tar, TrainImages.txt and TestImages.txt from the page of "
    "'Indoor Scene Recognition' (MIT), unpack the first in ROOT/mit67, put the lists beside Images",
    "sun397": "python -c \"from torchvision.datasets import SUN397 as S; S('ROOT', download=True)\""
    "   (37 GB); then unpack Partitions.zip, from the same page of Princeton's, in ROOT/SUN397",
    "ade20k": "download ADEChallengeData2016.zip from the page of the 'Scene Parsing' challenge "
    "(MIT) and unpack it in ROOT",
    "places365": 'python -c "from torchvision.datasets import Places365 as P; '
    "[P('ROOT/places365', s, small=True, download=True) for s in ('train-standard', 'val')]\"   "
    "(25 GB; make the folder first)",
    "imagefolder": "put your images into these folders, a folder a class, the same classes in both",
}


def list_mit67(split: str, root: Path) -> Listing:
    """MIT Indoor 67 (Quattoni, Torralba 2009, doi 10.1109/CVPR.2009.5206537), official lists.

    80 photographs a class to train on, 20 to test on; classes are in the order of their names.
    """
    files = {"train": "TrainImages.txt", "test": "TestImages.txt"}
    folder = _folder("mit67", root / "mit67", "Images", *files.values())
    names = _lists("mit67", folder, files, r"([^/]+/[^/]+)", "bakery/bakery_0001.jpg")
    classes = sorted(set(map(_scene, names["train"])))
    return _listing("mit67", folder / "Images", names[split], classes)


def list_sun397(split: str, root: Path) -> Listing:
    """SUN397 (Xiao et al. 2010, doi 10.1109/CVPR.2010.5539970), the first official partition."""
    files = {"train": "Training_01.txt", "test": "Testing_01.txt"}
    folder = _folder("sun397", root / "SUN397", "ClassName.txt", *files.values())
    rooted = r"/((?:[^/]+/)+[^/]+)"
    classes = {"ClassName.txt": read_lines(folder / "ClassName.txt", rooted, "/a/abbey")}
    names = _lists("sun397", folder, files, rooted, "/a/abbey/sun_aaalbzqrimafwbiv.jpg", classes)
    listing = _listing("sun397", folder, names[split], classes["ClassName.txt"])
    return replace(listing, classes=tuple(name.split("/", 1)[1] for name in listing.classes))


def list_ade20k(split: str, root: Path) -> Listing:
    """ADE20K's scenes (Zhou et al. 2017, doi 10.1109/CVPR.2017.544): one class a photograph."""
    folder, lists = root / "ADEChallengeData2016", "sceneCategories.txt"
    _folder("ade20k", folder, lists, "images/training", "images/validation")
    part, prefix = {"train": ("training", "ADE_train_"), "test": ("validation", "ADE_val_")}[split]
    pattern, example = r"(ADE_(?:train|val)_\S*\s+\S+)", "ADE_val_00000001 x"
    pairs = [line.split() for line in read_lines(folder / lists, pattern, example)]
    own = [f"{scene}/{name}.jpg" for name, scene in pairs if name.startswith(prefix)]
    classes = sorted({scene for _, scene in pairs})
    listing = _listing("ade20k", folder / "images" / part, own, classes)
    return replace(listing, names=tuple(name.rsplit("/", 1)[1] for name in own))


def list_places365(split: str, root: Path) -> Listing:
    """Places365-Standard (Zhou et al. 2018, doi 10.1109/TPAMI.2017.2723009), 256 x 256.

    Tested on its validation set, as is usual.
    """
    from torchvision.datasets import Places365
    from torchvision.datasets.utils import check_integrity

    folder, part = root / "places365", {"train": "train-standard", "test": "val"}[split]
    for name, md5 in (Places365._CATEGORIES_META, Places365._FILE_LIST_META[part]):
        if not check_integrity(_folder("places365", folder, name) / name, md5):
            raise KdlibError(
                f"{folder / name} is not the published list (its MD5 sum differs). Remove it and "
                f"get it again:\n  {REMEDIES['places365']}"
            )
    found = Places365(str(folder), split=part, small=True)
    images = Path(found.images_dir)
    _folder("places365", folder, images.name)
    names = tuple(path[len(str(images)) + 1 :] for path, _ in found.imgs)
    facts = (tuple(found.targets), tuple(found.classes), REMEDIES["places365"])
    return Listing("places365", images, names, *facts)


def list_imagefolder(split: str, root: Path) -> Listing:
    """Photographs of your own, in a folder a class, through torchvision's ImageFolder."""
    from torchvision.datasets import ImageFolder

    test = "val" if (root / "val").is_dir() and not (root / "test").is_dir() else "test"
    _folder("imagefolder", root, "train", test)
    parts = {name: [item.name for item in (root / name).iterdir() if item.is_dir()]
             for name in ("train", test)}  # fmt: skip
    check_classes("imagefolder", parts)
    folder = root / (test if split == "test" else "train")
    try:
        found = ImageFolder(str(folder))
    except FileNotFoundError as error:
        raise KdlibError(f"{folder}: {error}") from error
    names = tuple(Path(path).relative_to(folder).as_posix() for path, _ in found.samples)
    facts = (tuple(found.targets), tuple(found.classes), REMEDIES["imagefolder"])
    return Listing("imagefolder", folder, names, *facts)


def _folder(dataset: str, folder: Path, *names: str) -> Path:
    """The folder, which must hold the files and folders of these names."""
    for path in (folder / name for name in names):
        if not path.exists():
            raise missing(dataset, path, LAYOUTS[dataset], REMEDIES[dataset])
    return folder


def _listing(dataset: str, folder: Path, names: Sequence[str], classes: Sequence[str]) -> Listing:
    """Photographs whose folders are their classes."""
    labels = {name: label for label, name in enumerate(classes)}
    targets = tuple(labels[_scene(name)] for name in names)
    return Listing(dataset, folder, tuple(names), targets, tuple(classes), REMEDIES[dataset])


def _scene(name: str) -> str:
    return name.rsplit("/", 1)[0]


def _lists(
    dataset: str,
    folder: Path,
    files: Mapping[str, str],
    pattern: str,
    example: str,
    classes: Mapping[str, Iterable[str]] | None = None,
) -> dict[str, list[str]]:
    """What the lists of both splits name: no photograph in both, the same classes in all."""
    names = {split: read_lines(folder / file, pattern, example) for split, file in files.items()}
    if both := sorted(set(names["train"]) & set(names["test"])):
        raise KdlibError(
            f"{dataset}: {len(both):,} photographs are in the training and in the test list:\n"
            f"{shown_lines(both)}\nUse the official lists."
        )
    scenes = {files[split]: map(_scene, own) for split, own in names.items()}
    check_classes(dataset, {**(classes or {}), **scenes})
    return names


def read_lines(path: Path, pattern: str, example: str) -> list[str]:
    """The first group of a pattern in each line that is not empty.

    A line that is not like the ``example``, or leads out of the folder, is refused by its number.
    """
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    found = []
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        match = re.fullmatch(pattern, line)
        if line and (match is None or ".." in line.split("/")):
            raise KdlibError(f"{path}, line {number}: {line[:80]!r} is not like '{example}'.")
        found += [match[1]] if match else []
    if not found:
        raise KdlibError(f"{path} is empty; expected lines like '{example}'.")
    return found


def check_classes(dataset: str, found: Mapping[str, Iterable[str]]) -> None:
    """Refuse parts that do not have the same classes, each with a photograph at least."""
    sets = {part: set(names) for part, names in found.items()}
    every = list(sets.values())
    if odd := set[str]().union(*every) - every[0].intersection(*every):
        counts = ", ".join(f"{part} has {len(names)}" for part, names in sets.items())
        raise KdlibError(
            f"{dataset}: all parts must have the same classes, but {counts}. Not in all of "
            f"them:\n{shown_lines(sorted(odd))}"
        )
