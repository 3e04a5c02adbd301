"""Fashion-MNIST (Xiao 2017, arXiv 1708.07747): 70,000 photographs of garments, 28 x 28."""

import gzip
import hashlib
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional
from torchvision.datasets import FashionMNIST
from torchvision.datasets.mnist import read_image_file, read_label_file

from kdlib.data.image_data import ImageData
from kdlib.data.roots import data_root as resolve_root
from kdlib.data.roots import missing
from kdlib.errors import KdlibError

FOLDER = Path("FashionMNIST") / "raw"
STEMS = {"train": "train", "test": "t10k"}
MEAN, STD = (0.2860,) * 3, (0.3530,) * 3
SIDE = 28
COMMAND = (
    "python -m kdlib data import fashion_mnist --data-root ROOT, after installing Debian's "
    "package dataset-fashion-mnist (or with --from FOLDER of the four files, gzipped or not)"
)


def load_fashion(
    split: str,
    *,
    size: int | None = None,
    image_size: int = 32,
    attentions: int = 2,
    distractors: int = 4,
    data_root: Path | None = None,
) -> ImageData:
    """Fashion-MNIST as three equal channels, centred on black up to 32 pixels, then resized.

    ``attentions`` and ``distractors`` have no meaning here. Images are in the order of the files.
    """
    pictures, labels = read_fashion(split, data_root)
    pictures, labels = pictures[:size], labels[:size]
    images = functional.pad(pictures, [2] * 4).unsqueeze(1).expand(-1, 3, -1, -1)
    if image_size != SIDE + 4:
        shape = (image_size, image_size)
        images = functional.interpolate(images.float(), shape, mode="bilinear", antialias=True)
        images = images.round().byte()
    digest = hashlib.sha256(pictures.numpy().tobytes() + labels.numpy().tobytes())
    return ImageData(
        images=images.contiguous(),
        labels=labels,
        classes=tuple(FashionMNIST.classes),
        mean=MEAN,
        std=STD,
        fingerprint=digest.hexdigest()[:16],
    )


def read_fashion(split: str, data_root: Path | None) -> tuple[Tensor, Tensor]:
    """Pictures (N, 28, 28) uint8 and labels (N,) int64 of ``train`` or ``test``.

    Raises:
        KdlibError: files missing, truncated, of another format, or of unequal length.
    """
    root = resolve_root(data_root)
    stem = STEMS[split]
    images = _find(root, f"{stem}-images-idx3-ubyte")
    labels = _find(root, f"{stem}-labels-idx1-ubyte")
    pictures, numbers = _read(images, read_image_file), _read(labels, read_label_file)
    if len(pictures) != len(numbers):
        raise KdlibError(
            f"{images} has {len(pictures)} images and {labels} {len(numbers)} labels; "
            "the files do not belong together."
        )
    return pictures, numbers


def file_names() -> tuple[str, ...]:
    """The four files, without ``.gz``."""
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
    return tuple(f"{stem}-{kind}" for stem in STEMS.values() for kind in kinds)


def _find(root: Path, name: str) -> Path:
    for path in (root / FOLDER / name, root / FOLDER / f"{name}.gz"):
        if path.exists():
            return path
    layout = "\n".join(f"{FOLDER}/{name} (or .gz)" for name in file_names())
    raise missing("fashion_mnist", root, layout, COMMAND)


def _read(path: Path, reader: Callable[[str], Tensor]) -> Tensor:
    """Read an IDX file with torchvision's reader, gunzipped first where it needs that."""
    try:
        if path.suffix != ".gz":
            return reader(str(path))
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / path.stem
            with gzip.open(path) as source, plain.open("wb") as target:
                shutil.copyfileobj(source, target)
            return reader(str(plain))
    except (OSError, EOFError, ValueError, AssertionError, RuntimeError, KeyError, TypeError) as e:
        raise KdlibError(
            f"{path} is not a whole IDX file ({type(e).__name__}: {e}). Get it again: {COMMAND}."
        ) from e


def as_sprites(pictures: Tensor) -> Tensor:
    """Garments (N, 28, 28) -> (N, 4, 28, 28) uint8: grey, with an opacity that hides the black.

    The photographs stand on pure black, so anything brighter than a few grey levels is garment.
    """
    opacity = (pictures.int() * 8).clamp(max=255).byte()
    return torch.stack([pictures, pictures, pictures, opacity], dim=1)
