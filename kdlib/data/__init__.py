"""Data sets by name: what each is, what loads it for a task, its files and how to get them."""

from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, NamedTuple

from kdlib.errors import KdlibError, check_range, unknown
from kdlib.tasks import TASKS

if TYPE_CHECKING:
    from kdlib.data.image_data import ImageData

Loader = Callable[..., Any] | str  # of a split and :func:`load_data`'s options; or "module:name"


class DataSet(NamedTuple):
    """A data set: what it is in a line, and what loads it for each task that it has truth for."""

    about: str
    images: Loader | None = None  # gives ``ImageData`` where images have labels
    masks: Loader | None = None  # where their pixels have
    boxes: Loader | None = None  # where their objects have, and boxes, by which they can be cut out
    source: Loader | None = None  # given to these first: what composes scenes, or lists photographs
    layout: str = ""  # its files, a line each
    remedy: str = "look where you had it from"  # how to get them


SCENES = ("kdlib.data.scenes:load_scenes", "kdlib.frskd.segmentation:load_scene_masks",
          "kdlib.detection.data:load_scene_objects")  # fmt: skip
PHOTOGRAPHS = ("kdlib.data.photographs:load_photographs", None, None)
DATASETS = {
    "scenes": DataSet("The embedded scenes: made on the fly, no data root needed",
        *SCENES, "kdlib.data.scenes:embedded"),
    "fashion_scenes": DataSet("Scenes of garments, composed once and then read from the cache",
        *SCENES, "kdlib.data.fashion:outfits"),
    "fashion_mnist": DataSet(
        "Fashion-MNIST, padded to 32 x 32 (and resized if another size is asked for)",
        "kdlib.data.fashion:load_fashion_mnist",
        layout="ROOT/FashionMNIST/raw/train-images-idx3-ubyte, train-labels-idx1-ubyte\n"
        "ROOT/FashionMNIST/raw/t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte   (all plain or .gz)",
        remedy="sudo apt-get install dataset-fashion-mnist && python -m kdlib data import "
        "fashion_mnist --data-root ROOT     (Debian, Ubuntu)\n  python -c "
        "\"from torchvision.datasets import FashionMNIST as F; F('ROOT', download=True)\""),
    "cifar100": DataSet(
        "CIFAR-100 with its 100 fine classes; the published order, which is random, is kept",
        "kdlib.data.published:load_cifar100", layout="ROOT/cifar-100-python/train, test, meta",
        remedy="python -c "
        "\"from torchvision.datasets import CIFAR100 as C; C('ROOT', download=True)\""),
    "mit67": DataSet("MIT Indoor 67: indoor scenes, the official lists",
        *PHOTOGRAPHS, "kdlib.data.published:list_mit67",
        "ROOT/mit67/Images/CLASS/*.jpg   (67 classes)\nROOT/mit67/TrainImages.txt, TestImages.txt",
        "download indoorCVPR_09.tar, TrainImages.txt and TestImages.txt from the page of 'Indoor "
        "Scene Recognition' (MIT), unpack the first in ROOT/mit67, put the lists beside Images"),
    "sun397": DataSet("SUN397: indoor and outdoor scenes, the first official partition",
        *PHOTOGRAPHS, "kdlib.data.published:list_sun397",
        "ROOT/SUN397/a/abbey/*.jpg ...   (397 classes; b/bow_window/indoor is one, too)\n"
        "ROOT/SUN397/ClassName.txt, Training_01.txt, Testing_01.txt",
        "python -c \"from torchvision.datasets import SUN397 as S; S('ROOT', download=True)\"   "
        "(37 GB); then unpack Partitions.zip, from the same page of Princeton's, in ROOT/SUN397"),
    "ade20k": DataSet(
        "ADE20K: the scene of each photograph, 1,055 classes of which many have a few",
        *PHOTOGRAPHS, "kdlib.data.published:list_ade20k",
        "ROOT/ADEChallengeData2016/images/training/ADE_train_*.jpg\nROOT/ADEChallengeData2016/"
        "images/validation/ADE_val_*.jpg\nROOT/ADEChallengeData2016/sceneCategories.txt",
        "download ADEChallengeData2016.zip from the page of the 'Scene Parsing' challenge (MIT), "
        "unpack it in ROOT"),
    "places365": DataSet("Places365-Standard: scenes, 256 x 256, tested on its validation set",
        *PHOTOGRAPHS, "kdlib.data.published:list_places365",
        "ROOT/places365/data_256_standard/a/airfield/*.jpg ...\nROOT/places365/val_256/*.jpg\nROOT/"
        "places365/categories_places365.txt, places365_train_standard.txt, places365_val.txt",
        "python -c \"from torchvision.datasets import Places365 as P; [P('ROOT/places365', s, "
        "small=True, download=True) for s in ('train-standard', 'val')]\"   (25 GB; first mkdir)"),
    "imagefolder": DataSet("Photographs of your own, in a folder a class",
        *PHOTOGRAPHS, "kdlib.data.published:list_imagefolder",
        "ROOT/train/CLASS/*.jpg (.png, ...)\nROOT/test (or val)/CLASS/*.jpg (.png, ...)",
        "put your images into these folders, a folder a class, the same classes in both"),
    "voc": DataSet(
        "Pascal VOC 2007 and 2012: photographs, each pixel one of 20 things or background",
        None, "kdlib.frskd.voc:load_voc", "kdlib.detection.data:load_voc_objects", None,
        "ROOT/VOCdevkit/VOC2007 (and VOC2012)/JPEGImages/*.jpg\nfor masks: ImageSets/Segmentation/"
        "trainval.txt, test.txt (2007), SegmentationClass/*.png\n"
        "for boxes: ImageSets/Main/trainval.txt, test.txt (2007), Annotations/*.xml",
        "python -c \"from torchvision.datasets import VOCDetection as V; [V('ROOT', *p, download="
        "True) for p in (('2007', 'trainval'), ('2007', 'test'), ('2012', 'trainval'))]\""),
    "coco": DataSet("COCO 2017: photographs of any size, objects of 80 classes with their boxes",
        None, None, "kdlib.detection.data:load_coco", None,
        "ROOT/coco/train2017/*.jpg\nROOT/coco/val2017/*.jpg\n"
        "ROOT/coco/annotations/instances_train2017.json, instances_val2017.json",
        "download train2017.zip, val2017.zip and annotations_trainval2017.zip from "
        "https://cocodataset.org/#download and unpack them in ROOT/coco"),
}  # fmt: skip
TRUTHS = dict(zip(TASKS, ("images", "masks", "boxes", "boxes"), strict=True))  # task -> loader
SPLITS, DEV_SHARE = ("train", "fit", "dev", "test"), 0.2
CROP_SIZES = (8, 512)


def register_data(name: str, about: str, **loaders: Loader) -> None:
    """Add a data set of your own, by the loaders of :class:`DataSet`; no name is taken twice."""
    if name in DATASETS:
        raise KdlibError(f"There is a data set '{name}' already; choose another name.")
    DATASETS[name] = DataSet(about, **loaders)  # type: ignore[arg-type]


def dataset_names() -> tuple[str, ...]:
    """Names that ``load_data`` knows."""
    return tuple(DATASETS)


def listed() -> dict[str, Any]:
    """The data sets that are photographs in files of their own, and what lists each."""
    return {name: one.source for name, one in DATASETS.items() if one.images == PHOTOGRAPHS[0]}


def tasks_of(name: str) -> tuple[str, ...]:
    """The tasks that a data set has the truth for."""
    return tuple(task for task in TASKS if getattr(DATASETS[name], TRUTHS[task]))


def load_data(
    name: str,
    split: str,
    *,
    task: str = "classification",
    size: int | None = None,
    image_size: int = 64,
    attentions: int = 2,
    distractors: int = 4,
    crop_size: int = 32,
    data_root: Path | str | None = None,
) -> "ImageData":
    """Load a split of a data set into memory, or list its photographs.

    ``split`` is ``train``; its last fifth, ``dev``, on which choices are made; the rest of it,
    ``fit``; or ``test``, which nothing may be chosen on. ``task`` says what has labels: images
    (``classification``), their pixels (``segmentation``), their objects, which have boxes
    (``detection``), or objects cut out, ``crop_size`` (8 to 512) pixels a side (``crops``).
    ``size`` counts the images of the training or the test set (``None``: all), of ``image_size``
    pixels a side; photographs with objects have sizes of their own. Composed scenes show
    ``attentions`` objects of their class and ``distractors`` others. ``data_root`` is the folder
    of the real data sets; ``None`` reads the variable ``KDLIB_DATA``. A ``KdlibError`` says what
    is unknown, out of range, missing or damaged, and what is valid.
    """
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    if task not in tasks_of(name):
        valid = ", ".join(other for other in DATASETS if task in tasks_of(other))
        raise KdlibError(f"'{name}' has no truth for task '{task}'. Valid for it: {valid}.")
    found = (getattr(DATASETS[name], TRUTHS[task]), DATASETS[name].source)
    load, *source = (resolve_name(one) if isinstance(one, str) else one for one in found if one)
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if size is not None and size < 2:
        raise KdlibError(f"size is {size}; it must be at least 2, or None for all.")
    check_range("crop_size", crop_size, *CROP_SIZES)
    options = {"attentions": attentions, "distractors": distractors, "image_size": image_size}
    root, part = Path(data_root) if data_root else None, "test" if split == "test" else "train"
    data = load(*source, part, size=size, data_root=root, **options)
    fewest = 2 if part == "train" and task != "detection" else 1
    resolve_name("kdlib.data.image_data:check_learnable")(data, f"{name}, {split}", fewest)
    if split in ("fit", "dev"):
        kept = min(round(len(data) * (1 - DEV_SHARE)), len(data) - 1)
        data = data.part(0, kept) if split == "fit" else data.part(kept, len(data))
    if task == "crops":
        return resolve_name("kdlib.detection.objects:cropped")(data, crop_size)
    return data
