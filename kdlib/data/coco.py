"""COCO 2017's objects (Lin 2014, arXiv 1405.0312), by torchvision and pycocotools.

    ROOT/coco/train2017/*.jpg                                118,287
    ROOT/coco/val2017/*.jpg                                    5,000
    ROOT/coco/annotations/instances_train2017.json, instances_val2017.json

Training is on ``train2017``, testing on ``val2017``, as usual. The files' 80 categories have
numbers from 1 to 90; here they count from 0 in the same order, and are told by their names, so
that both files mean the same. Photographs without objects (1,021 for training, 48 for testing) are
backgrounds. Crowds are neither trained on nor counted.
"""

import io
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from torchvision.datasets import CocoDetection

from kdlib.data.image_data import ImageData
from kdlib.data.listing import Listing
from kdlib.data.object_photographs import (
    Annotation,
    finite,
    photographs_with_objects,
    shape_in,
)
from kdlib.data.objects import Found, damaged
from kdlib.data.roots import data_root as checked_root
from kdlib.data.roots import missing
from kdlib.errors import KdlibError

CLASSES = (
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
PARTS = {"train": "train2017", "test": "val2017"}
LAYOUT = f"""
ROOT/{FOLDER}/train2017/*.jpg
ROOT/{FOLDER}/val2017/*.jpg
ROOT/{FOLDER}/annotations/instances_train2017.json, instances_val2017.json
"""
REMEDY = (
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
    folder, part = checked_root(data_root) / FOLDER, PARTS[split]
    file = folder / "annotations" / f"instances_{part}.json"
    for path in (file, folder / part):
        if not path.exists():
            raise missing("coco", path, LAYOUT, REMEDY)
    published = Published(folder / part, file)
    names = published.names()
    listing = Listing("coco", folder / part, names, (0,) * len(names), CLASSES, REMEDY)
    return photographs_with_objects(listing, len(names), published.annotation, size)


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
        if name not in CLASSES:
            raise damaged(self.file, f"category {key}", f"'{name}' is not one of COCO's 80 classes")
        return CLASSES.index(name)

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
