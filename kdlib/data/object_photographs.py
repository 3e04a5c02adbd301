"""Photographs with objects, from the files of a split to a data set; what VOC and COCO share."""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from kdlib.data.decode import Pixels, whole
from kdlib.data.image_data import ImageData
from kdlib.data.listing import Listing
from kdlib.data.objects import Found, damaged, tabled
from kdlib.data.photo_data import MEAN, STD
from kdlib.data.pixels import fingerprint
from kdlib.data.whole_photographs import WholePhotographs
from kdlib.errors import KdlibError
from kdlib.seeds import generator

FIELD = (KeyError, TypeError, ValueError, OverflowError)
"""What is raised where a field is missing or is no number."""


class Annotation(NamedTuple):
    """What a file says of one photograph: width, height and objects."""

    width: int
    height: int
    found: list[Found]


@dataclass(frozen=True)
class Files:
    """Photographs as files, each with the width and height that its annotation has."""

    paths: tuple[str, ...]
    shapes: tuple[tuple[int, int], ...]

    def decode(self, position: int) -> Pixels:
        """One photograph, (H, W, 3) uint8.

        Raises:
            KdlibError: it cannot be read, or is of another size than its annotation says.
        """
        path, (width, height) = self.paths[position], self.shapes[position]
        pixels = whole(path)
        if pixels.shape[:2] != (height, width):
            raise KdlibError(
                f"{path} is {pixels.shape[1]} x {pixels.shape[0]} pixels, but its annotation says "
                f"{width} x {height}: boxes would not fit. Get both again."
            )
        return pixels


def photographs_with_objects(
    listing: Listing, count: int, annotation: Callable[[int], Annotation], size: int | None
) -> ImageData:
    """Photographs in a random order that is always the same; none is read yet, annotations are.

    Args:
        listing: the photographs and, after them, files that must be there as well.
        count: number of photographs.
        annotation: from a position in the listing to what is known of the photograph.
        size: only so many of them.

    Raises:
        KdlibError: a file is missing, or an annotation is damaged.
    """
    facts = torch.from_numpy(listing.facts()[:, 0])
    order = torch.randperm(count, generator=generator(0, listing.dataset, "order"))[:size]
    annotations = [annotation(position) for position in order.tolist()]
    shapes = tuple((one.width, one.height) for one in annotations)
    files = Files(tuple(map(listing.path, order.tolist())), shapes)
    objects = tabled([one.found for one in annotations], shapes)
    names = hashlib.sha256(repr(listing.names).encode()).hexdigest()
    content = (facts, order, objects.boxes, objects.kinds, objects.crowd, objects.starts)
    return ImageData(
        images=WholePhotographs(files.decode, np.arange(len(order))),
        labels=torch.zeros(len(order), dtype=torch.int64),
        classes=listing.classes,
        mean=MEAN,
        std=STD,
        fingerprint=fingerprint((listing.dataset, "objects", listing.classes, names), content),
        objects=objects,
    )


def shape_in(fields: Mapping[str, Any], file: object, where: str) -> tuple[int, int]:
    """Width and height of a photograph, from the fields of these names.

    Raises:
        KdlibError: one is missing, or is no whole number above 0.
    """
    return _side(fields, "width", file, where), _side(fields, "height", file, where)


def _side(fields: Mapping[str, Any], name: str, file: object, where: str) -> int:
    value = number_in(fields, name, file, where)
    if value < 1 or value != int(value):
        raise damaged(file, where, f"'{name}' is {value:g}; it must be a whole number above 0")
    return int(value)


def number_in(fields: Mapping[Any, Any], name: str, file: object, where: str) -> float:
    """A finite number from the field of this name.

    Raises:
        KdlibError: it is missing, no number, or not finite.
    """
    if not isinstance(fields, Mapping) or name not in fields:
        raise damaged(file, where, f"the field '{name}' is missing")
    return finite(fields[name], name, file, where)


def finite(value: Any, name: str, file: object, where: str) -> float:
    """``value`` as a finite number.

    Raises:
        KdlibError: it is none.
    """
    try:
        number = float(value)
    except FIELD:
        number = math.nan
    if not math.isfinite(number):
        raise damaged(file, where, f"'{name}' is {value!r}; it must be a finite number")
    return number
