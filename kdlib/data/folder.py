"""Any photographs, a folder a class, through torchvision's ImageFolder.

    ROOT/train/CLASS/*.jpg ...    ROOT/test/CLASS/*.jpg ...    (val instead of test will do)

This is how MIT67, SUN397 or ADE20K's scenes are brought in. An image's shorter side is resized to
``image_size`` and the middle of the longer one is kept. Decoded images are kept in the cache,
which is keyed by the files' names, sizes and times, so that a grid of runs decodes them once.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import transforms
from torchvision.datasets import ImageFolder

from kdlib.data.cache import Arrays, cached
from kdlib.data.image_data import ImageData
from kdlib.data.pixels import checked_size, fingerprint
from kdlib.data.roots import data_root as checked_root
from kdlib.data.roots import missing
from kdlib.errors import KdlibError
from kdlib.seeds import generator

SPLIT_FOLDERS = {"train": ("train",), "test": ("test", "val")}
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Those of ImageNet, as the networks of torchvision expect."""
LAYOUT = "\n".join(f"ROOT/{part}/CLASS/*.jpg (.png, ...)" for part in ("train", "test (or val)"))
REMEDY = "put your images into these folders, a folder a class, the same classes in both"


def load_imagefolder(
    split: str,
    *,
    size: int | None = None,
    image_size: int = 224,
    data_root: Path | None = None,
    **composition: int,
) -> ImageData:
    """Photographs in folders; in a random order that is always the same.

    Args:
        split: ``train`` or ``test``.
        size: only so many images, of all classes alike.
        image_size: pixels a side.
        data_root: folder that holds ``train`` and ``test``; ``None`` reads ``KDLIB_DATA``.
        composition: options of composed data sets, which mean nothing here.

    Raises:
        KdlibError: folders are missing, the parts' classes differ, an image is unreadable.
    """
    folder = _open(split, checked_root(data_root), checked_size(image_size))
    order = torch.randperm(len(folder), generator=generator(0, "imagefolder", "order"))
    order = order[: size or len(folder)]
    name = f"imagefolder-{_key(folder, image_size)}-{len(order)}"
    arrays = cached(name, len(order), lambda rows: _rows(folder, order[rows].tolist()))
    labels, digests = torch.from_numpy(arrays["labels"]), torch.from_numpy(arrays["digests"])
    return ImageData(
        images=torch.from_numpy(arrays["images"]),
        labels=labels,
        classes=tuple(folder.classes),
        mean=MEAN,
        std=STD,
        fingerprint=fingerprint((folder.classes, image_size), (labels, digests)),
    )


def _open(split: str, root: Path, image_size: int) -> ImageFolder:
    shape = [transforms.Resize(image_size), transforms.CenterCrop(image_size)]
    transform = transforms.Compose([*shape, transforms.PILToTensor()])
    folders = {part: _folder(root, names) for part, names in SPLIT_FOLDERS.items()}
    _check_classes(*folders.values())
    try:
        return ImageFolder(str(folders[split]), transform=transform)
    except FileNotFoundError as error:
        raise KdlibError(f"{folders[split]}: {error}") from error


def _folder(root: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (root / name).is_dir():
            return root / name
    raise missing("imagefolder", root / names[0], LAYOUT, REMEDY)


def _check_classes(train: Path, test: Path) -> None:
    """A class is a number by its place in the list, so both parts must have the same list."""
    theirs, ours = ({item.name for item in part.iterdir() if item.is_dir()}
                    for part in (train, test))  # fmt: skip
    if theirs != ours:
        only = ", ".join(sorted(theirs ^ ours)[:10])
        raise KdlibError(
            f"{train} has {len(theirs)} classes and {test} has {len(ours)}; they must be the "
            f"same. In one of them only: {only}."
        )


def _key(folder: ImageFolder, image_size: int) -> str:
    digest = hashlib.sha256(repr(image_size).encode())
    for name, label in folder.samples:
        facts = Path(name).stat()
        digest.update(repr((name, label, facts.st_size, facts.st_mtime_ns)).encode())
    return digest.hexdigest()[:16]


def _rows(folder: ImageFolder, positions: Sequence[int]) -> Arrays:
    return {
        "images": np.stack([_decode(folder, position) for position in positions]),
        "labels": np.asarray([folder.targets[position] for position in positions], np.int64),
        "digests": np.stack([_digest(folder.samples[position][0]) for position in positions]),
    }


def _decode(folder: ImageFolder, position: int) -> NDArray[np.uint8]:
    """(3, image_size, image_size); grey, CMYK and palette images become RGB on the way."""
    try:
        image: Any = folder[position][0]
    except (OSError, SyntaxError, ValueError) as error:  # all that Pillow raises for bad files
        path = folder.samples[position][0]
        raise KdlibError(f"{path} cannot be read as an image ({error}); remove it.") from error
    return image.numpy()


def _digest(path: str) -> NDArray[np.uint8]:
    return np.frombuffer(hashlib.sha256(Path(path).read_bytes()).digest(), np.uint8)
