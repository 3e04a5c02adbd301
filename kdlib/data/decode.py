"""One photograph from its file: RGB, its shorter side resized, as torchvision does it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torchvision.transforms import functional

from kdlib.errors import KdlibError

Pixels = NDArray[np.uint8]
PUBLISHED_SIDES = (256, 224)
"""The published protocol resizes to the first and cuts out the second."""
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""All that Pillow raises for damaged files."""


def resized_side(image_size: int) -> int:
    """Pixels of a photograph's shorter side from which windows of ``image_size`` are cut."""
    resized, window = PUBLISHED_SIDES
    return round(image_size * resized / window)


def decoded(path: str, side: int) -> Pixels:
    """The whole photograph, (H, W, 3), its shorter side ``side`` (bilinear, antialiased).

    Grey, CMYK, palette and transparent pictures become RGB by Pillow's rules, those of 16 bits by
    their upper 8. What EXIF says of the orientation is not followed, as in torchvision.

    Raises:
        KdlibError: the file is missing, truncated, or no picture; names it.
    """
    try:
        with Image.open(path) as picture:
            return np.asarray(functional.resize(_rgb(picture), [side]))
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def whole(path: str) -> Pixels:
    """The photograph as it is stored, (H, W, 3): as :func:`decoded`, but not resized.

    Raises:
        KdlibError: as :func:`decoded`.
    """
    try:
        with Image.open(path) as picture:
            return np.asarray(_rgb(picture))
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def resized_shape(path: str, side: int) -> tuple[int, int]:
    """Height and width that ``decoded`` gives, from the file's header alone.

    Raises:
        KdlibError: the file is missing or no picture; names it.
    """
    try:
        with Image.open(path) as picture:
            width, height = picture.size
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    longer = int(side * max(width, height) / min(width, height))
    return (longer, side) if height > width else (side, longer)


def _rgb(picture: Any) -> Any:
    """Pillow clips 16 bits to 8, which turns nearly all into white; so they are scaled first."""
    if picture.mode.startswith("I"):
        picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    return picture.convert("RGB")


def _unreadable(path: str, error: BaseException) -> KdlibError:
    return KdlibError(
        f"{path} cannot be read as an image ({error}). Get the file again; out of a folder of your "
        "own you may as well remove it."
    )
