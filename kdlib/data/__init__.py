"""Data sets by name: what each is, and what loads it for a task."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, NamedTuple

from kdlib.errors import KdlibError, check_range, unknown
from kdlib.tasks import TASKS

if TYPE_CHECKING:
    from kdlib.data.image_data import ImageData

Loader = Callable[..., Any] | str
"""From ``train`` or ``test`` and the options of :func:`load_data` to ``ImageData``; or the
``module:name`` of what does it."""


class DataSet(NamedTuple):
    """A data set, by what loads it for each task that it has the truth for."""

    about: str  # what it is, in a line
    images: Loader | None = None  # its loader where images have labels
    masks: Loader | None = None  # where their pixels have
    boxes: Loader | None = None  # where their objects have, and boxes, by which they can be cut out
    source: Loader | None = None  # given to these first: what composes scenes, or reads lists


COMPOSED = (
    "kdlib.data.scenes:load_scenes",
    "kdlib.data.scenes:load_scene_masks",
    "kdlib.detection.data:load_scene_objects",
)
PHOTOGRAPHS = {
    "mit67": "MIT Indoor 67: indoor scenes, the official lists",
    "sun397": "SUN397: indoor and outdoor scenes, the first official partition",
    "ade20k": "ADE20K: the scene of each photograph, 1,055 classes of which many have a few",
    "places365": "Places365-Standard: scenes, 256 x 256, tested on its validation set",
    "imagefolder": "Photographs of your own, in a folder a class",
}


def listed() -> dict[str, str]:
    """The data sets that are photographs in files of their own, and what lists each."""
    return {name: f"kdlib.data.places:list_{name}" for name in PHOTOGRAPHS}


DATASETS = {
    "scenes": DataSet(
        "The embedded scenes: made on the fly, no data root needed",
        *COMPOSED,
        "kdlib.data.scenes:embedded",
    ),
    "fashion_scenes": DataSet(
        "Scenes of garments, composed once and then read from the cache",
        *COMPOSED,
        "kdlib.data.fashion:outfits",
    ),
    "fashion_mnist": DataSet(
        "Fashion-MNIST, padded to 32 x 32 (and resized if another size is asked for)",
        "kdlib.data.fashion:load_fashion_mnist",
    ),
    "cifar100": DataSet(
        "CIFAR-100 with its 100 fine classes; the published order, which is random, is kept",
        "kdlib.data.cifar:load_cifar100",
    ),
    **{
        name: DataSet(about, "kdlib.data.photographs:load_photographs", source=listed()[name])
        for name, about in PHOTOGRAPHS.items()
    },
    "voc": DataSet(
        "Pascal VOC 2007 and 2012: photographs, each pixel one of 20 things or background",
        masks="kdlib.frskd.voc:load_voc",
        boxes="kdlib.detection.data:load_voc_objects",
    ),
    "coco": DataSet(
        "COCO 2017: photographs of any size, objects of 80 classes with their boxes",
        boxes="kdlib.detection.data:load_coco",
    ),
}
TRUTHS = dict(zip(TASKS, ("images", "masks", "boxes", "boxes"), strict=True))
"""Which loader of a data set a task needs."""
SPLITS, SMALLEST, DEV_SHARE = ("train", "fit", "dev", "test"), 2, 0.2
CROP_SIZES = (8, 512)
CROPPED = "kdlib.detection.objects:cropped"


def register_data(name: str, about: str, **loaders: Loader) -> None:
    """Add a data set of your own, by the loaders of :class:`DataSet`; no name is taken twice."""
    if name in DATASETS:
        raise KdlibError(f"There is a data set '{name}' already; choose another name.")
    DATASETS[name] = DataSet(about, **loaders)


def dataset_names() -> tuple[str, ...]:
    """Names that ``load_data`` knows."""
    return tuple(DATASETS)


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
    """Load a split of a data set into memory, map it, or list its photographs.

    Args:
        name: one of ``dataset_names()``.
        split: ``train``; ``dev``, the last fifth of it, on which choices are made; ``fit``, the
            rest of it; ``test``, which nothing may be chosen on.
        task: ``classification``: images have labels; ``segmentation``: their pixels have;
            ``detection``: their objects have, and boxes; ``crops``: objects cut out of the images
            of that very split, which are classified.
        size: images of the training set (for ``train``, ``fit``, ``dev``) or of the test set;
            ``None`` for the data set's own number.
        image_size: pixels a side; photographs with objects have sizes of their own.
        attentions: objects of its class that a scene shows (composed data sets).
        distractors: other objects in a scene (composed data sets).
        crop_size: pixels a side of a crop, 8 to 512 (task ``crops``).
        data_root: folder of the real data sets; ``None`` reads the variable ``KDLIB_DATA``.

    Raises:
        KdlibError: unknown name, split or task, a data set without the truth for that task, data
            missing or damaged, an option out of range.
    """
    load = _loader(name, task)
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if size is not None and size < SMALLEST:
        raise KdlibError(f"size is {size}; it must be at least {SMALLEST}, or None for all.")
    check_range("crop_size", crop_size, *CROP_SIZES)
    composition = {"attentions": attentions, "distractors": distractors}
    place = {"image_size": image_size, "data_root": Path(data_root) if data_root else None}
    whole = load("test" if split == "test" else "train", size=size, **place, **composition)
    data = _part(whole, split)
    return resolve_name(CROPPED)(data, crop_size) if task == "crops" else data


def _loader(name: str, task: str) -> Callable[..., "ImageData"]:
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    if task not in tasks_of(name):
        valid = ", ".join(other for other in DATASETS if task in tasks_of(other))
        raise KdlibError(f"'{name}' has no truth for task '{task}'. Valid for it: {valid}.")
    found = (getattr(DATASETS[name], TRUTHS[task]), DATASETS[name].source)
    load, *source = (resolve_name(one) if isinstance(one, str) else one for one in found if one)
    return partial(load, *source)


def _part(data: "ImageData", split: str) -> "ImageData":
    kept = min(round(len(data) * (1 - DEV_SHARE)), len(data) - 1)
    parts = {"fit": (0, kept), "dev": (kept, len(data))}
    return data.part(*parts[split]) if split in parts else data
