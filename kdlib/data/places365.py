"""Places365-Standard (Zhou et al. 2018, doi 10.1109/TPAMI.2017.2723009) through torchvision.

    ROOT/places365/categories_places365.txt, places365_train_standard.txt, places365_val.txt
    ROOT/places365/data_256_standard/a/airfield/*.jpg ...      1,803,460
    ROOT/places365/val_256/*.jpg                                  36,500

The small photographs, of 256 x 256. Those of the test set have no published labels, so the
validation set is tested on. Photographs from the web, for research only. torchvision checks the
lists by their MD5 sums.
"""

from pathlib import Path

from torchvision.datasets import Places365
from torchvision.datasets.utils import check_integrity

from kdlib.data.listing import Listing
from kdlib.data.roots import missing
from kdlib.errors import KdlibError

SPLITS = {"train": "train-standard", "test": "val"}
LAYOUT = """
ROOT/places365/categories_places365.txt
ROOT/places365/places365_train_standard.txt
ROOT/places365/places365_val.txt
ROOT/places365/data_256_standard/a/airfield/*.jpg ...
ROOT/places365/val_256/*.jpg
"""
REMEDY = (
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
        raise missing("places365", images, LAYOUT, REMEDY)
    start = len(str(images)) + 1
    names = tuple(path[start:] for path, _ in published.imgs)
    classes = tuple(published.classes)
    return Listing("places365", images, names, tuple(published.targets), classes, REMEDY)


def _check_lists(folder: Path, split: str) -> None:
    for name, md5 in (Places365._CATEGORIES_META, Places365._FILE_LIST_META[split]):
        if not (folder / name).is_file():
            raise missing("places365", folder / name, LAYOUT, REMEDY)
        if not check_integrity(folder / name, md5):
            raise KdlibError(
                f"{folder / name} is not the published list (its MD5 sum differs). Remove it and "
                f"get it again:\n  {REMEDY}"
            )
