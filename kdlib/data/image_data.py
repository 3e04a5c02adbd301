"""A data set, in memory or, where that is much, as photographs; and the folder of real ones."""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional

from kdlib.errors import KdlibError, check_range
from kdlib.tasks import IGNORED as IGNORED

if TYPE_CHECKING:
    from kdlib.data.photographs import Photographs
    from kdlib.detection.objects import Objects, WholePhotographs


Colour = tuple[float, float, float]


@dataclass(frozen=True)
class ImageData:
    """Images with labels, with the class of each pixel, or with objects.

    Attributes:
        images: (N, 3, H, W) uint8; or N photographs, which are read when they are asked for, of
            one size or, for detectors, each of its own.
        labels: (N,) int64, in ``range(len(classes))``; all 0 where pixels or objects have classes
            instead.
        classes: names of the classes, in the order of the labels, or of the objects' kinds.
        mean, std: mean and standard deviation of each channel in 0..1, for normalisation.
        fingerprint: hexadecimal digits that change when the content does.
        relevance: from positions (n,) to masks (n, H, W) bool of the pixels of the objects that
            define the class; ``None`` where there is no such ground truth.
        masks: (N, H, W) uint8, the class of each pixel, or ``IGNORED``; ``None`` where images have
            labels, or where photographs bring their masks.
        objects: the objects of each image; ``None`` where it is not objects that have classes.
    """

    images: "Tensor | Photographs | WholePhotographs"
    labels: Tensor
    classes: tuple[str, ...]
    mean: Colour
    std: Colour
    fingerprint: str
    relevance: Callable[[Tensor], Tensor] | None = None
    masks: Tensor | None = None
    objects: "Objects | None" = None

    @property
    def task(self) -> str:
        """``detection`` or ``segmentation`` where objects or pixels have classes."""
        if self.objects is not None:
            return "detection"
        annotated = getattr(self.images, "annotated", False)
        return "segmentation" if annotated or self.masks is not None else "classification"

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def part(self, start: int, stop: int) -> "ImageData":
        """The images at positions ``start`` to ``stop - 1``."""
        whole = self.relevance
        shifted = None if whole is None else lambda indices: whole(indices + start)
        return replace(
            self,
            images=self.images[start:stop],
            labels=self.labels[start:stop],
            relevance=shifted,
            masks=None if self.masks is None else self.masks[start:stop],
            objects=None if self.objects is None else self.objects.part(start, stop),
        )

    def first(self, count: int) -> "ImageData":
        """The first ``count`` images, or all of them if there are fewer."""
        return self.part(0, min(count, len(self)))


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
