"""What `data check` and `data cache` do with a split, and say of it."""

import time
from pathlib import Path

from kdlib.data import LISTERS, dataset_names, load_data, resized, tasks_of
from kdlib.data.batches import Batches
from kdlib.data.image_data import ImageData
from kdlib.data.photo_source import open_source
from kdlib.data.photographs import worker_count
from kdlib.data.published import PUBLISHED
from kdlib.errors import KdlibError, unknown

CHECKED = 64
"""Images of a split that are read."""
SHOWN = 6
"""Class names that are told."""


def check_split(name: str, split: str, data_root: Path | None) -> str:
    """Load a split, read some of its images, and tell what it holds.

    Raises:
        KdlibError: the data set is unknown, missing or damaged.
    """
    whole = name in PUBLISHED or name in LISTERS  # the others would be composed
    task = next(iter(tasks_of(name)), "classification")
    data = load_data(name, split, size=None if whole else CHECKED, data_root=data_root, task=task)
    for _ in Batches(data.first(CHECKED), CHECKED).in_order():
        pass
    classes = ", ".join(data.classes[:SHOWN]) + (", ..." if len(data.classes) > SHOWN else "")
    counts = _counts(name, split, data) if whole else f"{len(data.classes)} classes"
    return f"{name}, {split}: readable; {counts} ({classes})"


def _counts(name: str, split: str, data: ImageData) -> str:
    published = PUBLISHED.get(name)
    images, classes = f"{len(data):,} images", f"{len(data.classes):,} classes"
    if published is not None:
        images += f" (published: {getattr(published, split):,})"
        classes += f" (published: {published.classes:,})"
    return f"{images}, {classes}"


def cache_split(
    name: str, split: str, image_size: int, data_root: Path | None, workers: int | None
) -> str:
    """Make the file of a split's resized photographs, and tell where it is.

    Raises:
        KdlibError: the data set is not one of photographs, is missing or damaged, or the cache
            cannot be written.
    """
    if name not in dataset_names():
        raise unknown("data set", name, LISTERS)
    if name not in LISTERS:
        raise KdlibError(
            f"'{name}' needs no cache of photographs: it is held in memory, or made once and kept. "
            f"Those that can have one: {', '.join(LISTERS)}."
        )
    start = time.perf_counter()
    source = open_source(LISTERS[name], split, image_size, data_root)
    folder = resized.build(source, workers or worker_count())
    size = (folder / "pixels").stat().st_size / 1e9
    return (
        f"{name}, {split}: {len(source.listing.names):,} photographs, {size:.2f} GB, "
        f"{time.perf_counter() - start:.0f} s: {folder}"
    )
