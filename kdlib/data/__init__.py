"""Data sets by name; one line each."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from kdlib.data.cifar import load_cifar100
from kdlib.data.fashion import load_fashion_mnist, load_fashion_scenes
from kdlib.data.image_data import TASKS, ImageData
from kdlib.data.photographs import Lister, load_photographs
from kdlib.data.places import list_ade20k, list_imagefolder, list_mit67, list_places365, list_sun397
from kdlib.data.scenes import (
    load_fashion_scene_masks,
    load_fashion_scene_objects,
    load_scene_masks,
    load_scene_objects,
    load_scenes,
)
from kdlib.detection.data import checked_crop_size, cropped, load_coco, load_voc_objects
from kdlib.errors import KdlibError, unknown
from kdlib.frskd.segmentation import load_voc

DATASETS: dict[str, Callable[..., ImageData]] = {
    "scenes": load_scenes,
    "fashion_scenes": load_fashion_scenes,
    "fashion_mnist": load_fashion_mnist,
    "cifar100": load_cifar100,
    "mit67": partial(load_photographs, list_mit67),
    "sun397": partial(load_photographs, list_sun397),
    "ade20k": partial(load_photographs, list_ade20k),
    "places365": partial(load_photographs, list_places365),
    "imagefolder": partial(load_photographs, list_imagefolder),
    "voc": load_voc,
    "coco": load_coco,
}
SEGMENTED: dict[str, Callable[..., ImageData]] = {
    "scenes": load_scene_masks,
    "fashion_scenes": load_fashion_scene_masks,
    "voc": load_voc,
}
"""With the class of each pixel."""
DETECTED: dict[str, Callable[..., ImageData]] = {
    "scenes": load_scene_objects,
    "fashion_scenes": load_fashion_scene_objects,
    "voc": load_voc_objects,
    "coco": load_coco,
}
"""With the box and the class of each object, which can be cut out by their boxes."""
LISTERS: dict[str, Lister] = {
    name: loader.args[0] for name, loader in DATASETS.items() if isinstance(loader, partial)
}
"""Of the data sets that are photographs in files of their own."""
SMALLEST = 2
SPLITS = ("train", "fit", "dev", "test")
DEV_SHARE = 0.2


def dataset_names() -> tuple[str, ...]:
    """Names that ``load_data`` knows."""
    return tuple(DATASETS)


def about(name: str) -> str:
    """What a data set is, in one line."""
    text = (LISTERS.get(name) or DATASETS[name]).__doc__ or ""
    return text.split("\n")[0].rstrip(".")


def loaders_of(task: str) -> dict[str, Callable[..., ImageData]]:
    """The data sets of a task, by name.

    Raises:
        KdlibError: an unknown task.
    """
    if task not in TASKS:
        raise unknown("task", task, TASKS)
    if task == "segmentation":
        return SEGMENTED
    if task in ("detection", "crops"):
        return DETECTED
    others = (SEGMENTED, DETECTED)
    return {
        name: load
        for name, load in DATASETS.items()
        if all(load is not other.get(name) for other in others)
    }


def _loader(name: str, task: str) -> Callable[..., ImageData]:
    """What loads a data set for a task."""
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    loaders = loaders_of(task)
    if name not in loaders:
        valid = ", ".join(loaders)
        raise KdlibError(f"'{name}' has no truth for task '{task}'. Valid for it: {valid}.")
    return loaders[name]


def tasks_of(name: str) -> tuple[str, ...]:
    """The tasks that a data set has the truth for."""
    return tuple(task for task in TASKS if name in loaders_of(task))


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
) -> ImageData:
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
    checked_crop_size(crop_size)
    data = load(
        "test" if split == "test" else "train",
        size=size,
        image_size=image_size,
        attentions=attentions,
        distractors=distractors,
        data_root=Path(data_root) if data_root else None,
    )
    kept = min(round(len(data) * (1 - DEV_SHARE)), len(data) - 1)
    parts = {"fit": (0, kept), "dev": (kept, len(data))}
    chosen = data.part(*parts[split]) if split in parts else data
    return cropped(chosen, crop_size) if task == "crops" else chosen
