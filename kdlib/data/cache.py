"""Composed images kept in memory-mapped files: made once, shared by every run and process.

Composing is vectorised, but would still cost a training epoch a good part of its time; reading
the cache costs next to nothing, and 50,000 scenes of 64 x 64 with their relevance (a bit a pixel)
take 640 MB. A cache is a folder that appears whole, by renaming, or not at all;
one that is damaged is noticed by its checksums and made again.
"""

import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from tqdm import tqdm

from kdlib.errors import KdlibError

CHUNK = 64
"""Rows made at a time: few enough that their intermediate arrays stay in the processor's cache."""

Arrays = dict[str, NDArray]


def cache_root() -> Path:
    """Where caches live: the variable ``KDLIB_CACHE``, or ``~/.cache/kdlib``."""
    return Path(os.environ.get("KDLIB_CACHE") or "~/.cache/kdlib").expanduser()


def cached(
    name: str, count: int, make: Callable[[NDArray[np.int64]], Arrays], progress: bool = True
) -> Arrays:
    """Arrays of ``count`` rows, read from the cache ``name`` or made and kept there.

    Args:
        name: folder's name; must change whenever the content would.
        count: number of rows.
        make: from row numbers (B,) to the arrays of these rows, by name.
        progress: show a progress bar while making.

    Raises:
        KdlibError: the cache's folder cannot be written to.
    """
    folder = usable_root() / name
    with FileLock(folder.with_suffix(".lock")):
        if not _is_whole(folder):
            _remove_remains(folder)
            _fill(folder, count, make, progress)
    return {path.stem: np.load(path, mmap_mode="c") for path in sorted(folder.glob("*.npy"))}


def usable_root() -> Path:
    """The folder of caches, made if need be.

    Raises:
        KdlibError: it cannot be written to.
    """
    root = cache_root()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unusable(root) from error
    if not os.access(root, os.W_OK):
        raise _unusable(root)
    return root


def _unusable(root: Path) -> KdlibError:
    return KdlibError(
        f"The cache folder {root} cannot be written to; set KDLIB_CACHE to one that can."
    )


def _remove_remains(folder: Path) -> None:
    """A damaged cache, and what a killed process left of this one (we hold its lock)."""
    for remains in (folder, *folder.parent.glob(f".{folder.name}.*")):
        shutil.rmtree(remains, ignore_errors=True)


def _fill(
    folder: Path, count: int, make: Callable[[NDArray[np.int64]], Arrays], progress: bool
) -> None:
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write_arrays(temporary, count, make, progress)
        sums = {path.name: _checksum(path) for path in temporary.glob("*.npy")}
        (temporary / "checksums.json").write_text(json.dumps(sums))
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _write_arrays(
    folder: Path, count: int, make: Callable[[NDArray[np.int64]], Arrays], progress: bool
) -> None:
    files: dict[str, NDArray] = {}
    for rows in tqdm(list(_chunks(count)), desc="composing", unit="chunk", disable=not progress):
        for name, values in make(rows).items():
            if name not in files:
                files[name] = _new_file(folder / f"{name}.npy", count, values)
            files[name][rows[0] : rows[-1] + 1] = values
    for file in files.values():
        file.flush()  # type: ignore[attr-defined]


def _new_file(path: Path, count: int, values: NDArray) -> NDArray:
    shape = (count, *values.shape[1:])
    return np.lib.format.open_memmap(path, mode="w+", dtype=values.dtype, shape=shape)


def _chunks(count: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, count, CHUNK):
        yield np.arange(start, min(start + CHUNK, count))


def _is_whole(folder: Path) -> bool:
    try:
        sums: Mapping[str, int] = json.loads((folder / "checksums.json").read_text())
        sound = all(_checksum(folder / name) == value for name, value in sums.items())
    except (OSError, ValueError, AttributeError):
        return False
    return bool(sums) and sound


def _checksum(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value
