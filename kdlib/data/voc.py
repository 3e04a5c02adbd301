"""Pascal VOC's segmentation (Everingham 2010, doi 10.1007/s11263-009-0275-4), by torchvision.

    ROOT/VOCdevkit/VOC2007/ImageSets/Segmentation/trainval.txt, test.txt      422 and 210
    ROOT/VOCdevkit/VOC2012/ImageSets/Segmentation/trainval.txt                2,913
    ROOT/VOCdevkit/VOC20??/JPEGImages/*.jpg
    ROOT/VOCdevkit/VOC20??/SegmentationClass/*.png                            a palette; 255: void

Training is on both years' ``trainval``, testing on 2007's ``test`` (as FRSKD has it, arXiv
2103.08273). 2012 has photographs of 2007 again, under the name ``2007_`` and the old number: each
is trained on once, as 2012 has it, and one that is tested on never. Photographs are at most 500
pixels a side, so a window of 512 shows them whole at their own resolution.
"""

import hashlib
from pathlib import Path

import torch
from torchvision.datasets import VOCSegmentation

from kdlib.data.annotated import AnnotatedPhotographs, read_annotated
from kdlib.data.decode import Pixels
from kdlib.data.image_data import ImageData
from kdlib.data.listing import Listing
from kdlib.data.photo_data import MEAN, STD
from kdlib.data.pixels import checked_size
from kdlib.data.pixels import fingerprint as digits
from kdlib.data.roots import data_root as checked_root
from kdlib.data.roots import missing
from kdlib.errors import KdlibError
from kdlib.seeds import generator

CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair",
    "cow", "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa",
    "train", "tvmonitor",
)  # fmt: skip
FULL_SIZE = 512
MARGIN = (124, 116, 104)
"""Colour beyond a photograph: the mean of ImageNet's, which normalisation turns into nearly 0."""
FOLDER = "VOCdevkit"
PARTS = {"train": (("2012", "trainval"), ("2007", "trainval")), "test": (("2007", "test"),)}
LAYOUT = f"""
ROOT/{FOLDER}/VOC2007/ImageSets/Segmentation/trainval.txt, test.txt
ROOT/{FOLDER}/VOC2012/ImageSets/Segmentation/trainval.txt
ROOT/{FOLDER}/VOC2007 and VOC2012/JPEGImages/*.jpg
ROOT/{FOLDER}/VOC2007 and VOC2012/SegmentationClass/*.png
"""
REMEDY = (
    'python -c "from torchvision.datasets import VOCSegmentation as V; '
    "[V('ROOT', year, part, download=True) for year, part in "
    "(('2007', 'trainval'), ('2007', 'test'), ('2012', 'trainval'))]\""
)


def load_voc(
    split: str,
    *,
    size: int | None = None,
    image_size: int = FULL_SIZE,
    data_root: Path | None = None,
    **composition: int,
) -> ImageData:
    """Pascal VOC 2007 and 2012: photographs, each pixel one of 20 things or background.

    Args:
        split: ``train`` or ``test``.
        size: only so many, of a random order that is always the same.
        image_size: pixels a side of a window; 512 shows photographs at their own resolution.
        data_root: folder that holds ``VOCdevkit``; ``None`` reads ``KDLIB_DATA``.
        composition: options of composed data sets, which mean nothing here.

    Raises:
        KdlibError: a list, a photograph or a mask is missing; when they are read, one is damaged.
    """
    checked_size(image_size)
    listing = list_voc(split, checked_root(data_root))
    facts, count = listing.facts(), len(listing.names) // 2
    order = torch.randperm(count, generator=generator(0, "voc", "order"))[:size]
    names = hashlib.sha256(repr(listing.names).encode()).hexdigest()

    def read(position: int) -> Pixels:
        picture, mask = (Path(listing.path(place)) for place in (position, position + count))
        return read_annotated(picture, mask, len(CLASSES))

    return ImageData(
        images=AnnotatedPhotographs(read, order.numpy(), image_size, FULL_SIZE, MARGIN),
        labels=torch.zeros(len(order), dtype=torch.int64),
        classes=CLASSES,
        mean=MEAN,
        std=STD,
        fingerprint=digits(("voc", names, image_size), (torch.from_numpy(facts[:, 0]), order)),
    )


def list_voc(split: str, root: Path) -> Listing:
    """The photographs of a split and, after them all, their masks in the same order.

    Raises:
        KdlibError: a list is missing or empty.
    """
    tested = _published("2007", "test", root).images if split == "train" else []
    taken, pictures, masks = {Path(name).stem for name in tested}, [], []
    for year, part in PARTS[split]:
        published = _published(year, part, root)
        for picture, mask in zip(published.images, published.masks, strict=True):
            number = Path(picture).stem.removeprefix("2007_")
            if number not in taken:
                taken.add(number)
                pictures.append(picture)
                masks.append(mask)
    names = tuple(str(Path(path).relative_to(root)) for path in (*pictures, *masks))
    return Listing("voc", root, names, (0,) * len(names), CLASSES, REMEDY)


def _published(year: str, part: str, root: Path) -> VOCSegmentation:
    lists = root / FOLDER / f"VOC{year}" / "ImageSets" / "Segmentation" / f"{part}.txt"
    if not lists.is_file():
        raise missing("voc", lists, LAYOUT, REMEDY)
    found = VOCSegmentation(str(root), year, part)
    if not found.images:
        raise KdlibError(f"{lists} is empty; it must name a photograph a line. Get it again.")
    return found
