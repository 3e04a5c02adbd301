"""Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747): 70,000 photographs of ten kinds of garment.

    ROOT/FashionMNIST/raw/train-images-idx3-ubyte     (or with .gz)
    ...

torchvision's folder and torchvision's reader, which takes plain files only; gzipped ones, as the
authors and Debian hand them out, are unpacked for it.
"""

import gzip
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from torch import Tensor
from torch.nn import functional
from torchvision.datasets import FashionMNIST
from torchvision.datasets.mnist import read_image_file, read_label_file

from kdlib.data.image_data import ImageData
from kdlib.data.pixels import fingerprint, resized
from kdlib.data.roots import data_root as checked_root
from kdlib.data.roots import missing
from kdlib.errors import KdlibError

FOLDER = Path("FashionMNIST") / "raw"
FILES = tuple(name.removesuffix(".gz") for name, _ in FashionMNIST.resources)
CLASSES = tuple(FashionMNIST.classes)
SIDE = 28
PADDING = 2
"""To 32 pixels a side, what the networks for CIFAR expect."""
MEAN, STD = 0.219, 0.332
"""Of the padded training images."""

LAYOUT = "\n".join(f"ROOT/{FOLDER / name}   (or {name}.gz)" for name in FILES)
REMEDY = (
    "sudo apt-get install dataset-fashion-mnist && "
    "python -m kdlib data import fashion_mnist --data-root ROOT     (Debian, Ubuntu)\n  "
    "python -c \"from torchvision.datasets import FashionMNIST as F; F('ROOT', download=True)\""
)
UNREADABLE = (AssertionError, EOFError, KeyError, OSError, RuntimeError, TypeError, ValueError,
              zlib.error)  # fmt: skip
"""All that gzip and torchvision's reader raise for a damaged file."""


class Garments(NamedTuple):
    """A split as it was published.

    Attributes:
        images: (N, 28, 28) uint8, a bright garment on black.
        labels: (N,) int64, positions in ``CLASSES``.
    """

    images: Tensor
    labels: Tensor


def load_fashion_mnist(
    split: str,
    *,
    size: int | None = None,
    image_size: int = 32,
    data_root: Path | None = None,
    **composition: int,
) -> ImageData:
    """Fashion-MNIST, padded to 32 x 32 (and resized if another size is asked for).

    The three channels are one and the same memory. The published order, which is random, is kept.

    Args:
        split: ``train`` (60,000) or ``test`` (10,000).
        size: only the first so many images.
        image_size: pixels a side.
        data_root: folder that holds ``FashionMNIST/raw``; ``None`` reads ``KDLIB_DATA``.
        composition: options of composed data sets, which mean nothing here.

    Raises:
        KdlibError: a file is missing or damaged.
    """
    garments = read_garments(split, checked_root(data_root))
    padded = functional.pad(garments.images, [PADDING] * 4)
    images = resized(padded.unsqueeze(1), image_size)
    whole = ImageData(
        images=images.expand(-1, 3, -1, -1),
        labels=garments.labels,
        classes=CLASSES,
        mean=(MEAN, MEAN, MEAN),
        std=(STD, STD, STD),
        fingerprint=fingerprint(("fashion_mnist", PADDING, image_size), garments),
    )
    return whole.first(size or len(whole))


def read_garments(split: str, root: Path) -> Garments:
    """The photographs of a split, ``train`` or ``test``.

    Raises:
        KdlibError: a file is missing, damaged, or not of this data set.
    """
    prefix = "train" if split == "train" else "t10k"
    image_file, label_file = (
        _find(root / FOLDER / f"{prefix}-{rest}") for rest in ("images-idx3-ubyte",
                                                               "labels-idx1-ubyte")
    )  # fmt: skip
    images = _read(image_file, read_image_file)
    labels = _read(label_file, read_label_file)
    if images.shape[1:] != (SIDE, SIDE) or len(images) != len(labels):
        shapes = f"{tuple(images.shape)} images, {len(labels)} labels"
        raise KdlibError(f"{image_file} and its labels hold {shapes}; expected N x 28 x 28 and N.")
    if labels.numel() == 0 or labels.max() >= len(CLASSES):
        raise KdlibError(f"{label_file} must hold labels from 0 to {len(CLASSES) - 1}.")
    return Garments(images, labels)


def _find(plain: Path) -> Path:
    """The plain file or, failing that, the gzipped one."""
    for path in (plain, plain.with_name(plain.name + ".gz")):
        if path.is_file():
            return path
    raise missing("Fashion-MNIST", plain, LAYOUT, REMEDY)


def _read(path: Path, read: Callable[[str], Tensor]) -> Tensor:
    try:
        with _unpacked(path) as plain:
            return read(str(plain))
    except UNREADABLE as error:
        raise KdlibError(
            f"{path} is damaged or not an IDX file ({type(error).__name__}: {error}). "
            f"Remove it and get it again:\n  {REMEDY}"
        ) from error


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """The file itself or, if it is gzipped, what is in it, in a temporary file."""
    if path.suffix != ".gz":
        yield path
        return
    with tempfile.TemporaryDirectory() as folder, gzip.open(path) as packed:
        plain = Path(folder) / path.stem
        with plain.open("wb") as file:
            shutil.copyfileobj(packed, file)
        yield plain
