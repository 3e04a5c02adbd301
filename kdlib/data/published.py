"""Published data sets, read as their authors hand them out: lists of photographs, and CIFAR-100.

MIT67, SUN397, ADE20K and Places365 are photographs from the web, for research only, unlicensed.
"""

import os
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from kdlib.data.image_data import ImageData, checked_root, few_lines, fingerprint, missing, resized
from kdlib.data.photographs import Listing
from kdlib.errors import KdlibError

NO_DATA = ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN", "System Volume Information",
           "__pycache__")  # fmt: skip
"""Folders that an archive or a system puts beside photographs."""


def list_mit67(split: str, root: Path) -> Listing:
    """MIT Indoor 67 (Quattoni, Torralba 2009, doi 10.1109/CVPR.2009.5206537), official lists."""
    lists = {"train": "TrainImages.txt", "test": "TestImages.txt"}
    names = _official("mit67", root / "mit67", lists, "([^/]+/[^/]+)", "bakery/bakery_0001.jpg")
    classes = sorted(set(_scenes(names["train"])))
    return _listing("mit67", root / "mit67" / "Images", names[split], classes)


def list_sun397(split: str, root: Path) -> Listing:
    """SUN397 (Xiao et al. 2010, doi 10.1109/CVPR.2010.5539970), the first official partition."""
    lists, rooted = {"train": "Training_01.txt", "test": "Testing_01.txt"}, "/((?:[^/]+/)+[^/]+)"
    classes = _lines("sun397", root / "SUN397" / "ClassName.txt", rooted, "/a/abbey")
    names = _official("sun397", root / "SUN397", lists, rooted, "/a/abbey/sun_aaa.jpg", *classes)
    listing = _listing("sun397", root / "SUN397", names[split], classes)
    return replace(listing, classes=tuple(name.split("/", 1)[1] for name in classes))


def list_ade20k(split: str, root: Path) -> Listing:
    """ADE20K's scenes (Zhou et al. 2017, doi 10.1109/CVPR.2017.544): one class a photograph."""
    folder, pattern = root / "ADEChallengeData2016", r"(ADE_(?:train|val)_\S*\s+\S+)"
    lines = _lines("ade20k", folder / "sceneCategories.txt", pattern, "ADE_val_00000001 x")
    scenes = dict(line.split() for line in lines)
    part, prefix = {"train": ("training", "ADE_train_"), "test": ("validation", "ADE_val_")}[split]
    own = [f"{scene}/{name}.jpg" for name, scene in scenes.items() if name.startswith(prefix)]
    listing = _listing("ade20k", folder / "images" / part, own, sorted(set(scenes.values())))
    return replace(listing, names=tuple(name.rsplit("/", 1)[1] for name in own))


def list_places365(split: str, root: Path) -> Listing:
    """Places365-Standard (Zhou et al. 2018, doi 10.1109/TPAMI.2017.2723009), 256 x 256."""
    from torchvision.datasets import Places365

    folder, part = root / "places365", {"train": "train-standard", "test": "val"}[split]
    found = _published("places365", folder, partial(Places365, str(folder), split=part, small=True))
    names = tuple(path[len(found.images_dir) + 1 :] for path, _ in found.imgs)
    facts = (tuple(found.targets), tuple(found.classes))
    return Listing("places365", Path(found.images_dir), names, *facts)


def list_imagefolder(split: str, root: Path) -> Listing:
    """Photographs of your own, in a folder a class; in the order of torchvision's ImageFolder."""
    from torchvision.datasets.folder import IMG_EXTENSIONS

    test = "val" if (root / "val").is_dir() and not (root / "test").is_dir() else "test"
    parts = {}
    for part in ("train", test):
        if not (root / part).is_dir():
            raise missing("imagefolder", root / part)
        parts[part] = [path.name for path in (root / part).iterdir() if path.is_dir()]
        parts[part] = sorted(name for name in parts[part] if not _is_hidden(name))
    _check_classes("imagefolder", parts)
    folder = root / (test if split == "test" else "train")
    walk, names, others = os.walk(folder, followlinks=True), list[str](), list[str]()
    every = [Path(place, name).relative_to(folder) for place, _, own in walk for name in own]
    seen = [path for path in every if not any(map(_is_hidden, path.parts))]
    for path in sorted(seen, key=lambda path: (path.parts[0], str(path.parent), path.name)):
        fits = len(path.parts) > 1 and path.suffix.lower() in IMG_EXTENSIONS
        (names if fits else others).append(path.as_posix())
    if hidden := len(every) - len(seen):
        _note(f"{folder}: hidden files, left out: {hidden:,}.")
    if others:
        valid = f"read are {', '.join(IMG_EXTENSIONS)}, in a folder a class"
        _note(f"{folder}: other files, left out: {len(others):,}, such as {others[0]}; {valid}.")
    labels = {name: label for label, name in enumerate(parts["train"])}
    scenes = [name.split("/")[0] for name in names]
    if lacking := sorted({*labels} - {*scenes}):
        told = f"{folder} has no photograph of {len(lacking):,} of {len(labels):,} classes"
        remedy = "Put some into their folders, or remove the folders"
        raise KdlibError(f"{told}:\n{few_lines(lacking)}\n{remedy}.")
    targets = tuple(labels[scene] for scene in scenes)
    return Listing("imagefolder", folder, tuple(names), targets, tuple(labels))


def _is_hidden(name: str) -> bool:
    """Whether a file or folder is another program's own, and no data."""
    return name.startswith(".") or name in NO_DATA


@cache
def _note(line: str) -> None:
    """Tell once what the user did not ask about but should know."""
    print(line, file=sys.stderr)


def load_cifar100(split: str, size: int | None, image_size: int, **options: Any) -> ImageData:
    """CIFAR-100 (Krizhevsky 2009), 100 fine classes, in the published order, which is random."""
    from torchvision.datasets import CIFAR100

    root = checked_root(options["data_root"])
    published = _published("cifar100", root, partial(CIFAR100, str(root), train=split == "train"))
    images = torch.from_numpy(published.data).permute(0, 3, 1, 2).contiguous()
    labels = torch.tensor(published.targets)
    # As in the literature's benchmarks; those of the images differ by 2e-4.
    mean, std = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    digest = fingerprint(("cifar100", image_size, *mean, *std), (images, labels))
    classes, images = tuple(published.classes), resized(images, image_size)
    return ImageData(images, labels, classes, mean, std, digest).first(size)


def _published(dataset: str, root: Path, build: Callable[[], Any]) -> Any:
    """A data set of torchvision's, which compares MD5 sums first: pickles can run code."""
    try:
        return build()
    except RuntimeError as error:
        told = str(error).split(" You can")[0].rstrip(".")  # download, by torchvision's option
        lacking = f"a file with the published MD5 sum in {root} ({told})"
        raise missing(dataset, lacking) from error


def _listing(dataset: str, folder: Path, names: Sequence[str], classes: Sequence[str]) -> Listing:
    """Photographs whose folders are their classes."""
    labels = {name: label for label, name in enumerate(classes)}
    targets = tuple(labels[scene] for scene in _scenes(names))
    return Listing(dataset, folder, tuple(names), targets, tuple(classes))


def _scenes(names: Iterable[str]) -> list[str]:
    return [name.rsplit("/", 1)[0] for name in names]


def _official(
    dataset: str, folder: Path, lists: Mapping[str, str], pattern: str, example: str, *classes: str
) -> dict[str, list[str]]:
    """What the lists of both splits name: no photograph in both, the same ``classes`` in all."""
    names = {split: _lines(dataset, folder / lists[split], pattern, example) for split in lists}
    if both := sorted(set(names["train"]) & set(names["test"])):
        told = f"{dataset}: {len(both):,} photographs are in the training and in the test list"
        raise KdlibError(f"{told}:\n{few_lines(both)}\nUse the official lists.")
    scenes = {lists[split]: _scenes(own) for split, own in names.items()}
    _check_classes(dataset, scenes | ({"ClassName.txt": classes} if classes else {}))
    return names


def _lines(dataset: str, path: Path, pattern: str, example: str) -> list[str]:
    """The first group of a pattern in each line that is not empty; none may leave the folder."""
    if not path.is_file():
        raise missing(dataset, path)
    text, found = path.read_text(encoding="utf-8", errors="surrogateescape"), []
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        match = re.fullmatch(pattern, line)
        if line and (match is None or ".." in line.split("/")):
            raise KdlibError(f"{path}, line {number}: {line[:80]!r} is not like '{example}'.")
        found += [match[1]] if match else []
    if not found:
        raise KdlibError(f"{path} is empty; expected lines like '{example}'.")
    return found


def _check_classes(dataset: str, found: Mapping[str, Iterable[str]]) -> None:
    """Refuse parts that do not have the same classes, each with a photograph at least."""
    sets = {part: set(names) for part, names in found.items()}
    every = list(sets.values())
    if odd := set[str]().union(*every) - every[0].intersection(*every):
        counts = ", ".join(f"{part} has {len(names)}" for part, names in sets.items())
        told = f"{dataset}: all parts must have the same classes, but {counts}"
        raise KdlibError(f"{told}. Not in all of them:\n{few_lines(sorted(odd))}")
