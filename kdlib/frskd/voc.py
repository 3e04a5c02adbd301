"""Pascal VOC's photographs and masks of their pixels' classes, scaled and cut together."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torchvision import datasets
from torchvision.transforms.v2 import functional
from torchvision.tv_tensors import Image as Picture
from torchvision.tv_tensors import Mask

from kdlib.data.image_data import IMAGE_SIZES, ImageData, checked_root, fingerprint, missing
from kdlib.data.photographs import (
    MEAN,
    PLACE_BITS,
    STD,
    Listing,
    Photographs,
    Pixels,
    placed,
    upright,
)  # fmt: skip
from kdlib.errors import KdlibError, check_range
from kdlib.seeds import generator
from kdlib.tasks import IGNORED

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
LISTS = {"segmentation": "Segmentation", "detection": "Main"}
"""Task -> folder of its lists: masks and boxes are told of by lists of their own."""
SCALES = (0.5, 2.0)
"""Of random windows: each photograph is enlarged by a factor between these first, as is usual for
Pascal VOC (Chen 2017, arXiv 1706.05587)."""
FULL_SIZE = 512
MARGIN = (124, 116, 104)
"""Colour beyond a photograph: the mean of ImageNet's, which normalisation turns into nearly 0."""


@dataclass(frozen=True)
class AnnotatedPhotographs(Photographs):
    """Photographs of which ``read`` returns red, green, blue and class: (H, W, 4).

    Without a random place a window shows the whole photograph, in the middle: as it is where it
    fits into ``FULL_SIZE`` pixels a side (and ``image_size`` is that), else as much smaller.
    """

    annotated: ClassVar[bool] = True
    drawn: ClassVar[int] = 3

    def _cut(self, window: Pixels, position: int, place: list[int] | None) -> None:
        pixels = torch.from_numpy(self.read(int(self.positions[position]))).permute(2, 0, 1)
        picture, mask = Picture(pixels[:3]), Mask(pixels[3:])
        scale = self.image_size / max(FULL_SIZE, *picture.shape[-2:])
        low, high = SCALES
        scale *= 1.0 if place is None else low * (high / low) ** (place[2] / (1 << PLACE_BITS))
        sides = [max(1, round(side * scale)) for side in picture.shape[-2:]]
        for values, fill, channels in ((picture, MARGIN, [0, 1, 2]), (mask, IGNORED, [3])):
            resized = functional.resize(values, sides, antialias=True)
            cut = _window(resized, self.image_size, fill, place)
            window[..., channels] = cut.permute(1, 2, 0).numpy()


def _window(values: Tensor, side: int, fill: object, place: list[int] | None) -> Tensor:
    """(C, side, side) of (C, H, W), padded by ``fill`` where that is smaller."""
    lacking = [max(0, side - length) for length in values.shape[-2:]]
    above, before = placed(lacking, None)
    below, behind = lacking[0] - above, lacking[1] - before
    padded = functional.pad(values, [before, above, behind, below], fill=fill)
    room = [length - side for length in padded.shape[-2:]]
    top, left = placed(room, place)
    return functional.crop(padded, top, left, side, side)


def annotated(path: str, size: tuple[int, int], truth: str) -> Pixels:
    """The photograph upright, (H, W, 3), if that is what its ``truth`` of a ``size`` (W, H) is of.

    Boxes and masks are drawn on what is seen or on what is stored. Where EXIF turns a photograph,
    only its sides can tell which; where they do not, it is refused.
    """
    pixels, told = upright(path)
    width, height = pixels.size
    if told > 1 and (told < 5 or size != pixels.size or width == height):
        raise KdlibError(
            f"{path} is turned by its EXIF orientation ({told}), and nothing tells that {truth} is "
            "of the image as it is seen. Store it upright without that tag (`mogrify -auto-orient` "
            "does it), or remove the tag if the stored pixels are meant."
        )
    if size != pixels.size:
        raise KdlibError(
            f"{path} is {width} x {height} pixels, but {truth} says {size[0]} x {size[1]}: they do "
            "not fit. Get both again."
        )
    return np.asarray(pixels)


def read_annotated(picture: Path, mask: Path) -> Pixels:
    """A photograph with its mask, an image with a palette or grey levels: (H, W, 4) uint8.

    A ``KdlibError`` for a file that is no image, or a mask of another size or with other values.
    """
    drawn, turned = upright(str(mask), None)
    marks = np.asarray(drawn)
    if marks.ndim != 2 or turned > 1:
        raise KdlibError(
            f"{mask} has {'an EXIF orientation' if turned > 1 else 'colours'}; a mask is upright "
            "and has one value a pixel: a palette or grey levels."
        )
    pixels = annotated(str(picture), drawn.size, f"its mask {mask}")
    strange = sorted({*np.unique(marks).tolist()} - {*range(len(CLASSES)), IGNORED})
    if strange:
        raise KdlibError(
            f"{mask} has the values {', '.join(map(str, strange[:5]))}; valid: 0 to "
            f"{len(CLASSES) - 1}, {IGNORED} for pixels that do not count. Get the file again."
        )
    return np.dstack([pixels, marks.astype(np.uint8)])


def load_voc(
    split: str,
    *,
    size: int | None = None,
    image_size: int = FULL_SIZE,
    data_root: Path | None = None,
    **composition: int,
) -> ImageData:
    """Pascal VOC 2007 and 2012: photographs, each pixel one of 20 things or background.

    Args and errors as :func:`kdlib.data.load_data`; the order is random, and always the same.
    """
    check_range("image_size", image_size, *IMAGE_SIZES)
    listing = list_voc("segmentation", split, checked_root(data_root))
    facts, count = listing.facts(), len(listing.names) // 2
    order = torch.randperm(count, generator=generator(0, "voc", "order"))[:size]
    names = hashlib.sha256(repr(listing.names).encode()).hexdigest()

    def read(position: int) -> Pixels:
        return read_annotated(Path(listing.path(position)), Path(listing.path(position + count)))

    return ImageData(
        images=AnnotatedPhotographs(read, order.numpy(), image_size),
        labels=torch.zeros(len(order), dtype=torch.int64),
        classes=CLASSES,
        mean=MEAN,
        std=STD,
        fingerprint=fingerprint(("voc", names, image_size), (torch.from_numpy(facts), order)),
    )


def list_voc(task: str, split: str, root: Path) -> Listing:
    """Pascal VOC (Everingham 2010, doi 10.1007/s11263-009-0275-4), for a task of ``LISTS``.

    Photographs and, after them all, the files of their truth in the same order. Photographs of
    2012 that are also in 2007 are taken once, and with masks none of 2007's test set.
    """
    masks = task == "segmentation"

    def read(year: str, part: str) -> list[tuple[str, str]]:
        lists = root / "VOCdevkit" / f"VOC{year}" / "ImageSets" / LISTS[task] / f"{part}.txt"
        if not lists.is_file():
            raise missing("voc", lists)
        reader = datasets.VOCSegmentation if masks else datasets.VOCDetection
        found = reader(str(root), year, part)
        if not found.images:
            raise KdlibError(f"{lists} is empty; it must name a photograph a line. Get it again.")
        return list(zip(found.images, found.targets, strict=True))

    tested = read("2007", "test") if masks or split == "test" else []
    pairs, first, others = tested, dict[str, tuple[str, str]](), set[str]()
    if split == "train":
        pairs = read("2012", "trainval") + read("2007", "trainval")
        others = {Path(path).stem for path, _ in tested}
    for pair in pairs:
        first.setdefault(Path(pair[0]).stem.removeprefix("2007_"), pair)
    kept = [pair for number, pair in first.items() if number not in others]
    files = [path for column in zip(*kept, strict=True) for path in column]
    names = tuple(str(Path(path).relative_to(root)) for path in files)
    classes = CLASSES if masks else CLASSES[1:]
    return Listing("voc", root, names, (0,) * len(names), classes)
