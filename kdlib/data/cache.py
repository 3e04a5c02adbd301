"""Arrays kept in memory-mapped files: made once, shared by every run and process.

A cache is a folder with a ``.npy`` file for each array and ``sums``, a checksum (CRC-32) of each
unit of their rows, 0 where it was not written yet. So a build that was killed goes on, what is
damaged is noticed, and only that is made again.
"""

import errno
import math
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from kdlib.errors import KdlibError
from kdlib.files import locked, writing

CHUNK = 64
"""Rows made at a time: few enough that their intermediate arrays stay in the processor's cache."""
AHEAD = 16
"""Units that a worker makes before they are written."""
SUMS = "sums"
OTHERWISE = "set KDLIB_CACHE to another folder"

Arrays = dict[str, NDArray]
Integers = NDArray[np.int64]
Make = Callable[[int], Arrays | None]


def cache_root() -> Path:
    """Where caches live: the variable ``KDLIB_CACHE``, or ``~/.cache/kdlib``."""
    return Path(os.environ.get("KDLIB_CACHE") or "~/.cache/kdlib").expanduser()


def cached(
    name: str,
    count: int,
    make: Callable[[Integers], Arrays],
    workers: int = 0,
    progress: bool = True,
) -> Arrays:
    """Arrays of ``count`` rows, read from the cache ``name`` or made and kept there.

    Args:
        name: folder's name; must change whenever the content would.
        count: number of rows.
        make: from row numbers (B,) to the arrays of these rows, by name.
        workers: threads that make rows; 0 for none but the caller's.
        progress: show a progress bar while making.

    Raises:
        KdlibError: the cache's folder cannot be written to, or its disk is full.
    """
    found = Cache(name, chunks(count))
    found.fill(lambda unit: make(np.arange(*found.starts[unit : unit + 2])), workers, progress)
    return found.arrays


def chunks(count: int) -> Integers:
    """Where each chunk of ``count`` rows starts, and where the last ends."""
    return np.append(np.arange(0, count, CHUNK), count)


class Cache:
    """Arrays in a folder, made unit by unit.

    Args:
        name: folder's name; must change whenever the content would.
        starts: (U + 1,) the first row of each unit, and the number of rows.
        mode: ``c`` maps arrays so that torch may share them, ``r`` those that are larger than
            the memory.

    Attributes:
        arrays: by name, mapped into memory; none if there is no such cache yet.
        sums: (U,) the checksum of each unit, 0 where it was not made yet.
    """

    def __init__(self, name: str, starts: Integers, mode: str = "c") -> None:
        self.folder, self.starts, self._mode = cache_root() / name, starts, mode
        self._open()

    def _open(self) -> None:
        self.arrays: Arrays = {}
        self.sums = np.zeros(len(self.starts) - 1, np.uint32)
        try:
            sums = np.fromfile(self.folder / SUMS, np.uint32)
            arrays = {path.stem: self._mapped(path) for path in sorted(self.folder.glob("*.npy"))}
            lengths = {len(array) for array in arrays.values() if array.flags.c_contiguous}
        except Exception:  # a damaged header ends in whatever Python's own parser raises
            return
        if len(sums) == len(self.sums) and lengths == {self.starts[-1]}:
            self.arrays, self.sums = arrays, sums

    def _mapped(self, path: Path) -> NDArray:
        return np.asarray(np.lib.format.open_memmap(path, mode=self._mode))

    def is_whole(self) -> bool:
        """Whether all of it was written; that it is undamaged is for :meth:`is_sound` to say."""
        return bool(self.sums.all())

    def is_sound(self, unit: int) -> bool:
        """Whether a unit is what was written."""
        start, stop = self.starts[unit : unit + 2]
        rows = {name: array[start:stop] for name, array in self.arrays.items()}
        return bool(self.sums[unit]) and self.sums[unit] == _sum(rows, start)

    def lacking(self) -> list[int]:
        """Units that are not there, or not as they were written."""
        return [unit for unit in range(len(self.sums)) if not self.is_sound(unit)]

    def fill(self, make: Make, workers: int = 0, progress: bool = True) -> None:
        """Make what is lacking.

        Args:
            make: from a unit to its rows, by name; ``None`` leaves it out.
            workers: threads that make units; 0 for none but the caller's.
            progress: show a progress bar.

        Raises:
            KdlibError: the folder cannot be written to, or the disk is full. What is done is kept.
        """
        usable_root()
        with locked(self.folder.with_suffix(".lock"), OTHERWISE), writing(self.folder, OTHERWISE):
            self._open()
            if lacking := self.lacking():
                bar = tqdm(total=len(lacking), desc=self.folder.name, disable=not progress)
                self._fill(lacking, _made(make, lacking, workers, bar))
                self._open()

    def _fill(self, lacking: list[int], made: Iterator[tuple[int, Arrays]]) -> None:
        for number, (unit, rows) in enumerate(made):
            if _form(rows) != _form(self.arrays):
                self._begin(rows)
            if number == 0:
                self._check_room(lacking)
            start = int(self.starts[unit])
            for name, values in rows.items():
                path, array = self.folder / f"{name}.npy", self.arrays[name]
                header = path.stat().st_size - array.nbytes
                _put(path, header + start * array.strides[0], values)
            _put(self.folder / SUMS, 4 * unit, np.array([_sum(rows, start)], np.uint32))

    def _begin(self, example: Arrays) -> None:
        """Make files of the full length for rows like these; they take no room yet."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        for name, values in example.items():
            shape = (int(self.starts[-1]), *values.shape[1:])
            described = np.lib.format.header_data_from_array_1_0(values)
            header = {**described, "fortran_order": False, "shape": shape}
            with (self.folder / f"{name}.npy").open("wb") as file:
                np.lib.format.write_array_header_1_0(file, header)
                file.truncate(file.tell() + math.prod(shape) * values.itemsize)
        (self.folder / SUMS).write_bytes(bytes(self.sums.nbytes))
        self._open()

    def _check_room(self, lacking: list[int]) -> None:
        rows = int(np.diff(self.starts)[lacking].sum())
        needed = rows * sum(array.strides[0] for array in self.arrays.values())
        if needed > shutil.disk_usage(self.folder).free:
            raise OSError(errno.ENOSPC, f"{needed / 1e9:.2f} GB are needed")


def _made(make: Make, units: list[int], workers: int, bar: tqdm) -> Iterator[tuple[int, Arrays]]:
    """Each unit that is not left out and its rows, some of them made ahead."""
    step = AHEAD * workers or 1
    with bar, ThreadPoolExecutor(workers or 1, thread_name_prefix="cache") as pool:
        for start in range(0, len(units), step):
            group = units[start : start + step]
            for unit, rows in zip(group, (pool.map if workers else map)(make, group), strict=True):
                if rows is not None:
                    yield unit, {name: np.ascontiguousarray(rows[name]) for name in rows}
                bar.update()


def _form(arrays: Arrays) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Of what kind and shape rows are."""
    return {name: (array.dtype.str, array.shape[1:]) for name, array in arrays.items()}


def _sum(rows: Arrays, start: int) -> int:
    """CRC-32 of a unit's rows, of their form and their place; never 0."""
    total = 0
    for name in sorted(rows):
        facts = (name, rows[name].dtype.str, rows[name].shape, int(start))
        total = zlib.crc32(rows[name].data, zlib.crc32(repr(facts).encode(), total))
    return total or 1


def _put(path: Path, place: int, values: NDArray) -> None:
    """Written, not mapped into memory: a full disk would kill who writes to a map."""
    with path.open("r+b") as file:
        file.seek(place)
        file.write(values.data)


def usable_root() -> Path:
    """The folder of caches, made if need be.

    Raises:
        KdlibError: it cannot be written to.
    """
    root = cache_root()
    with suppress(OSError):
        root.mkdir(parents=True, exist_ok=True)
    if not (root.is_dir() and os.access(root, os.W_OK)):
        raise KdlibError(
            f"The cache folder {root} cannot be written to; set KDLIB_CACHE to one that can."
        )
    return root
