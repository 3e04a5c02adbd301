"""Data sets by name; one line each."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from kdlib.data.ade20k import list_ade20k
from kdlib.data.cifar import load_cifar100
from kdlib.data.fashion import load_fashion_mnist
from kdlib.data.fashion_scenes import load_fashion_scenes
from kdlib.data.folder import list_imagefolder
from kdlib.data.image_data import ImageData
from kdlib.data.mit67 import list_mit67
from kdlib.data.photo_data import load_photographs
from kdlib.data.photo_source import Lister
from kdlib.data.places365 import list_places365
from kdlib.data.scenes import load_scenes
from kdlib.data.sun397 import list_sun397
from kdlib.errors import KdlibError, unknown

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
}
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


def load_data(
    name: str,
    split: str,
    *,
    size: int | None = None,
    image_size: int = 64,
    attentions: int = 2,
    distractors: int = 4,
    data_root: Path | str | None = None,
) -> ImageData:
    """Load a split of a data set into memory, map it, or list its photographs.

    Args:
        name: one of ``dataset_names()``.
        split: ``train``; ``dev``, the last fifth of it, on which choices are made; ``fit``, the
            rest of it; ``test``, which nothing may be chosen on.
        size: images of the training set (for ``train``, ``fit``, ``dev``) or of the test set;
            ``None`` for the data set's own number.
        image_size: pixels a side.
        attentions: objects of its class that a scene shows (composed data sets).
        distractors: other objects in a scene (composed data sets).
        data_root: folder of the real data sets; ``None`` reads the variable ``KDLIB_DATA``.

    Raises:
        KdlibError: unknown name or split, data missing or damaged, an option out of range.
    """
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if size is not None and size < SMALLEST:
        raise KdlibError(f"size is {size}; it must be at least {SMALLEST}, or None for all.")
    data = DATASETS[name](
        "test" if split == "test" else "train",
        size=size,
        image_size=image_size,
        attentions=attentions,
        distractors=distractors,
        data_root=Path(data_root) if data_root else None,
    )
    kept = min(round(len(data) * (1 - DEV_SHARE)), len(data) - 1)
    parts = {"fit": (0, kept), "dev": (kept, len(data))}
    return data.part(*parts[split]) if split in parts else data
