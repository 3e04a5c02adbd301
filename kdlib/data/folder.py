"""Any photographs, a folder a class, through torchvision's ImageFolder.

ROOT/train/CLASS/*.jpg ...    ROOT/test/CLASS/*.jpg ...    (val instead of test will do)
"""

from collections.abc import Sequence
from pathlib import Path

from torchvision.datasets import ImageFolder

from kdlib.data.listing import Listing, check_classes
from kdlib.data.roots import missing
from kdlib.errors import KdlibError

SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val")}
LAYOUT = "\n".join(f"ROOT/{part}/CLASS/*.jpg (.png, ...)" for part in ("train", "test (or val)"))
REMEDY = "put your images into these folders, a folder a class, the same classes in both"


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
    return Listing("imagefolder", chosen, names, tuple(found.targets), tuple(found.classes), REMEDY)


def _folder(root: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise missing("imagefolder", root / names[0], LAYOUT, REMEDY)


def _subfolders(folder: Path) -> list[str]:
    return [item.name for item in folder.iterdir() if item.is_dir()]
