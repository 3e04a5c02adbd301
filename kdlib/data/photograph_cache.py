"""Resized photographs in a cache, so that an epoch does not wait for decoding.

A folder for a split in a state of its files holds two caches: the height and width of each
photograph, from their headers, and the pixels of all, one photograph after the other, each a unit
of its own whose checksum is compared when it is first read.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from kdlib.data.image_data import shown_lines
from kdlib.errors import KdlibError
from kdlib.files import Arrays, Cache, cache_root, chunks, write_text

if TYPE_CHECKING:
    from kdlib.data.photographs import Source

CHANNELS = 3
OWNER = "folder.txt"  # tells where the photographs of a cache lie


class Resized:
    """The resized photographs of a split, as far as they are in the cache."""

    def __init__(self, source: "Source") -> None:
        self.source, self.count = source, len(source.listing.names)
        self.kind = f"{source.listing.dataset}-{source.split}-{source.side}-"
        self.folder = cache_root() / f"{self.kind}{source.key}"
        self.shapes = Cache(f"{self.folder.name}/shapes", chunks(self.count))
        self.open()

    def open(self) -> None:
        """Find the pixels, whose places follow from the shapes."""
        unknown = np.zeros((self.count, 2), np.int64)
        self.sides = unknown if self.shapes.lacking() else self.shapes.arrays["sides"]
        ends = self.sides.prod(axis=1).cumsum() * CHANNELS
        self.pixels = Cache(f"{self.folder.name}/pixels", np.append(0, ends), mode="r")
        self.sound = np.zeros(self.count, bool)

    def is_whole(self) -> bool:
        """Whether all photographs were written."""
        return self.pixels.is_whole()

    def read(self, position: int) -> NDArray[np.uint8]:
        """One photograph (H, W, 3), a view of the file; compared when it is first read."""
        if not self.sound[position] and not self.pixels.is_sound(position):
            raise KdlibError(
                f"{self.folder} is damaged at photograph {position}: its checksum differs. "
                "Delete this folder and run again; the photographs themselves are elsewhere."
            )
        self.sound[position] = True
        start, stop = self.pixels.starts[position : position + 2]
        return self.pixels.arrays["pixels"][start:stop].reshape(*self.sides[position], CHANNELS)


def build(source: "Source", workers: int, progress: bool = True) -> Path:
    """Make the cache of a split by so many threads, or go on making it; returns its folder.

    Photographs that cannot be read are told together at the end; the others are kept.
    """
    kept, faults = Resized(source), list[str]()

    def shapes(chunk: int) -> Arrays:
        rows = range(*kept.shapes.starts[chunk : chunk + 2])
        return {"sides": np.array([source.shape(row) for row in rows], np.int64)}

    def pixels(position: int) -> Arrays | None:
        try:
            picture = source.read(position)
        except KdlibError as error:
            faults.append(str(error))
            return None
        if picture.shape != (*kept.sides[position], CHANNELS):
            raise KdlibError("A photograph has changed while the cache was made; start again.")
        return {"pixels": picture.reshape(-1)}

    kept.shapes.fill(shapes, workers, progress)
    write_text(kept.folder / OWNER, str(source.listing.folder))
    kept.open()
    kept.pixels.fill(pixels, workers, progress)
    if faults:
        raise KdlibError(
            f"{len(faults):,} photographs cannot be read; the others are kept.\n"
            f"{shown_lines(sorted(faults))}"
        )
    _remove_outdated(kept)
    return kept.folder


def _remove_outdated(kept: Resized) -> None:
    """Remove caches of earlier states of the same files, which nothing will read again."""
    for owner in cache_root().glob(f"{kept.kind}*/{OWNER}"):
        same = owner.read_text(encoding="utf-8") == str(kept.source.listing.folder)
        if same and owner.parent != kept.folder:
            shutil.rmtree(owner.parent, ignore_errors=True)
