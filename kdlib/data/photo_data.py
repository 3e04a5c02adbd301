"""From a listing to a data set: checked, in a fixed random order, read from the fastest source."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from kdlib.data import resized
from kdlib.data.decode import Pixels
from kdlib.data.image_data import ImageData
from kdlib.data.photo_source import Lister, Source, open_source
from kdlib.data.photographs import Photographs
from kdlib.data.pixels import fingerprint as digits
from kdlib.seeds import generator

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Those of ImageNet, as the networks of torchvision expect. The paper's release gives those of
the video data set Kinetics under ImageNet's name; they differ by up to 0.05."""


def load_photographs(
    lister: Lister,
    split: str,
    *,
    size: int | None = None,
    image_size: int = 224,
    data_root: Path | None = None,
    **composition: int,
) -> ImageData:
    """Photographs in a random order that is always the same; none is read yet.

    The order is random so that the first of them are of all classes alike, and so is the fifth
    that is held out for choices.

    Args:
        lister: reads the data set's lists.
        split: ``train`` or ``test``.
        size: only so many images.
        image_size: pixels a side; the shorter side of a photograph is 256 / 224 of it.
        data_root: folder of the real data sets; ``None`` reads ``KDLIB_DATA``.
        composition: options of composed data sets, which mean nothing here.

    Raises:
        KdlibError: as :func:`open_source`.
    """
    source = open_source(lister, split, image_size, data_root)
    listing = source.listing
    order = torch.randperm(len(listing.names), generator=generator(0, listing.dataset, "order"))
    order = order[:size]
    labels = torch.tensor(listing.labels)[order]
    return ImageData(
        images=Photographs(_reader(source), order.numpy(), image_size),
        labels=labels,
        classes=listing.classes,
        mean=MEAN,
        std=STD,
        fingerprint=_fingerprint(source, labels, order),
    )


def _reader(source: Source) -> Callable[[int], Pixels]:
    """From the file of resized photographs where there is one, else one decoded at a time."""
    folder = resized.folder_of(source)
    return resized.Resized(folder).read if resized.is_whole(folder) else source.read


def _fingerprint(source: Source, labels: Tensor, order: Tensor) -> str:
    """Names and sizes of the files stand for their content, which would take minutes to read."""
    listing = source.listing
    digest = hashlib.sha256(repr(listing.names).encode()).hexdigest()
    sizes = torch.from_numpy(source.facts[:, 0])[order]
    return digits((listing.classes, source.side, digest), (labels, sizes))
