"""SUN397 (Xiao et al. 2010, doi 10.1109/CVPR.2010.5539970), first official partition.

    ROOT/SUN397/a/abbey/*.jpg ... b/bow_window/indoor/*.jpg ...
    ROOT/SUN397/ClassName.txt          397 lines such as /a/abbey, in the order of the labels
    ROOT/SUN397/Training_01.txt        50 photographs a class, 19,850
    ROOT/SUN397/Testing_01.txt         50 others a class, 19,850

Photographs from the web, for research only. torchvision's SUN397 reads the folder without its
partitions, so the lists are read here. The release of arXiv 2205.01997 carries lists of its own
in which ``train.txt`` and ``val.txt`` name the same 19,850 photographs; lists that overlap are
refused here.
"""

from pathlib import Path

from kdlib.data.listing import Listing, check_apart, check_classes, read_lines
from kdlib.data.roots import missing
from kdlib.errors import KdlibError

LISTS = {"train": "Training_01.txt", "test": "Testing_01.txt"}
CLASSES = "ClassName.txt"
LAYOUT = """
ROOT/SUN397/a/abbey/*.jpg ...   (397 classes; some are nested, as in b/bow_window/indoor)
ROOT/SUN397/ClassName.txt
ROOT/SUN397/Training_01.txt
ROOT/SUN397/Testing_01.txt
"""
REMEDY = (
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
    for name in (CLASSES, *LISTS.values()):
        if not (folder / name).is_file():
            raise missing("sun397", folder / name, LAYOUT, REMEDY)
    classes = read_lines(folder / CLASSES, _rooted, "/a/abbey")
    names = {part: _names(folder / file, set(classes)) for part, file in LISTS.items()}
    check_apart("sun397", *names.values())
    found = {part: map(_class_of, listed) for part, listed in names.items()}
    check_classes("sun397", {CLASSES: classes, **found})
    labels = {name: label for label, name in enumerate(classes)}
    chosen = tuple(names[split])
    targets = tuple(labels[_class_of(name)] for name in chosen)
    titles = tuple(name.split("/", 1)[1] for name in classes)
    return Listing("sun397", folder, chosen, targets, titles, REMEDY)


def _rooted(line: str) -> str | None:
    """A path without its leading slash: ``/a/abbey`` -> ``a/abbey``."""
    parts = line.split("/")
    sound = len(parts) > 2 and parts[0] == "" and all(parts[1:]) and ".." not in parts
    return line[1:] if sound else None


def _names(path: Path, classes: set[str]) -> list[str]:
    names = read_lines(path, _rooted, "/a/abbey/sun_aaalbzqrimafwbiv.jpg")
    strangers = sorted({_class_of(name) for name in names} - classes)
    if strangers:
        raise KdlibError(f"{path} has the class '{strangers[0]}', which {CLASSES} does not.")
    return names


def _class_of(name: str) -> str:
    return name.rsplit("/", 1)[0]
