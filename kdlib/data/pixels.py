"""What the loaders of real images share: their size, and the digest of their content."""

import hashlib
from collections.abc import Iterable

from torch import Tensor
from torch.nn import functional

from kdlib.data.recipe import IMAGE_SIZES
from kdlib.errors import KdlibError


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
