"""Photographs of any size that stay whole, read from their files when they are asked for."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kdlib.data.decode import Pixels


@dataclass(frozen=True)
class WholePhotographs:
    """Photographs in the order in which a data set hands them out.

    Attributes:
        decode: from a position in the listing to the photograph, (H, W, 3) uint8.
        positions: in the listing, of each photograph here.
    """

    decode: Callable[[int], Pixels]
    positions: NDArray[np.int64]

    def __len__(self) -> int:
        """Number of photographs."""
        return len(self.positions)

    def __getitem__(self, part: slice) -> "WholePhotographs":
        """A part of them, nothing read yet."""
        return replace(self, positions=self.positions[part])

    def read(self, index: int) -> Pixels:
        """The photograph at ``index`` of these, (H, W, 3) uint8.

        Raises:
            KdlibError: it cannot be read, or is of another size than its annotation says.
        """
        return self.decode(int(self.positions[index]))
