"""Data sets by name: what loads each for a task, its files, how to get them (datasets.toml)."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, NamedTuple

from kdlib.errors import KdlibError, check_known, check_range
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


FILE = Path(__file__).with_name("datasets.toml")
DATASETS = {name: DataSet(**one) for name, one in tomllib.loads(FILE.read_text("utf-8")).items()}
TRUTHS = dict(zip(TASKS, ("images", "masks", "boxes", "boxes"), strict=True))  # task -> loader
SPLITS, DEV_SHARE = ("train", "fit", "dev", "test"), 0.2


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
    load = DATASETS["imagefolder"].images
    return {name: one.source for name, one in DATASETS.items() if one.images == load}


def is_composed(name: str) -> bool:
    """Whether a data set consists of scenes that are composed, of which there is no end."""
    return DATASETS[name].images == DATASETS["scenes"].images


def tasks_of(name: str) -> tuple[str, ...]:
    """The tasks that a data set has the truth for."""
    return tuple(task for task in TASKS if getattr(DATASETS[name], TRUTHS[task]))


def load_data(
    name: str, split: str, *, task: str = "classification", size: int | None = None,
    image_size: int = 64, attentions: int = 2, distractors: int = 4, crop_size: int = 32,
    sample: int = 0, data_root: Path | str | None = None,
) -> "ImageData":  # fmt: skip
    """Load a split of a data set into memory, or list its photographs.

    ``split`` is ``train``; its last fifth, ``dev``, for choices; the rest of it, ``fit``; or
    ``test``, never for choices. Of composed scenes ``dev`` is drawn anew, and ``fit`` is ``train``.
    ``task`` says what has labels: images (``classification``), their pixels (``segmentation``),
    boxes of objects (``detection``), or objects cut out (``crops``), of ``crop_size`` pixels (8
    to 512) a side. ``size`` counts a set's images (``None``: all), of ``image_size`` pixels a side.
    Composed scenes show ``attentions`` objects of their class and ``distractors`` others; each
    ``sample`` is another training set. ``data_root`` holds the real data sets (``None``:
    ``KDLIB_DATA`` does). A ``KdlibError`` says what is wrong.
    """
    check_known("data set", name, DATASETS)
    check_known("task", task, TASKS)
    if task not in tasks_of(name):
        valid = ", ".join(other for other in DATASETS if task in tasks_of(other))
        raise KdlibError(f"'{name}' has no truth for task '{task}'. Valid for it: {valid}.")
    found = (getattr(DATASETS[name], TRUTHS[task]), DATASETS[name].source)
    load, *source = (resolve_name(one) if isinstance(one, str) else one for one in found if one)
    check_known("split", split, SPLITS)
    if size is not None and size < 2:
        raise KdlibError(f"size is {size}; it must be at least 2, or None for all.")
    check_range("crop_size", crop_size, 8, 512)
    options = {"attentions": attentions, "distractors": distractors, "image_size": image_size}
    composed, root = is_composed(name), Path(data_root) if data_root else None
    part = split if split == "test" or (composed and split == "dev") else "train"
    options["sample"] = sample if part == "train" else 0
    if sample and not composed:
        raise KdlibError(f"sample is {sample}, but '{name}' has one training set: leave it 0.")
    data = load(*source, part, size=size, data_root=root, **options)
    fewest = 2 if part == "train" and task != "detection" else 1
    resolve_name("kdlib.data.image_data:check_learnable")(data, f"{name}, {split}", fewest)
    if split in ("fit", "dev") and not composed:
        kept = min(round(len(data) * (1 - DEV_SHARE)), len(data) - 1)
        data = data.part(0, kept) if split == "fit" else data.part(kept, len(data))
    if task == "crops":
        return resolve_name("kdlib.detection.objects:cropped")(data, crop_size)
    return data
