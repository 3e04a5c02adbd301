"""What every detector returns for one image."""

from typing import NamedTuple

from torch import Tensor


class Detections(NamedTuple):
    """The n objects that a detector finds in one image.

    Attributes:
        boxes: (n, 4) float, x1, y1, x2, y2 in pixels of the image as it was given, x2 and y2
            exclusive.
        kinds: (n,) int64, the class of each object, 0 to C - 1; background has none.
        scores: (n,) float, how sure the detector is, 0 to 1.
    """

    boxes: Tensor
    kinds: Tensor
    scores: Tensor
