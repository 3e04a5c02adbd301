"""Where the real data sets lie, and what to tell the user when they do not."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional

from kdlib.errors import KdlibError

IMAGE_SIZES = (16, 512)


# What the loaders of real images share: their size, and the digest of their content.
def checked_size(image_size: int) -> int:
    """``image_size`` itself.

    Raises:
        KdlibError: it is out of the range of all data sets.
    """
    low, high = IMAGE_SIZES
    if not low <= image_size <= high:
        raise KdlibError(f"image_size is {image_size}; it must be a whole number, {low} to {high}.")
    return image_size


def resized(images: Tensor, image_size: int) -> Tensor:
    """(N, C, H, W) uint8 -> (N, C, image_size, image_size), bilinear without aliasing.

    Raises:
        KdlibError: the size is out of range.
    """
    size = (checked_size(image_size),) * 2
    if images.shape[-2:] == size:
        return images
    return functional.interpolate(images, size=size, mode="bilinear", antialias=True)


def fingerprint(facts: object, arrays: Iterable[Tensor]) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of some facts (their ``repr``) and arrays."""
    digest = hashlib.sha256(repr(facts).encode())
    for array in arrays:
        digest.update(repr(tuple(array.shape)).encode())
        digest.update(array.contiguous().numpy().data)
    return digest.hexdigest()[:16]


# How large each real data set is where it was published: what `data check` compares with.
class Published(NamedTuple):
    """Numbers of images and classes."""

    train: int
    test: int
    classes: int


PUBLISHED = {
    "fashion_mnist": Published(60_000, 10_000, 10),
    "cifar100": Published(50_000, 10_000, 100),
    "mit67": Published(5_360, 1_340, 67),
    "sun397": Published(19_850, 19_850, 397),
    "ade20k": Published(20_210, 2_000, 1_055),
    "places365": Published(1_803_460, 36_500, 365),
}
"""Sources stand in each data set's own file. A copy of another size is not refused."""
PUBLISHED_OBJECTS = {
    "voc": Published(16_551, 4_952, 20),
    "coco": Published(118_287, 5_000, 80),
}
"""The same of images with objects."""


VARIABLE = "KDLIB_DATA"


def checked_root(given: Path | str | None) -> Path:
    """The folder of the real data sets: ``given``, or the variable ``KDLIB_DATA``.

    Raises:
        KdlibError: neither is set, or it is not a folder.
    """
    root = chosen_root(given)
    if not root.is_dir():
        raise KdlibError(f"The data root {root} is not a folder; give one that exists.")
    return root


def chosen_root(given: Path | str | None) -> Path:
    """As :func:`checked_root`, but the folder need not exist yet.

    Raises:
        KdlibError: neither the argument nor the variable is set.
    """
    folder = str(given or os.environ.get(VARIABLE) or "")
    if not folder:
        raise KdlibError(
            "This data set needs a data root: the folder where the real data sets lie. Give "
            f"--data-root FOLDER (make: DATA_ROOT=FOLDER) or set the variable {VARIABLE}."
        )
    return Path(folder).expanduser()


def missing(dataset: str, lacking: Path, layout: str, remedy: str) -> KdlibError:
    """The error for a data set that is not there.

    Args:
        dataset: its name.
        lacking: the file or folder that was looked for.
        layout: the files expected, a line each.
        remedy: what to type to get them.
    """
    lines = "\n".join(f"  {line}" for line in layout.strip().splitlines())
    return KdlibError(
        f"{dataset}: {lacking} is missing. Expected:\n{lines}\nTo get it:\n  {remedy}"
    )
