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
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from kdlib.errors import KdlibError
from kdlib.files import checksum, locked, writing

CHUNK = 64
"""Rows made at a time: few enough that their intermediate arrays stay in the processor's cache."""
OTHERWISE = "set KDLIB_CACHE to another folder"

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
        KdlibError: the cache's folder cannot be written to, or its disk is full.
    """
    folder = usable_root() / name
    with locked(folder.with_suffix(".lock"), OTHERWISE):
        found = _read(folder)
        if found is None:
            _remove_remains(folder)
            _fill(folder, count, make, progress)
        return found or _arrays(folder)


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
    with writing(folder, OTHERWISE):
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        for file, content in _contents(temporary, count, make, progress):
            with writing(folder, OTHERWISE), file.open("ab") as end:
                end.write(content)
        with writing(folder, OTHERWISE):
            sums = {path.name: checksum(path) for path in temporary.glob("*.npy")}
            (temporary / "checksums.json").write_text(json.dumps(sums))
            temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _contents(
    folder: Path, count: int, make: Callable[[NDArray[np.int64]], Arrays], progress: bool
) -> Iterator[tuple[Path, bytes | memoryview]]:
    """What is to be appended to which file, row after row.

    Files that are mapped into memory would be written faster, but a full disk would kill then.
    """
    for rows in tqdm(list(_chunks(count)), "composing", unit="chunk", disable=not progress):
        for name, values in make(rows).items():
            path = folder / f"{name}.npy"
            if rows[0] == 0:
                yield path, _header(count, values)
            yield path, np.ascontiguousarray(values).data


def _header(count: int, values: NDArray) -> bytes:
    described = np.lib.format.header_data_from_array_1_0(values)
    header = {**described, "fortran_order": False, "shape": (count, *values.shape[1:])}
    text = BytesIO()
    np.lib.format.write_array_header_1_0(text, header)
    return text.getvalue()


def _chunks(count: int) -> Iterator[NDArray[np.int64]]:
    for start in range(0, count, CHUNK):
        yield np.arange(start, min(start + CHUNK, count))


def _read(folder: Path) -> Arrays | None:
    """The arrays of a whole cache; ``None`` if it is not there, or not as it was written."""
    try:
        sums: Mapping[str, int] = json.loads((folder / "checksums.json").read_text())
        sound = all(checksum(folder / name) == value for name, value in sums.items())
        return _arrays(folder) if sums and sound else None
    except Exception:  # whatever is wrong with it, it is made again
        return None


def _arrays(folder: Path) -> Arrays:
    paths = sorted(folder.glob("*.npy"))
    return {path.stem: np.lib.format.open_memmap(path, mode="c") for path in paths}
