"""Fashion-MNIST (Xiao et al. 2017, arXiv 1708.07747), and scenes composed of its garments."""

import gzip
import zlib
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from kdlib.data import DATASETS
from kdlib.data.image_data import ImageData, checked_root, fingerprint, missing, resized
from kdlib.data.scenes import Composition, ObjectBank, Recipe, uniforms
from kdlib.errors import KdlibError
from kdlib.seeds import derive_seed

FOLDER = Path("FashionMNIST") / "raw"
CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
PADDING = 2  # to 32 pixels a side, what the networks for CIFAR expect
MEAN, STD = (0.219, 0.219, 0.219), (0.332, 0.332, 0.332)  # of the padded training images
OUTFITS: dict[str, dict[str, str]] = {
    "beach": {"T-shirt/top": "green", "Sandal": "red", "Dress": "yellow", "Bag": "blue"},
    "office": {"Shirt": "yellow", "Trouser": "blue", "Coat": "red", "Ankle boot": "purple"},
    "gym": {"T-shirt/top": "red", "Trouser": "green", "Sneaker": "purple", "Pullover": "yellow"},
    "winter walk": {"Coat": "blue", "Pullover": "green", "Ankle boot": "yellow", "Bag": "purple"},
    "party": {"Dress": "blue", "Sandal": "green", "Shirt": "purple", "Bag": "yellow"},
    "school": {"Shirt": "blue", "Pullover": "purple", "Sneaker": "green", "Trouser": "red"},
    "journey": {"T-shirt/top": "purple", "Coat": "yellow", "Sneaker": "red", "Bag": "green"},
    "garden": {"T-shirt/top": "blue", "Trouser": "yellow", "Sandal": "purple", "Shirt": "red"},
    "city": {"Dress": "red", "Coat": "green", "Ankle boot": "blue", "Sneaker": "yellow"},
    "concert": {"Dress": "purple", "Pullover": "red", "Sandal": "blue", "Ankle boot": "green"},
}
"""Scene class -> its garments -> their colours. Only garments *in* their colours tell a class.

Ten garments alone make too few classes that share one at most (the packing number D(10, 4, 2) is
5). Of the fifty in five colours the outfits use forty, each once, so that any number of attentions
names one class; ten are distractors. No outfit has a garment or a colour twice.
"""
COLOURS = {
    "red": (1.00, 0.25, 0.20), "yellow": (1.00, 0.90, 0.20), "green": (0.25, 0.85, 0.30),
    "blue": (0.25, 0.45, 1.00), "purple": (0.90, 0.35, 0.95),
}  # fmt: skip
"""What a white garment turns into: factors of red, green and blue."""
OPACITY = 4.0  # a multiple of brightness: soft edges, but nothing shines through a dark garment
DARKEST = 0.45  # brightness of black cloth; without it a dark garment would have no colour
DYE = 0.15  # how far a dye strays from its colour, each way, as a factor: no two are alike


def load_fashion_mnist(split: str, size: int | None, image_size: int, **options: Any) -> ImageData:
    """Fashion-MNIST, padded to 32 x 32 or resized, in the published order, which is random."""
    garments, labels = _read_garments(split, checked_root(options["data_root"]))
    padded = functional.pad(garments, [PADDING] * 4)
    images = resized(padded.unsqueeze(1), image_size).expand(-1, 3, -1, -1)  # one memory
    digest = fingerprint(("fashion_mnist", PADDING, image_size), (garments, labels))
    return ImageData(images, labels, CLASSES, MEAN, STD, digest).first(size)


def _read_garments(split: str, root: Path) -> tuple[Tensor, Tensor]:
    """(N, 28, 28) uint8, bright garments on black, and (N,) int64, their places in ``CLASSES``."""
    stem = root / FOLDER / ("t10k" if split == "test" else "train")
    images, labels = (_read_idx(f"{stem}-{part}") for part in ("images-idx3", "labels-idx1"))
    if images.shape[1:] != (28, 28) or len(images) != len(labels):
        shapes = f"{tuple(images.shape)} images, {len(labels)} labels"
        raise KdlibError(f"{stem}-* hold {shapes}; expected N x 28 x 28 and N.")
    if labels.numel() == 0 or labels.max() >= len(CLASSES):
        raise KdlibError(f"{stem}-labels-idx1-ubyte must hold labels from 0 to {len(CLASSES) - 1}.")
    return images, labels.long()


def _read_idx(name: str) -> Tensor:
    """The bytes of an IDX file: 0, 0, 8, rank, shape as big-endian int32, and then themselves."""
    plain = Path(f"{name}-ubyte")
    try:
        content = unpacked(plain)
        if content[:3] != b"\0\0\x08":
            raise ValueError("it does not begin as a file of bytes")
        shape = np.frombuffer(content, ">i4", content[3], offset=4)
        values = np.frombuffer(content, np.uint8, offset=4 + shape.nbytes).reshape(shape)
    except FileNotFoundError as error:
        raise missing("fashion_mnist", plain) from error
    except (OSError, EOFError, IndexError, ValueError, zlib.error) as error:
        told = f"{plain} is damaged or not an IDX file ({type(error).__name__}: {error})"
        remedy = f"Move it away and get it again:\n  {DATASETS['fashion_mnist'].remedy}"
        raise KdlibError(f"{told}. {remedy}") from error
    return torch.from_numpy(values.copy())


def unpacked(plain: Path) -> bytes:
    """Content of the plain file, as Debian gives it, or of the authors' gzipped one beside it."""
    packed = plain.with_name(f"{plain.name}.gz")
    return plain.read_bytes() if plain.is_file() else gzip.decompress(packed.read_bytes())


def outfits(split: str, size: int | None, image_size: int, **options: Any) -> Composition:
    """Scenes of garments: real photographs in scenes whose ground truth is known all the same."""
    classes = {
        outfit: tuple(f"{colour} {garment}" for garment, colour in garments.items())
        for outfit, garments in OUTFITS.items()
    }
    recipe = Recipe(classes, options["attentions"], options["distractors"], image_size)
    root = checked_root(options["data_root"]).resolve()
    banks = (_garment_bank(root, split), _garment_bank(root, "train"))
    return Composition("fashion_scenes", recipe, split, size, *banks, options["sample"])


@cache
def _garment_bank(root: Path, split: str) -> ObjectBank:
    """Fifty objects, every garment in every colour; a photograph is dyed in one of them only."""
    garments, labels = _read_garments(split, root)
    found, colours = [garments[labels == label] for label in range(len(CLASSES))], len(COLOURS)
    fewest = min(map(len, found))
    if fewest < colours:
        told = f"{root / FOLDER} has too few photographs for scenes: {fewest} of a garment"
        raise KdlibError(f"{told}; at least {colours} of each are needed.")
    pictures = [
        dyed(own[place::colours][: fewest // colours], colour)
        for own in found
        for place, colour in enumerate(COLOURS.values())
    ]
    kinds = tuple(f"{colour} {garment}" for garment in CLASSES for colour in COLOURS)
    source = fingerprint((OUTFITS, COLOURS, OPACITY, DARKEST, DYE), (garments, labels))
    return ObjectBank(kinds, torch.stack(pictures), source)


def dyed(photographs: Tensor, colour: tuple[float, float, float]) -> Tensor:
    """(E, 28, 28) uint8, bright on black -> (E, 4, 28, 28), cut out and dyed: RGB, opacity."""
    bright = photographs.float().unsqueeze(1)
    draws = uniforms(derive_seed(0, "dye"), np.arange(len(photographs)), 3)
    dyes = torch.tensor(colour) * (1 + DYE * (2 * torch.from_numpy(draws).float() - 1))
    cloth = (255 * DARKEST + (1 - DARKEST) * bright) * dyes[..., None, None]
    return torch.cat([cloth, OPACITY * bright], dim=1).clamp(max=255).byte()
