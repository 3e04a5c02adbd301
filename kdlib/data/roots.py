"""What loaders share: where real data sets lie, how they are resized, digests of content."""

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from torch import Tensor
from torch.nn import functional

from kdlib.errors import KdlibError, check_range

VARIABLE = "KDLIB_DATA"
IMAGE_SIZES = (16, 512)
SHOWN = 20  # lines that an error lists, of files or classes


def checked_root(given: Path | str | None, exists: bool = True) -> Path:
    """The folder of the real data sets: ``given``, or the variable ``KDLIB_DATA``."""
    folder = str(given or os.environ.get(VARIABLE) or "")
    if not folder:
        raise KdlibError(
            "This data set needs a data root: the folder where the real data sets lie. Give "
            f"--data-root FOLDER (make: DATA_ROOT=FOLDER) or set the variable {VARIABLE}."
        )
    root = Path(folder).expanduser()
    if exists and not root.is_dir():
        raise KdlibError(f"The data root {root} is not a folder; give one that exists.")
    return root


def missing(dataset: str, lacking: Path, layout: str, remedy: str) -> KdlibError:
    """The error for a file that is not there: what is expected (a line each), how to get it."""
    lines = "\n".join(f"  {line}" for line in layout.strip().splitlines())
    return KdlibError(
        f"{dataset}: {lacking} is missing. Expected:\n{lines}\nTo get it:\n  {remedy}"
    )


def shown_lines(lines: Sequence[str]) -> str:
    """The first ``SHOWN`` lines, indented, and how many more there are."""
    more = [f"... and {len(lines) - SHOWN:,} more"] if len(lines) > SHOWN else []
    return "\n".join(f"  {line}" for line in [*lines[:SHOWN], *more])


def resized(images: Tensor, image_size: int) -> Tensor:
    """(N, C, H, W) uint8 -> (N, C, image_size, image_size), bilinear without aliasing."""
    check_range("image_size", image_size, *IMAGE_SIZES)
    size = (image_size, image_size)
    if images.shape[-2:] == size:
        return images
    return functional.interpolate(images, size=size, mode="bilinear", antialias=True)


def fingerprint(facts: object, arrays: Iterable[Tensor] = ()) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of some facts (their ``repr``) and arrays."""
    digest = hashlib.sha256(repr(facts).encode())
    for array in arrays:
        digest.update(repr(tuple(array.shape)).encode())
        digest.update(array.contiguous().numpy().data)
    return digest.hexdigest()[:16]
