"""Refuse images that a detector cannot be made for, before torchvision fails on them."""

from collections.abc import Sequence
from math import isfinite

from kdlib.errors import KdlibError

SMALLEST = 32
"""Pixels of a side: the coarsest map of most backbones is a 32nd of the image."""


def check_input(
    image_size: int | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> None:
    """Check what a detector is told of its images; None leaves a value to the network.

    Raises:
        KdlibError: a side of less than 32 pixels or no whole number of them; a mean or a
            deviation that is not three finite numbers, or a deviation that is not positive.
    """
    if image_size is not None and (not isinstance(image_size, int) or image_size < SMALLEST):
        raise KdlibError(
            f"image_size of a detector is {image_size!r}; give whole pixels, at least {SMALLEST}."
        )
    _check_channels("mean", mean, positive=False)
    _check_channels("std", std, positive=True)


def _check_channels(name: str, values: Sequence[float] | None, *, positive: bool) -> None:
    if values is None:
        return
    numbers = [float(value) for value in values]
    if len(numbers) != 3 or not all(map(isfinite, numbers)) or (positive and min(numbers) <= 0):
        kind = "positive numbers" if positive else "numbers"
        raise KdlibError(f"{name} of a detector is {numbers}; give three {kind}, one a channel.")
