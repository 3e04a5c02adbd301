"""The files of a data set of photographs as they are now, and a key that changes when they do."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdlib.data.decode import Pixels, decoded, resized_side
from kdlib.data.listing import Listing
from kdlib.data.pixels import checked_size
from kdlib.data.roots import data_root as checked_root

Lister = Callable[[str, Path], Listing]


@dataclass(frozen=True)
class Source:
    """A split's files as they are now.

    Attributes:
        listing: the files.
        split: ``train`` or ``test``.
        side: pixels of the resized photographs' shorter side.
        facts: (N, 2) size and time of change of each file.
    """

    listing: Listing
    split: str
    side: int
    facts: NDArray[np.int64]

    @property
    def key(self) -> str:
        """Changes when a file is added, removed, renamed or changed, or the size is another."""
        digest = hashlib.sha256(repr((self.side, self.listing.names)).encode())
        digest.update(self.facts.tobytes())
        return digest.hexdigest()[:16]

    def read(self, position: int) -> Pixels:
        """Decode one photograph."""
        return decoded(self.listing.path(position), self.side)


def open_source(lister: Lister, split: str, image_size: int, data_root: Path | None) -> Source:
    """Find a split's files.

    Raises:
        KdlibError: the data set, some of its files or its lists are missing or damaged.
    """
    checked_size(image_size)
    listing = lister(split, checked_root(data_root))
    return Source(listing, split, resized_side(image_size), listing.facts())
