"""Resized photographs in a cache, so that an epoch does not wait for decoding.

A folder for a split in a state of its files holds the pixels of each photograph in a file of its
own, with a checksum that is compared whenever it is read.
"""

import errno
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from numpy.typing import NDArray
from tqdm import tqdm

from kdlib import files
from kdlib.data.image_data import shown_lines
from kdlib.errors import KdlibError

if TYPE_CHECKING:
    from kdlib.data.photographs import Source

AHEAD = 1024  # photographs that are handed to threads at a time
OWNER = "folder.txt"  # tells where the photographs of a cache lie


class Resized:
    """The resized photographs of a split, as far as they are in the cache."""

    def __init__(self, source: "Source") -> None:
        self.source, self.count = source, len(source.listing.names)
        self.kind = f"{source.listing.dataset}-{source.split}-{source.side}-"
        self.folder = files.cache_root() / f"{self.kind}{source.key}"

    def path(self, position: int) -> Path:
        """The file of a photograph."""
        return self.folder / f"{position}.safetensors"

    def read(self, position: int) -> NDArray:
        """One photograph (H, W, 3); decoded where its file is missing or damaged."""
        with suppress(KdlibError):
            return files.load_tensors(self.path(position))[0]["pixels"].numpy()
        return self.source.read(position)

    def keep(self, position: int) -> str | None:
        """Put a photograph there if it is not; what is wrong with one that cannot be read."""
        try:
            files.kept(self.path(position), lambda: {"pixels": self.source.read(position)})
        except files.UnwritableError:
            raise
        except KdlibError as error:
            return str(error)
        return None


def build(source: "Source", workers: int, progress: bool = True) -> Path:
    """Make the cache of a split by so many threads, or go on making it; returns its folder.

    Photographs that cannot be read are told together at the end; the others are kept.
    """
    cache, faults = Resized(source), list[str]()
    how = {"desc": cache.folder.name, "disable": not progress, "delay": 1}
    with (
        files.locked(cache.folder / "lock"),
        tqdm(total=cache.count, **how) as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        files.remove_remains(cache.folder)
        lacking = sum(not cache.path(position).exists() for position in range(cache.count))
        needed = 3 * source.side**2 * lacking  # at least: were all of them square
        if needed > shutil.disk_usage(cache.folder).free:
            with files.writing(cache.folder):
                raise OSError(errno.ENOSPC, f"{needed / 1e9:.2f} GB are needed")
        files.write_text(cache.folder / OWNER, str(source.listing.folder))
        for start in range(0, cache.count, AHEAD):
            for fault in pool.map(cache.keep, range(start, min(start + AHEAD, cache.count))):
                faults += [fault] if fault else []
                bar.update()
    if faults:
        raise KdlibError(
            f"{len(faults):,} photographs cannot be read; the others are kept.\n"
            f"{shown_lines(sorted(faults))}"
        )
    for owner in files.cache_root().glob(f"{cache.kind}*/{OWNER}"):  # of earlier states
        same = owner.read_text(encoding="utf-8") == str(source.listing.folder)
        if same and owner.parent != cache.folder:
            shutil.rmtree(owner.parent, ignore_errors=True)
    return cache.folder
