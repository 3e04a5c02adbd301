"""MIT Indoor 67 (Quattoni, Torralba 2009, doi 10.1109/CVPR.2009.5206537), official lists.

    ROOT/mit67/Images/airport_inside/*.jpg ...     67 folders
    ROOT/mit67/TrainImages.txt                     80 photographs a class, 5,360
    ROOT/mit67/TestImages.txt                      20 photographs a class, 1,340

Photographs from the web, for research only, under no licence of their own. Classes are in the
order of their names. A line of a list is like ``airport_inside/airport_inside_0001.jpg``.
"""

from collections.abc import Sequence
from pathlib import Path

from torchvision.datasets import ImageFolder, Places365
from torchvision.datasets.utils import check_integrity

from kdlib.data.photographs import Listing, check_apart, check_classes, read_lines
from kdlib.data.roots import missing
from kdlib.errors import KdlibError

# ADE20K's scenes (Zhou et al. 2017, doi 10.1109/CVPR.2017.544): one class a photograph.
FOLDERS = {"train": ("training", "ADE_train_"), "test": ("validation", "ADE_val_")}
CATEGORIES = "sceneCategories.txt"
ADE20K_LAYOUT = """
ROOT/ADEChallengeData2016/images/training/ADE_train_*.jpg
ROOT/ADEChallengeData2016/images/validation/ADE_val_*.jpg
ROOT/ADEChallengeData2016/sceneCategories.txt
"""
ADE20K_REMEDY = (
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
            raise missing("ade20k", path, ADE20K_LAYOUT, ADE20K_REMEDY)
    pairs = [line.split() for line in read_lines(folder / CATEGORIES, _entry, "ADE_val_00000001 x")]
    classes = tuple(sorted({scene for _, scene in pairs}))
    labels = {name: label for label, name in enumerate(classes)}
    part, prefix = FOLDERS[split]
    own = [(name, labels[scene]) for name, scene in pairs if name.startswith(prefix)]
    names = tuple(f"{name}.jpg" for name, _ in own)
    targets = tuple(label for _, label in own)
    return Listing("ade20k", folder / "images" / part, names, targets, classes, ADE20K_REMEDY)


def _entry(line: str) -> str | None:
    name, _, scene = line.partition(" ")
    known = any(name.startswith(prefix) for _, prefix in FOLDERS.values())
    return line if known and scene.strip() and len(line.split()) == 2 else None


# Any photographs, a folder a class, through torchvision's ImageFolder.
SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val")}
FOLDER_LAYOUT = "\n".join(
    f"ROOT/{part}/CLASS/*.jpg (.png, ...)" for part in ("train", "test (or val)")
)
FOLDER_REMEDY = "put your images into these folders, a folder a class, the same classes in both"


def list_imagefolder(split: str, root: Path) -> Listing:
    """Photographs of your own, in a folder a class.

    Raises:
        KdlibError: folders are missing or a class is empty, or the parts' classes differ.
    """
    folders = {part: _folder(root, names) for part, names in SPLIT_FOLDERS.items()}
    check_classes("imagefolder", {path.name: _subfolders(path) for path in folders.values()})
    chosen = folders[split]
    try:
        found = ImageFolder(str(chosen))
    except FileNotFoundError as error:
        raise KdlibError(f"{chosen}: {error}") from error
    names = tuple(Path(path).relative_to(chosen).as_posix() for path, _ in found.samples)
    return Listing(
        "imagefolder", chosen, names, tuple(found.targets), tuple(found.classes), FOLDER_REMEDY
    )


def _folder(root: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise missing("imagefolder", root / names[0], FOLDER_LAYOUT, FOLDER_REMEDY)


def _subfolders(folder: Path) -> list[str]:
    return [item.name for item in folder.iterdir() if item.is_dir()]


MIT67_LISTS = {"train": "TrainImages.txt", "test": "TestImages.txt"}
MIT67_LAYOUT = """
ROOT/mit67/Images/CLASS/*.jpg   (67 classes)
ROOT/mit67/TrainImages.txt
ROOT/mit67/TestImages.txt
"""
MIT67_REMEDY = (
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
    for path in (folder / "Images", *(folder / name for name in MIT67_LISTS.values())):
        if not path.exists():
            raise missing("mit67", path, MIT67_LAYOUT, MIT67_REMEDY)
    names = {part: _mit67_names(folder / file) for part, file in MIT67_LISTS.items()}
    check_apart("mit67", *names.values())
    check_classes("mit67", {part: map(_mit67_class_of, listed) for part, listed in names.items()})
    classes = tuple(sorted({_mit67_class_of(name) for name in names["train"]}))
    labels = {name: label for label, name in enumerate(classes)}
    chosen = tuple(names[split])
    targets = tuple(labels[_mit67_class_of(name)] for name in chosen)
    return Listing("mit67", folder / "Images", chosen, targets, classes, MIT67_REMEDY)


def _mit67_names(path: Path) -> list[str]:
    expected = "airport_inside/airport_inside_0001.jpg"
    return read_lines(path, lambda line: line if _is_name(line) else None, expected)


def _is_name(line: str) -> bool:
    parts = line.split("/")
    return len(parts) == 2 and all(parts) and ".." not in parts


def _mit67_class_of(name: str) -> str:
    return name.split("/")[0]


# Places365-Standard (Zhou et al. 2018, doi 10.1109/TPAMI.2017.2723009) through torchvision.
SPLITS = {"train": "train-standard", "test": "val"}
PLACES365_LAYOUT = """
ROOT/places365/categories_places365.txt
ROOT/places365/places365_train_standard.txt
ROOT/places365/places365_val.txt
ROOT/places365/data_256_standard/a/airfield/*.jpg ...
ROOT/places365/val_256/*.jpg
"""
PLACES365_REMEDY = (
    'python -c "from torchvision.datasets import Places365 as P; '
    "[P('ROOT/places365', s, small=True, download=True) for s in ('train-standard', 'val')]\"   "
    "(25 GB; make the folder first)"
)


def list_places365(split: str, root: Path) -> Listing:
    """Places365-Standard: scenes, 256 x 256, tested on its validation set.

    Raises:
        KdlibError: a list or a folder is missing, or a list is not the published one.
    """
    folder = root / "places365"
    name = SPLITS[split]
    _check_lists(folder, name)
    published = Places365(str(folder), split=name, small=True)
    images = Path(published.images_dir)
    if not images.is_dir():
        raise missing("places365", images, PLACES365_LAYOUT, PLACES365_REMEDY)
    start = len(str(images)) + 1
    names = tuple(path[start:] for path, _ in published.imgs)
    classes = tuple(published.classes)
    return Listing("places365", images, names, tuple(published.targets), classes, PLACES365_REMEDY)


def _check_lists(folder: Path, split: str) -> None:
    for name, md5 in (Places365._CATEGORIES_META, Places365._FILE_LIST_META[split]):
        if not (folder / name).is_file():
            raise missing("places365", folder / name, PLACES365_LAYOUT, PLACES365_REMEDY)
        if not check_integrity(folder / name, md5):
            raise KdlibError(
                f"{folder / name} is not the published list (its MD5 sum differs). Remove it and "
                f"get it again:\n  {PLACES365_REMEDY}"
            )


# SUN397 (Xiao et al. 2010, doi 10.1109/CVPR.2010.5539970), first official partition.
SUN397_LISTS = {"train": "Training_01.txt", "test": "Testing_01.txt"}
CLASSES = "ClassName.txt"
SUN397_LAYOUT = """
ROOT/SUN397/a/abbey/*.jpg ...   (397 classes; some are nested, as in b/bow_window/indoor)
ROOT/SUN397/ClassName.txt
ROOT/SUN397/Training_01.txt
ROOT/SUN397/Testing_01.txt
"""
SUN397_REMEDY = (
    "python -c \"from torchvision.datasets import SUN397 as S; S('ROOT', download=True)\"   "
    "(37 GB); then unpack Partitions.zip, from the same page of Princeton's, in ROOT/SUN397"
)


def list_sun397(split: str, root: Path) -> Listing:
    """SUN397: indoor and outdoor scenes, the first official partition.

    Raises:
        KdlibError: something is missing, a line is malformed or of no class, the lists overlap,
            or a class has no photograph in one of them.
    """
    folder = root / "SUN397"
    for name in (CLASSES, *SUN397_LISTS.values()):
        if not (folder / name).is_file():
            raise missing("sun397", folder / name, SUN397_LAYOUT, SUN397_REMEDY)
    classes = read_lines(folder / CLASSES, _rooted, "/a/abbey")
    names = {
        part: _sun397_names(folder / file, set(classes)) for part, file in SUN397_LISTS.items()
    }
    check_apart("sun397", *names.values())
    found = {part: map(_sun397_class_of, listed) for part, listed in names.items()}
    check_classes("sun397", {CLASSES: classes, **found})
    labels = {name: label for label, name in enumerate(classes)}
    chosen = tuple(names[split])
    targets = tuple(labels[_sun397_class_of(name)] for name in chosen)
    titles = tuple(name.split("/", 1)[1] for name in classes)
    return Listing("sun397", folder, chosen, targets, titles, SUN397_REMEDY)


def _rooted(line: str) -> str | None:
    """A path without its leading slash: ``/a/abbey`` -> ``a/abbey``."""
    parts = line.split("/")
    sound = len(parts) > 2 and parts[0] == "" and all(parts[1:]) and ".." not in parts
    return line[1:] if sound else None


def _sun397_names(path: Path, classes: set[str]) -> list[str]:
    names = read_lines(path, _rooted, "/a/abbey/sun_aaalbzqrimafwbiv.jpg")
    strangers = sorted({_sun397_class_of(name) for name in names} - classes)
    if strangers:
        raise KdlibError(f"{path} has the class '{strangers[0]}', which {CLASSES} does not.")
    return names


def _sun397_class_of(name: str) -> str:
    return name.rsplit("/", 1)[0]
