"""Images with objects: composed scenes, and the photographs of COCO and Pascal VOC."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeAlias, TypeVar
from xml.etree import ElementTree

import torch
from pydantic import BaseModel, Field, FiniteFloat, PositiveInt, ValidationError

from kdlib.data.image_data import ImageData, checked_root, fingerprint, missing
from kdlib.data.photographs import MEAN, STD, Listing
from kdlib.data.scenes import Composition, Scenes, load_scenes
from kdlib.detection.objects import Found, Objects, WholePhotographs, tabled
from kdlib.errors import KdlibError, shown
from kdlib.files import Arrays
from kdlib.frskd.voc import CLASSES, list_voc
from kdlib.seeds import generator

# Composed scenes with their objects' boxes and kinds, as the composer itself knows them.
SMALLEST_SEEN = 20 / 64**2  # share of the image's pixels that must be seen of an object
SIDES = (17.3 / 64, 20 / 64)
"""Sides, as shares of the image's, of the squares that part the objects' areas in equal thirds."""


def load_scene_objects(found: Callable[..., Composition], split: str, **options: Any) -> ImageData:
    """As :func:`kdlib.data.scenes.load_scenes`, but objects have classes: their kinds."""
    composition = found(split, **options)
    arrays, side = composition.cached("-objects", _seen), composition.recipe.size
    images, most = arrays["kinds"].shape
    kinds = torch.from_numpy(arrays["kinds"]).long().flatten()
    boxes = torch.from_numpy(arrays["boxes"]).float().view(-1, 4)
    crowd, starts = torch.zeros_like(kinds, dtype=torch.bool), torch.arange(images + 1) * most
    sizes = ((SIDES[0] * side) ** 2, (SIDES[1] * side) ** 2)
    seen = torch.from_numpy(arrays["seen"]).flatten() >= SMALLEST_SEEN * side**2
    objects = Objects(boxes, kinds, crowd, starts, sizes).chosen(seen)
    data = load_scenes(found, split, **options)
    labels, digest = torch.zeros_like(data.labels), fingerprint(("objects", data.fingerprint))
    facts = (composition.bank.kinds, data.mean, data.std, digest)
    return ImageData(data.images, labels, *facts, objects=objects)


def _seen(scenes: Scenes) -> Arrays:
    """Box and kind of each object, and the pixels at which it is seen."""
    seen = scenes.masks.flatten(2).sum(2).int().numpy()
    boxes, kinds = scenes.boxes.short().numpy(), scenes.objects.short().numpy()
    return {"boxes": boxes, "kinds": kinds, "seen": seen}


# Photographs, from the files of a split to a data set; what COCO and VOC share.
Content = TypeVar("Content", bound=BaseModel)
Annotation: TypeAlias = tuple[tuple[int, int], list[Found]]
"""What a file says of one photograph: width and height, and its objects."""


class _Sides(BaseModel):
    width: PositiveInt
    height: PositiveInt


def photographs_with_objects(
    listing: Listing, count: int, annotation: Callable[[int], Annotation], size: int | None
) -> ImageData:
    """Photographs in a random order that is always the same; none is read yet, annotations are.

    Of a ``listing`` of ``count`` photographs and, after them, of files that must be there as well,
    ``size`` are taken, with the ``annotation`` of each position.
    """
    facts = torch.from_numpy(listing.facts())
    order = torch.randperm(count, generator=generator(0, listing.dataset, "order"))[:size]
    shapes, found = zip(*map(annotation, order.tolist()), strict=True)
    objects = tabled(found, shapes)
    names = hashlib.sha256(repr(listing.names).encode()).hexdigest()
    content = (facts, order, objects.boxes, objects.kinds, objects.crowd, objects.starts)
    return ImageData(
        images=WholePhotographs([listing.path(position) for position in order.tolist()], shapes),
        labels=torch.zeros(len(order), dtype=torch.int64),
        classes=listing.classes,
        mean=MEAN,
        std=STD,
        fingerprint=fingerprint((listing.dataset, "objects", listing.classes, names), content),
        objects=objects,
    )


def checked(kind: type[Content], file: Path, content: Any) -> Content:
    """The content of a file of annotations, JSON or read of another format; else ``KdlibError``."""
    read = kind.model_validate_json if isinstance(content, bytes) else kind.model_validate
    try:
        return read(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"])) or "content"
        raise damaged(file, place, f"{first['msg']}, not {shown(first['input'])}") from error


def damaged(file: Path, place: str, problem: str) -> KdlibError:
    """The error for an annotation that makes no sense."""
    return KdlibError(f"{file}, {place}: {problem}. Get the file again, or correct it.")


# COCO 2017's objects (Lin 2014, arXiv 1405.0312).
COCO_PARTS = {"train": "train2017", "test": "val2017"}


class _CocoPicture(_Sides):
    id: int
    file_name: Annotated[str, Field(min_length=1)]


class _CocoCategory(BaseModel):
    id: int  # the eighty have gaps, so names count
    name: str


class _CocoObject(BaseModel):
    id: int
    image_id: int
    category_id: int
    bbox: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]  # x, y, width, height
    iscrowd: bool = False


class _CocoFile(BaseModel):
    images: Annotated[list[_CocoPicture], Field(min_length=1)]
    categories: list[_CocoCategory]
    annotations: list[_CocoObject]


def load_coco(
    split: str, *, size: int | None = None, data_root: Path | None = None, **others: int
) -> ImageData:
    """COCO 2017: photographs of any size, objects of 80 classes with their boxes.

    Args and errors as :func:`kdlib.data.load_data`; ``others`` are for images of one size.
    """
    folder, part = checked_root(data_root) / "coco", COCO_PARTS[split]
    file = folder / "annotations" / f"instances_{part}.json"
    if not file.is_file():
        raise missing("coco", file)
    content, classes = checked(_CocoFile, file, file.read_bytes()), coco_classes()
    pictures = sorted(content.images, key=lambda picture: picture.id)
    found = _coco_objects(content, file, classes)
    names = tuple(picture.file_name for picture in pictures)
    listing = Listing("coco", folder / part, names, (0,) * len(names), classes)
    annotations = [((picture.width, picture.height), found[picture.id]) for picture in pictures]
    return photographs_with_objects(listing, len(names), annotations.__getitem__, size)


def coco_classes() -> tuple[str, ...]:
    """The eighty, in the order of their numbers; torchvision's list has what they leave out."""
    from torchvision.models.detection import SSD300_VGG16_Weights

    every = SSD300_VGG16_Weights.COCO_V1.meta["categories"]
    return tuple(name for name in every if name not in ("__background__", "N/A"))


def _coco_objects(
    content: _CocoFile, file: Path, classes: tuple[str, ...]
) -> dict[int, list[Found]]:
    kinds: dict[int, int] = {}
    for category in content.categories:
        if category.name not in classes:
            problem = f"'{category.name}' is not one of COCO's 80 classes"
            raise damaged(file, f"category {category.id}", problem)
        kinds[category.id] = classes.index(category.name)
    found: dict[int, list[Found]] = {picture.id: [] for picture in content.images}
    for one in content.annotations:
        if one.image_id not in found or one.category_id not in kinds:
            known = one.image_id in found
            what = f"category {one.category_id}" if known else f"image {one.image_id}"
            raise damaged(file, f"annotation {one.id}", f"there is no {what} in the file")
        x, y, width, height = one.bbox
        box = (x, y, x + width, y + height)
        found[one.image_id].append(Found(box, kinds[one.category_id], one.iscrowd))
    return found


# Pascal VOC's objects: pixels count from 1, and a box includes its last one.
VOC_PLACES = ("name", "bndbox/xmin", "bndbox/ymin", "bndbox/xmax", "bndbox/ymax", "difficult")


class _VocObject(BaseModel):
    name: str
    xmin: FiniteFloat
    ymin: FiniteFloat
    xmax: FiniteFloat
    ymax: FiniteFloat
    difficult: FiniteFloat = 0


class _VocFile(_Sides):
    objects: list[_VocObject]


def load_voc_objects(
    split: str, *, size: int | None = None, data_root: Path | None = None, **others: int
) -> ImageData:
    """Pascal VOC 2007 and 2012: photographs of any size, objects of 20 classes with their boxes.

    Args and errors as :func:`kdlib.data.load_data`; ``others`` are for images of one size.
    """
    listing = list_voc("detection", split, checked_root(data_root))
    count = len(listing.names) // 2
    return photographs_with_objects(
        listing, count, lambda place: _voc_annotation(Path(listing.path(place + count))), size
    )


def _voc_annotation(path: Path) -> Annotation:
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError) as error:
        raise KdlibError(f"{path} cannot be read as XML ({error}). Get it again.") from error
    objects = [_texts(one, VOC_PLACES) for one in root.findall("object")]
    sides = _texts(root, ("size/width", "size/height"))
    content = checked(_VocFile, path, {**sides, "objects": objects})
    found, classes = [], CLASSES[1:]
    for number, one in enumerate(content.objects, 1):
        if one.name not in classes:
            problem = f"its class is '{one.name}'; valid: {', '.join(classes)}"
            raise damaged(path, f"object {number}", problem)
        corners = (one.xmin - 1, one.ymin - 1, one.xmax, one.ymax)
        found.append(Found(corners, classes.index(one.name), one.difficult != 0))
    return (content.width, content.height), found


def _texts(element: ElementTree.Element, places: tuple[str, ...]) -> dict[str, str]:
    """What stands at places in an element, by their last names; what is not there is left out."""
    found = {place.split("/")[-1]: element.findtext(place) for place in places}
    return {name: text.strip() for name, text in found.items() if text is not None}
