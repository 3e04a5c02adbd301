"""A data set, in memory or, where that is much, as photographs; and the folder of real ones."""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from kdlib.data import DATASETS
from kdlib.errors import KdlibError, check_range
from kdlib.tasks import IGNORED as IGNORED

if TYPE_CHECKING:
    from kdlib.data.photographs import Photographs
    from kdlib.detection.objects import Objects, WholePhotographs

Colour = tuple[float, float, float]
VARIABLE = "KDLIB_DATA"
IMAGE_SIZES = (16, 512)
SHOWN = 20  # lines that an error lists, of files or classes


@dataclass(frozen=True)
class ImageData:
    """Images with labels, with the class of each pixel, or with objects."""

    images: "Tensor | Photographs | WholePhotographs"
    """(N, 3, H, W) uint8; or N photographs, read when asked for, of one size or each of its own."""
    labels: Tensor  # (N,) int64, places in ``classes``; all 0 where pixels or objects have classes
    classes: tuple[str, ...]
    mean: Colour  # of each channel in 0..1, for normalisation; so is ``std``, its deviation
    std: Colour
    fingerprint: str  # hexadecimal digits that change when the content does
    relevance: Callable[[Tensor], Tensor] | None = None
    """From positions (n,) to masks (n, H, W) bool of what defines the class, if known."""
    foreground: Callable[[Tensor], Tensor] | None = None  # the same of all objects
    masks: Tensor | None = None  # (N, H, W) uint8, in memory: class of each pixel, or ``IGNORED``
    objects: "Objects | None" = None  # of each image, where it is objects that have classes

    @property
    def task(self) -> str:
        """``detection`` or ``segmentation`` where objects or pixels have classes."""
        if self.objects is not None:
            return "detection"
        annotated = getattr(self.images, "annotated", False)
        return "segmentation" if annotated or self.masks is not None else "classification"

    def __len__(self) -> int:
        return len(self.labels)

    def part(self, start: int, stop: int) -> "ImageData":
        """The images at positions ``start`` to ``stop - 1``."""
        rows = slice(start, stop)

        def moved(masks: Callable[[Tensor], Tensor] | None) -> Callable[[Tensor], Tensor] | None:
            return masks and (lambda indices: masks(indices + start))

        return replace(
            self,
            images=self.images[rows],
            labels=self.labels[rows],
            relevance=moved(self.relevance),
            foreground=moved(self.foreground),
            masks=None if self.masks is None else self.masks[rows],
            objects=None if self.objects is None else self.objects.part(start, stop),
        )

    def first(self, count: int | None) -> "ImageData":
        """The first ``count`` images, or all of them if there are fewer."""
        return self.part(0, len(self) if count is None else min(count, len(self)))


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


def missing(dataset: str, lacking: Path | str) -> KdlibError:
    """The error for a file that is not there: what is expected, and how to get it."""
    layout, remedy = DATASETS[dataset].layout.replace("\n", "\n  "), DATASETS[dataset].remedy
    what = f"{dataset}: {lacking} is missing. Expected:\n  {layout}"
    return KdlibError(f"{what}\nTo get it:\n  {remedy}")


def check_learnable(data: ImageData, what: str, fewest: int) -> None:
    """Refuse data that show fewer than so many classes: there is nothing to be told apart."""
    images: Any = data.images
    if data.objects is not None:
        found = iter([data.objects.counted().kinds])
    elif data.task == "classification":
        found = iter([data.labels])
    elif data.masks is not None:
        found = iter(data.masks)
    else:  # photographs, of which one is mostly enough
        found = (torch.tensor(images.read(n)[..., 3]) for n in images.positions.tolist())
    seen = set[int]()
    for labels in found:
        seen |= {*labels.unique().tolist()} - {IGNORED}
        if len(seen) >= fewest:
            return
    classes = f"one class alone ({data.classes[seen.pop()]})" if seen else "no object of any class"
    raise KdlibError(
        f"{what}: the {len(data):,} images show {classes}, so there is nothing to learn. Look at "
        f"the annotations, and give images of {'any class' if fewest == 1 else 'two classes'}."
    )


def few_lines(lines: Sequence[str]) -> str:
    """The first ``SHOWN`` lines, indented, and how many more there are."""
    more = [f"... and {len(lines) - SHOWN:,} more"] if len(lines) > SHOWN else []
    return "\n".join(f"  {line}" for line in [*lines[:SHOWN], *more])


def resized(images: Tensor, image_size: int) -> Tensor:
    """(N, C, H, W) uint8 -> (N, C, image_size, image_size), bilinear without aliasing."""
    check_range("image_size", image_size, *IMAGE_SIZES)
    if images.shape[-2:] == (image_size, image_size):
        return images
    return functional.interpolate(images, size=image_size, mode="bilinear", antialias=True)


def fingerprint(facts: object, arrays: Iterable[Tensor] = ()) -> str:
    """Sixteen hexadecimal digits of the SHA-256 of some facts (their ``repr``) and arrays."""
    digest = hashlib.sha256(repr(facts).encode())
    for array in arrays:
        digest.update(repr(tuple(array.shape)).encode())
        digest.update(array.contiguous().numpy().data)
    return digest.hexdigest()[:16]
