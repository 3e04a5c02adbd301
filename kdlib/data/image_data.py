"""A data set: what every loader returns, in memory or, where that is much, as photographs."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

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
