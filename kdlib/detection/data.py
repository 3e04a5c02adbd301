"""Objects in images: a box and a class each, and what is done with boxes that are not sound.

A box is x1, y1, x2, y2 in pixels of the image as it is stored; x2 and y2 are exclusive, so that
x2 - x1 is the width. Images have different numbers of objects, so all objects of a data set lie in
one table, image after image.
"""

import hashlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from itertools import accumulate
from math import ceil, floor
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torchvision.datasets import CocoDetection, VOCDetection

from kdlib.data import CROP_SIZES
from kdlib.data.cache import Arrays, cached
from kdlib.data.image_data import ImageData
from kdlib.data.photographs import MEAN, STD, Listing, Photographs, Pixels, whole
from kdlib.data.roots import check_range, checked_root, fingerprint, missing
from kdlib.data.scenes import Composition, Scenes, labelled, unlabelled
from kdlib.data.voc import BOXES, PARTS, listed, published
from kdlib.errors import KdlibError
from kdlib.seeds import generator

COCO_SIZES = (32.0**2, 96.0**2)
"""Areas where small objects end and large ones begin, in COCO's evaluation."""


@dataclass(frozen=True)
class Objects:
    """The objects of N images.

    Attributes:
        boxes: (M, 4) float32, x1, y1, x2, y2 in pixels; inside their image, of some area.
        kinds: (M,) int64, the class of each, from 0; background is none of them.
        crowd: (M,) bool: neither trained on nor counted (COCO's crowds, VOC's difficult ones).
        starts: (N + 1,) int64: image i has the rows from ``starts[i]`` to ``starts[i + 1] - 1``.
        sizes: areas (square pixels) where small objects end and where large ones begin.
    """

    boxes: Tensor
    kinds: Tensor
    crowd: Tensor
    starts: Tensor
    sizes: tuple[float, float] = COCO_SIZES

    def __len__(self) -> int:
        """Number of images."""
        return len(self.starts) - 1

    @property
    def counts(self) -> Tensor:
        """(N,) int64: objects of each image."""
        return self.starts.diff()

    @property
    def owners(self) -> Tensor:
        """(M,) int64: the image of each object."""
        return torch.arange(len(self)).repeat_interleave(self.counts)

    def of(self, index: int) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (n, 4), kinds (n,) and crowd (n,) of one image; n may be 0."""
        rows = slice(int(self.starts[index]), int(self.starts[index + 1]))
        return self.boxes[rows], self.kinds[rows], self.crowd[rows]

    def part(self, start: int, stop: int) -> "Objects":
        """Those of the images at positions ``start`` to ``stop - 1``."""
        starts = self.starts[start : stop + 1]
        rows = slice(int(starts[0]), int(starts[-1]))
        boxes, kinds, crowd = self.boxes[rows], self.kinds[rows], self.crowd[rows]
        return replace(self, boxes=boxes, kinds=kinds, crowd=crowd, starts=starts - starts[0])

    def chosen(self, kept: Tensor) -> "Objects":
        """The objects where ``kept`` (M,) is true; images that lose all of theirs stay."""
        before = torch.cat([torch.zeros(1).long(), kept.long().cumsum(0)])
        boxes, kinds, crowd = self.boxes[kept], self.kinds[kept], self.crowd[kept]
        return replace(self, boxes=boxes, kinds=kinds, crowd=crowd, starts=before[self.starts])

    def counted(self) -> "Objects":
        """Those that are trained on and counted: all but the crowds."""
        return self.chosen(~self.crowd)


class Found(NamedTuple):
    """One object as a file has it: x1, y1, x2, y2; its class; whether it is a crowd."""

    box: tuple[float, float, float, float]
    kind: int
    crowd: bool


def tabled(
    found: Sequence[Sequence[Found]],
    shapes: Sequence[tuple[int, int]],
    sizes: tuple[float, float] = COCO_SIZES,
) -> Objects:
    """The table of the objects of N images, cleaned as by :func:`cleaned`.

    Args:
        found: the objects of each image.
        shapes: width and height of each image, in pixels.
        sizes: as :class:`Objects` has them.
    """
    every = [one for of_image in found for one in of_image]
    starts = [0, *accumulate(len(of_image) for of_image in found)]
    raw = Objects(
        torch.tensor([one.box for one in every], dtype=torch.float32).view(-1, 4),
        torch.tensor([one.kind for one in every], dtype=torch.int64),
        torch.tensor([one.crowd for one in every], dtype=torch.bool),
        torch.tensor(starts),
        sizes,
    )
    return cleaned(raw, torch.tensor(shapes, dtype=torch.float32).view(-1, 2))


def cleaned(objects: Objects, shapes: Tensor) -> Objects:
    """The rule for boxes that are not sound, the same for all data sets.

    A box is clipped to its image. One that then has no area (it lay outside, was empty, or its
    corners were swapped) is dropped; with a share of a pixel it stays. An image that has no object,
    or none any more, stays: it is trained on as background.

    Args:
        objects: finite boxes of any kind.
        shapes: (N, 2) width and height of each image.
    """
    limits = shapes[objects.owners].repeat(1, 2)
    boxes = torch.minimum(objects.boxes.clamp(min=0), limits)
    kept = (boxes[:, 2:] > boxes[:, :2]).all(1)
    return replace(objects, boxes=boxes).chosen(kept)


def damaged(file: object, annotation: str, problem: str) -> KdlibError:
    """The error for an annotation that has no meaning; names the file and the annotation."""
    return KdlibError(f"{file}, {annotation}: {problem}. Get the file again, or correct it.")


# Composed scenes with their objects' boxes and kinds, as the composer itself knows them.
SMALLEST_SEEN = 20 / 64**2
"""Share of the image's pixels that must be seen of an object: 20 pixels of 64 x 64."""
SIDES = (17.3 / 64, 20 / 64)
"""Sides, as shares of the image's, of the squares that part the objects' areas in equal thirds."""


def load_scene_objects(found: Callable[..., Composition], split: str, **options: Any) -> ImageData:
    """As :func:`kdlib.data.scenes.load_scenes`, but objects have classes: their kinds."""
    composition = found(split, **options)
    arrays, side = composition.cached("-objects", _seen), composition.recipe.size
    images, most = arrays["kinds"].shape
    kinds = torch.from_numpy(arrays["kinds"]).long().flatten()
    every = Objects(
        boxes=torch.from_numpy(arrays["boxes"]).float().view(-1, 4),
        kinds=kinds,
        crowd=torch.zeros_like(kinds, dtype=torch.bool),
        starts=torch.arange(images + 1) * most,
        sizes=((SIDES[0] * side) ** 2, (SIDES[1] * side) ** 2),
    )
    objects = every.chosen(torch.from_numpy(arrays["seen"]).flatten() >= SMALLEST_SEEN * side**2)
    data = labelled(composition)
    return unlabelled(data, "objects", classes=composition.bank.kinds, objects=objects)


def _seen(scenes: Scenes) -> Arrays:
    """Box and kind of each object, and the pixels at which it is seen."""
    seen = scenes.masks.flatten(2).sum(2).int().numpy()
    return {"boxes": scenes.boxes.short().numpy(), "kinds": scenes.objects.short().numpy(),
            "seen": seen}  # fmt: skip


# Photographs of any size that stay whole, read from their files when they are asked for.
@dataclass(frozen=True)
class WholePhotographs:
    """Photographs in the order in which a data set hands them out.

    Attributes:
        decode: from a position in the listing to the photograph, (H, W, 3) uint8.
        positions: in the listing, of each photograph here.
    """

    decode: Callable[[int], Pixels]
    positions: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of photographs."""
        return len(self.positions)

    def __getitem__(self, part: slice) -> "WholePhotographs":
        """A part of them, nothing read yet."""
        return replace(self, positions=self.positions[part])

    def read(self, index: int) -> Pixels:
        """The photograph at ``index`` of these, (H, W, 3) uint8.

        Raises:
            KdlibError: it cannot be read, or is of another size than its annotation says.
        """
        return self.decode(int(self.positions[index]))


# Objects cut out by their boxes: what a classifier that teaches a detector is trained on.
def cut_out(picture: Pixels, box: tuple[float, float, float, float], side: int) -> Pixels:
    """What lies in a box, (H, W, 3) uint8 -> (side, side, 3): stretched, bilinear, antialiased.

    The window of whole pixels is cut first, because Pillow would interpolate with those beyond.
    """
    left, top = floor(box[0]), floor(box[1])
    window = Image.fromarray(picture[top : ceil(box[3]), left : ceil(box[2])])
    inside = (box[0] - left, box[1] - top, box[2] - left, box[3] - top)
    return np.asarray(window.resize((side, side), Image.Resampling.BILINEAR, box=inside))


def cropped(data: ImageData, crop_size: int) -> ImageData:
    """Every object that is counted, cut out of its image without a margin and labelled by its kind.

    The box is stretched to a square whatever its shape, as in the paper (Guo 2021, arXiv
    2106.05209). Crops of images in memory are in memory too, through the cache; of photographs,
    each is decoded when its crop is asked for.

    Args:
        data: images with objects.
        crop_size: pixels a side, 8 to 512.

    Raises:
        KdlibError: the size is out of range, the data has no objects, or none that count.
    """
    if data.objects is None:
        raise KdlibError("Crops are cut out of images with objects, and this data has none.")
    objects = data.objects.counted()
    if not len(objects.kinds):
        raise KdlibError("There is nothing to cut out: none of the images has an object.")
    check_range("crop_size", crop_size, *CROP_SIZES)
    source = _Source(data.images, objects.owners, objects.boxes, crop_size)
    facts = ("crops", crop_size, data.fingerprint)
    digest = fingerprint(facts, (objects.boxes, objects.kinds, objects.starts))
    return replace(
        data,
        images=source.crops(digest),
        labels=objects.kinds,
        fingerprint=digest,
        objects=None,
    )


@dataclass(frozen=True)
class _Source:
    """Where crops come from: the images, and image (M,) and box (M, 4) of each crop."""

    images: Tensor | Photographs | WholePhotographs
    owners: Tensor
    boxes: Tensor
    side: int

    def crops(self, digest: str) -> Tensor | Photographs:
        if isinstance(self.images, WholePhotographs):
            return Photographs(self.read, np.arange(len(self.owners)), self.side)
        arrays = cached(f"crops-{digest}", len(self.owners), self._make)
        return torch.from_numpy(arrays["crops"])

    def read(self, position: int) -> Pixels:
        """One crop, (side, side, 3)."""
        x1, y1, x2, y2 = self.boxes[position].tolist()
        return cut_out(self._picture(int(self.owners[position])), (x1, y1, x2, y2), self.side)

    def _picture(self, index: int) -> Pixels:
        if isinstance(self.images, WholePhotographs):
            return self.images.read(index)
        assert isinstance(self.images, Tensor)  # detectors are not given windows of photographs
        return self.images[index].permute(1, 2, 0).contiguous().numpy()

    def _make(self, rows: NDArray[np.int64]) -> Arrays:
        crops = np.stack([self.read(int(row)) for row in rows])
        return {"crops": np.ascontiguousarray(crops.transpose(0, 3, 1, 2))}


# Photographs with objects, from the files of a split to a data set; what VOC and COCO share.
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


# COCO 2017's objects (Lin 2014, arXiv 1405.0312), by torchvision and pycocotools.
COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat",
    "traffic light", "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog",
    "horse", "sheep", "cow", "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella",
    "handbag", "tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite",
    "baseball bat", "baseball glove", "skateboard", "surfboard", "tennis racket", "bottle",
    "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple", "sandwich", "orange",
    "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch", "potted plant",
    "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard", "cell phone",
    "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
FOLDER = "coco"
COCO_PARTS = {"train": "train2017", "test": "val2017"}
COCO_LAYOUT = f"""
ROOT/{FOLDER}/train2017/*.jpg
ROOT/{FOLDER}/val2017/*.jpg
ROOT/{FOLDER}/annotations/instances_train2017.json, instances_val2017.json
"""
COCO_REMEDY = (
    "download train2017.zip, val2017.zip and annotations_trainval2017.zip from "
    "https://cocodataset.org/#download and unpack them in ROOT/coco"
)
DAMAGED = (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError)
"""All that pycocotools raises for a file that is not as it should be."""


def load_coco(
    split: str,
    *,
    size: int | None = None,
    data_root: Path | None = None,
    **others: int,
) -> ImageData:
    """COCO 2017: photographs of any size, objects of 80 classes with their boxes.

    Args:
        split: ``train`` or ``test``.
        size: only so many, of a random order that is always the same.
        data_root: folder that holds ``coco``; ``None`` reads ``KDLIB_DATA``.
        others: options of data sets whose images are of one size or composed.

    Raises:
        KdlibError: a file is missing or damaged, or an annotation is.
    """
    folder, part = checked_root(data_root) / FOLDER, COCO_PARTS[split]
    file = folder / "annotations" / f"instances_{part}.json"
    for path in (file, folder / part):
        if not path.exists():
            raise missing("coco", path, COCO_LAYOUT, COCO_REMEDY)
    found = Published(folder / part, file)
    names = found.names()
    listing = Listing("coco", folder / part, names, (0,) * len(names), COCO_CLASSES, COCO_REMEDY)
    return photographs_with_objects(listing, len(names), found.annotation, size)


class Published:
    """A file of annotations.

    Args:
        folder: of its photographs.
        file: JSON in COCO's format.

    Raises:
        KdlibError: the file is not in that format, has no photograph, a category that is not one
            of the eighty, or an object in a photograph that it does not list.
    """

    def __init__(self, folder: Path, file: Path) -> None:
        self.file = file
        try:
            with redirect_stdout(io.StringIO()):  # it tells how long reading took
                found = CocoDetection(str(folder), str(file))
            self.ids, self.images, self.objects = found.ids, found.coco.imgs, found.coco.imgToAnns
            self.kinds = {key: self._kind(key, one) for key, one in found.coco.cats.items()}
        except KdlibError:
            raise
        except DAMAGED as error:
            problem = f"{type(error).__name__}: {error}"
            raise KdlibError(
                f"{file} cannot be read as annotations in COCO's format ({problem}). Get it again."
            ) from error
        self._check()

    def names(self) -> tuple[str, ...]:
        """File of each photograph, in the order of their numbers."""
        return tuple(self._name(key) for key in self.ids)

    def annotation(self, position: int) -> Annotation:
        """What the file says of one photograph."""
        key = self.ids[position]
        width, height = shape_in(self.images[key], self.file, f"image {key}")
        return Annotation(width, height, [self._found(one) for one in self.objects.get(key, ())])

    def _check(self) -> None:
        if not self.ids:
            raise KdlibError(f"{self.file} lists no photograph under 'images'. Get it again.")
        for key in self.objects:
            if key not in self.images:
                where = f"annotation {self.objects[key][0].get('id')}"
                raise damaged(self.file, where, f"there is no image {key!r} in the file")

    def _kind(self, key: Any, category: Mapping[str, Any]) -> int:
        name = category.get("name")
        if name not in COCO_CLASSES:
            raise damaged(self.file, f"category {key}", f"'{name}' is not one of COCO's 80 classes")
        return COCO_CLASSES.index(name)

    def _name(self, key: Any) -> str:
        name = self.images[key].get("file_name")
        if not isinstance(name, str) or not name:
            raise damaged(self.file, f"image {key}", "the field 'file_name' is missing")
        return name

    def _found(self, fields: Mapping[str, Any]) -> Found:
        where = f"annotation {fields.get('id')}"
        category = fields.get("category_id")
        if category not in self.kinds:
            raise damaged(self.file, where, f"there is no category {category!r} in the file")
        box = fields.get("bbox")
        if not isinstance(box, list) or len(box) != 4:
            raise damaged(self.file, where, f"'bbox' is {box!r}; it must be [x, y, width, height]")
        x, y, width, height = (finite(value, "bbox", self.file, where) for value in box)
        return Found(
            (x, y, x + width, y + height), self.kinds[category], bool(fields.get("iscrowd"))
        )


# Pascal VOC's objects.
def load_voc_objects(
    split: str,
    *,
    size: int | None = None,
    data_root: Path | None = None,
    **others: int,
) -> ImageData:
    """Pascal VOC 2007 and 2012: photographs of any size, objects of 20 classes with their boxes.

    Args:
        split: ``train`` or ``test``.
        size: only so many, of a random order that is always the same.
        data_root: folder that holds ``VOCdevkit``; ``None`` reads ``KDLIB_DATA``.
        others: options of data sets whose images are of one size or composed.

    Raises:
        KdlibError: a file is missing, or an annotation is damaged.
    """
    listing = list_voc_objects(split, checked_root(data_root))
    count = len(listing.names) // 2

    def annotation(position: int) -> Annotation:
        return read_annotation(Path(listing.path(position + count)))

    return photographs_with_objects(listing, count, annotation, size)


def list_voc_objects(split: str, root: Path) -> Listing:
    """The photographs of a split and, after them all, their annotations in the same order.

    Raises:
        KdlibError: a list is missing or empty.
    """
    parts = [published(BOXES, year, part, root) for year, part in PARTS[split]]
    pictures = [path for one in parts for path in one.images]
    texts = [path for one in parts for path in one.annotations]
    return listed(BOXES, root, pictures, texts)


def read_annotation(path: Path) -> Annotation:
    """What an XML file says of its photograph.

    Raises:
        KdlibError: it is missing or no XML, a field is missing, a number is none, or a class is
            not one of the twenty.
    """
    try:
        tree = VOCDetection.parse_voc_xml(ElementTree.parse(path).getroot())
    except (OSError, ElementTree.ParseError) as error:
        raise KdlibError(f"{path} cannot be read as XML ({error}). Get it again.") from error
    fields = tree.get("annotation")
    if not isinstance(fields, dict):
        raise damaged(path, "first element", "it is not 'annotation'")
    width, height = shape_in(fields.get("size") or {}, path, "size")
    return Annotation(
        width, height, [_found(one, number, path) for number, one in _objects(fields)]
    )


def _objects(fields: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """The objects and their numbers, from 1."""
    return list(enumerate(fields.get("object") or [], 1))


def _found(fields: Any, number: int, path: Path) -> Found:
    where = f"object {number}"
    name = fields.get("name") if isinstance(fields, dict) else None
    if name not in BOXES.classes:
        raise damaged(path, where, f"its class is '{name}'; valid: {', '.join(BOXES.classes)}")
    box = fields.get("bndbox") or {}
    x1, y1, x2, y2 = (
        number_in(box, side, path, where) for side in ("xmin", "ymin", "xmax", "ymax")
    )
    difficult = "difficult" in fields and number_in(fields, "difficult", path, where) != 0
    return Found((x1 - 1, y1 - 1, x2, y2), BOXES.classes.index(name), difficult)
