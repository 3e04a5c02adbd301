"""What `data check` and `data cache` do with a split, and say of it."""

import time
from pathlib import Path
from pkgutil import resolve_name

from kdlib.data import dataset_names, listed, load_data, tasks_of
from kdlib.data.batches import Batches
from kdlib.data.image_data import ImageData
from kdlib.data.photograph_cache import build
from kdlib.data.photographs import open_source, worker_count
from kdlib.data.roots import checked_root
from kdlib.data.voc import tasks_there
from kdlib.detection.batches import DetectionBatches
from kdlib.errors import KdlibError, unknown

CHECKED = 64
"""Images of a split that are read."""
SHOWN = 6
"""Class names that are told."""
PUBLISHED = {
    ("fashion_mnist", "classification"): (60_000, 10_000, 10),
    ("cifar100", "classification"): (50_000, 10_000, 100),
    ("mit67", "classification"): (5_360, 1_340, 67),
    ("sun397", "classification"): (19_850, 19_850, 397),
    ("ade20k", "classification"): (20_210, 2_000, 1_055),
    ("places365", "classification"): (1_803_460, 36_500, 365),
    ("voc", "detection"): (16_551, 4_952, 20),
    ("coco", "detection"): (118_287, 5_000, 80),
}
"""Images to train on, images to test on and classes, as published; other copies are not refused."""


def check_split(name: str, split: str, data_root: Path | None) -> str:
    """Load a split, read some of its images, and tell what it holds; a line a truth.

    Raises:
        KdlibError: the data set is unknown, missing or damaged.
    """
    return "\n".join(_checked(name, split, task, data_root) for task in _tasks(name, data_root))


def _tasks(name: str, data_root: Path | None) -> tuple[str, ...]:
    """The first task of a data set; of VOC, those whose lists are there."""
    if name == "voc":
        return tasks_there(checked_root(data_root))
    return tasks_of(name)[:1] if name in dataset_names() else ("classification",)


def _checked(name: str, split: str, task: str, data_root: Path | None) -> str:
    published = PUBLISHED.get((name, task))
    whole = published is not None or name in listed()  # the others would be composed
    data = load_data(name, split, size=None if whole else CHECKED, data_root=data_root, task=task)
    _read(data.first(CHECKED))
    classes = ", ".join(data.classes[:SHOWN]) + (", ..." if len(data.classes) > SHOWN else "")
    counts = _counts(published, split, data) if whole else _classes(data)
    title = f"{name}, {split}" + (", objects" if task == "detection" else "")
    return f"{title}: readable; {counts} ({classes})"


def _read(data: ImageData) -> None:
    detected = data.task == "detection"
    batches = DetectionBatches(data, 8) if detected else Batches(data, CHECKED)
    for _ in batches.in_order():
        pass


def _counts(published: tuple[int, int, int] | None, split: str, data: ImageData) -> str:
    images, classes = f"{len(data):,} images", _classes(data)
    if published is not None:
        images += f" (published: {published[split == 'test']:,})"
        classes += f" (published: {published[2]:,})"
    objects = f", {len(data.objects.kinds):,} objects" if data.objects is not None else ""
    return f"{images}{objects}, {classes}"


def _classes(data: ImageData) -> str:
    return f"{len(data.classes):,} classes"


def cache_split(
    name: str, split: str, image_size: int, data_root: Path | None, workers: int | None
) -> str:
    """Make the file of a split's resized photographs, and tell where it is.

    Raises:
        KdlibError: the data set is not one of photographs, is missing or damaged, or the cache
            cannot be written.
    """
    if name not in dataset_names():
        raise unknown("data set", name, listed())
    if name not in listed():
        raise KdlibError(
            f"'{name}' needs no cache of photographs: it is held in memory, or made once and kept. "
            f"Those that can have one: {', '.join(listed())}."
        )
    start = time.perf_counter()
    source = open_source(resolve_name(listed()[name]), split, image_size, data_root)
    folder = build(source, workers or worker_count())
    size = (folder / "pixels.npy").stat().st_size / 1e9
    return (
        f"{name}, {split}: {len(source.listing.names):,} photographs, {size:.2f} GB, "
        f"{time.perf_counter() - start:.0f} s: {folder}"
    )
