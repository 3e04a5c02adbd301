"""Any images in folders, one folder a class, through torchvision's ``ImageFolder``."""

import hashlib
from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from tqdm.auto import tqdm

from kdlib.data.image_data import ImageData
from kdlib.data.roots import data_root as resolve_root
from kdlib.data.roots import missing
from kdlib.errors import KdlibError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LAYOUT = "train/CLASS/*.jpg\ntest/CLASS/*.jpg"
COMMAND = "put your images there, one folder a class, the same classes in both splits"


def load_folder(
    split: str,
    *,
    size: int | None = None,
    image_size: int = 64,
    attentions: int = 2,
    distractors: int = 4,
    data_root: Path | None = None,
) -> ImageData:
    """``ROOT/train`` and ``ROOT/test``, each image scaled and centre-cropped to a square.

    Grey, palette, CMYK and transparent images become RGB. The files are read in an order that
    mixes the classes and depends on their names alone, so that a part holds all classes.
    ``attentions`` and ``distractors`` have no meaning here.

    Raises:
        KdlibError: folders missing or empty, or an image that cannot be read (named).
    """
    root = resolve_root(data_root)
    for name in ("train", "test"):
        if not (root / name).is_dir():
            raise missing("imagefolder", root, LAYOUT, COMMAND)
    try:
        found = ImageFolder(str(root / split))
    except FileNotFoundError as error:
        raise KdlibError(f"{root / split}: {error}") from error
    samples = sorted(found.samples, key=lambda sample: _digest(sample[0], root))[:size]
    images = [_read(Path(path), image_size) for path, _ in tqdm(samples, desc=split, unit="image")]
    pixels = torch.stack(images)
    return ImageData(
        images=pixels,
        labels=torch.tensor([label for _, label in samples]),
        classes=tuple(found.classes),
        mean=MEAN,
        std=STD,
        fingerprint=hashlib.sha256(pixels.numpy().tobytes()).hexdigest()[:16],
    )


def _digest(path: str, root: Path) -> str:
    return hashlib.sha256(str(Path(path).relative_to(root)).encode()).hexdigest()


def _read(path: Path, image_size: int) -> Tensor:
    """One image (3, image_size, image_size) uint8."""
    resize = v2.Compose([v2.Resize(image_size, antialias=True), v2.CenterCrop(image_size)])
    try:
        with Image.open(path) as picture:
            return v2.functional.pil_to_tensor(resize(picture.convert("RGB")))
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise KdlibError(
            f"{path} cannot be read as an image ({error}). Replace it or remove it."
        ) from error
