"""Pascal VOC's objects (Everingham 2010, doi 10.1007/s11263-009-0275-4), by torchvision.

    ROOT/VOCdevkit/VOC2007/ImageSets/Main/trainval.txt, test.txt      5,011 and 4,952
    ROOT/VOCdevkit/VOC2012/ImageSets/Main/trainval.txt                11,540
    ROOT/VOCdevkit/VOC20??/JPEGImages/*.jpg
    ROOT/VOCdevkit/VOC20??/Annotations/*.xml

Training is on both years' ``trainval``, testing on 2007's ``test``, as usual. Boxes count pixels
from 1 and include the last; here they count from 0 and exclude it. Objects marked as difficult
are neither trained on nor counted.
"""

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from torchvision.datasets import VOCDetection

from kdlib.data.image_data import ImageData
from kdlib.data.listing import Listing
from kdlib.data.object_photographs import (
    Annotation,
    number_in,
    photographs_with_objects,
    shape_in,
)
from kdlib.data.objects import Found, damaged
from kdlib.data.roots import data_root as checked_root
from kdlib.data.roots import missing
from kdlib.data.voc import CLASSES as WITH_BACKGROUND
from kdlib.data.voc import FOLDER, PARTS
from kdlib.errors import KdlibError

CLASSES = WITH_BACKGROUND[1:]
LISTS = Path("ImageSets") / "Main"
LAYOUT = f"""
ROOT/{FOLDER}/VOC2007/ImageSets/Main/trainval.txt, test.txt
ROOT/{FOLDER}/VOC2012/ImageSets/Main/trainval.txt
ROOT/{FOLDER}/VOC2007 and VOC2012/JPEGImages/*.jpg
ROOT/{FOLDER}/VOC2007 and VOC2012/Annotations/*.xml
"""
REMEDY = (
    'python -c "from torchvision.datasets import VOCDetection as V; '
    "[V('ROOT', year, part, download=True) for year, part in "
    "(('2007', 'trainval'), ('2007', 'test'), ('2012', 'trainval'))]\""
)


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


def tasks_there(root: Path) -> tuple[str, ...]:
    """``segmentation`` and ``detection``, as far as their lists are there; the first if none is."""
    lists = {"segmentation": "Segmentation", "detection": "Main"}
    folder = root / FOLDER / "VOC2007" / "ImageSets"
    found = tuple(task for task, part in lists.items() if (folder / part).is_dir())
    return found or ("segmentation",)


def list_voc_objects(split: str, root: Path) -> Listing:
    """The photographs of a split and, after them all, their annotations in the same order.

    Raises:
        KdlibError: a list is missing or empty.
    """
    published = [_published(year, part, root) for year, part in PARTS[split]]
    pictures = [path for one in published for path in one.images]
    texts = [path for one in published for path in one.annotations]
    names = tuple(str(Path(path).relative_to(root)) for path in (*pictures, *texts))
    return Listing("voc", root, names, (0,) * len(names), CLASSES, REMEDY)


def _published(year: str, part: str, root: Path) -> VOCDetection:
    lists = root / FOLDER / f"VOC{year}" / LISTS / f"{part}.txt"
    if not lists.is_file():
        raise missing("voc", lists, LAYOUT, REMEDY)
    found = VOCDetection(str(root), year, part)
    if not found.images:
        raise KdlibError(f"{lists} is empty; it must name a photograph a line. Get it again.")
    return found


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
    if name not in CLASSES:
        raise damaged(path, where, f"its class is '{name}'; valid: {', '.join(CLASSES)}")
    box = fields.get("bndbox") or {}
    x1, y1, x2, y2 = (
        number_in(box, side, path, where) for side in ("xmin", "ymin", "xmax", "ymax")
    )
    difficult = "difficult" in fields and number_in(fields, "difficult", path, where) != 0
    return Found((x1 - 1, y1 - 1, x2, y2), CLASSES.index(name), difficult)
