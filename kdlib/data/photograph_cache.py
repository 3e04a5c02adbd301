"""Resized photographs in one memory-mapped file, so that an epoch does not wait for decoding.

A folder a split and a state of its files: ``index.npy`` (offset, height, width of each),
``pixels``, all photographs one after the other, and ``sums``, a checksum of each, compared when it
is first read. While they are being made the file is called ``pixels.partial``, and ``done`` has a
byte for each chunk that is safely in it: a build that was killed goes on from there, and what is
not whole is never read.
"""

import os
import shutil
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from kdlib.data.cache import OTHERWISE, cache_root, usable_root
from kdlib.data.photographs import SHOWN, Pixels, Source, resized_shape
from kdlib.errors import KdlibError
from kdlib.files import locked, write_atomic, write_text, writing

CHUNK = 64
"""Photographs between two marks of progress."""
CHANNELS = 3
SUM_BYTES = 4


class Resized:
    """A whole file of resized photographs, mapped into memory.

    Args:
        folder: one that ``is_whole``.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.index = read_index(folder)
        self.pixels = np.asarray(np.memmap(folder / "pixels", np.uint8, mode="r"))
        self.sums = np.fromfile(folder / "sums", np.uint32)
        self.sound = np.zeros(len(self.index), bool)

    def read(self, position: int) -> Pixels:
        """One photograph (H, W, 3), a view of the file.

        Raises:
            KdlibError: it is not what was written; told when it is read for the first time.
        """
        start, height, width = self.index[position].tolist()
        size = height * width * CHANNELS
        picture = self.pixels[start : start + size]
        if not self.sound[position]:
            self._check(position, picture)
        return picture.reshape(height, width, CHANNELS)

    def _check(self, position: int, picture: Pixels) -> None:
        if _sum(picture, self.index[position]) != self.sums[position]:
            raise KdlibError(
                f"{self.folder} is damaged at photograph {position}: its checksum differs. "
                "Delete this folder and run again; the photographs themselves are elsewhere."
            )
        self.sound[position] = True


def _sum(picture: Pixels, place: NDArray[np.int64]) -> int:
    """CRC-32 of a photograph and of its place."""
    return zlib.crc32(np.ascontiguousarray(picture).data, zlib.crc32(place.tobytes()))


def read_index(folder: Path) -> NDArray[np.int64]:
    """(N, 3): offset, height, width of each photograph.

    Raises:
        ValueError: the file holds something else; ``np.load`` would take archives and pickles too.
    """
    with (folder / "index.npy").open("rb") as file:
        try:
            index = np.lib.format.read_array(file, allow_pickle=False)
        except Exception as error:  # a damaged header ends in what Python's own parser raises
            raise ValueError(f"{file.name} holds no array") from error
    if index.ndim != 2 or index.shape[1] != 3 or index.dtype != np.int64:
        raise ValueError(f"{folder} has an index of another form")
    return index


def folder_of(source: Source) -> Path:
    """Where the resized photographs of a split in its present state are kept."""
    listing = source.listing
    return cache_root() / f"{listing.dataset}-{source.split}-{source.side}-{source.key}"


def is_whole(folder: Path) -> bool:
    """Whether a build ended here and its files are still as long as they were."""
    try:
        index = read_index(folder)
        sizes = [(folder / name).stat().st_size for name in ("pixels", "sums")]
        return sizes == [_total(index), SUM_BYTES * len(index)]
    except (OSError, ValueError):
        return False


def build(source: Source, workers: int, progress: bool = True) -> Path:
    """Make the file of a split, or go on making it; returns its folder.

    Args:
        source: the split's files.
        workers: threads that decode.
        progress: show a progress bar.

    Raises:
        KdlibError: photographs cannot be read (all are named, the first twenty shown), or the
            disk is full. What is done is kept.
    """
    usable_root()
    folder = folder_of(source)
    with locked(folder.with_suffix(".lock"), OTHERWISE), writing(folder, OTHERWISE):
        if not is_whole(folder):
            _make(folder, source, workers, progress)
    return folder


def _make(folder: Path, source: Source, workers: int, progress: bool) -> None:
    write_text(folder / "folder.txt", str(source.listing.folder))
    with _pool(workers) as pool:
        index = _index(folder, source, pool, progress)
        _fill(folder, source, index, pool, progress)
    _remove_outdated(folder, source)


@contextmanager
def _pool(workers: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that start nothing new once the build fails or is interrupted."""
    pool = ThreadPoolExecutor(workers, thread_name_prefix="resize")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _index(
    folder: Path, source: Source, pool: ThreadPoolExecutor, progress: bool
) -> NDArray[np.int64]:
    """(N, 3): offset, height, width of each photograph, from the headers of their files.

    One without a header takes no place here; that it cannot be read is told with all others.
    """
    path = folder / "index.npy"
    with suppress(OSError, ValueError):
        return read_index(folder)
    count = len(source.listing.names)
    shapes = pool.map(lambda position: _shape(source, position), range(count))
    bar = tqdm(shapes, "reading sizes", count, unit="image", disable=not progress)
    sides = np.array(list(bar), np.int64)
    sizes = sides.prod(axis=1) * CHANNELS
    index = np.column_stack([sizes.cumsum() - sizes, sides])
    with suppress(FileNotFoundError):  # made for another index
        (folder / "done").unlink()
    write_atomic(path, lambda temporary: _save(temporary, index))
    return index


def _shape(source: Source, position: int) -> tuple[int, int]:
    try:
        return resized_shape(source.listing.path(position), source.side)
    except KdlibError:
        return 0, 0


def _save(path: Path, index: NDArray[np.int64]) -> None:
    with path.open("wb") as file:  # given a name, numpy would add a suffix to it
        np.save(file, index)


def _total(index: NDArray[np.int64]) -> int:
    return int((index[:, 1] * index[:, 2]).sum()) * CHANNELS


def _fill(
    folder: Path,
    source: Source,
    index: NDArray[np.int64],
    pool: ThreadPoolExecutor,
    progress: bool,
) -> None:
    partial = folder / "pixels.partial"
    done, sums = _progress(folder, index, partial)
    _check_space(folder, _total(index) - (partial.stat().st_blocks * 512))
    with partial.open("r+b") as file:
        file.truncate(_total(index))
        jobs = {
            pool.submit(_write_chunk, file.fileno(), source, index, sums, chunk): chunk
            for chunk in np.flatnonzero(done == 0).tolist()
        }
        faults: list[str] = []
        bar = tqdm(total=len(done) * CHUNK, initial=int(done.sum()) * CHUNK, desc="resizing",
                   unit="image", disable=not progress)  # fmt: skip
        with bar:
            for job in as_completed(jobs):
                faults += job.result()
                sums.flush()
                done[jobs[job]] = not job.result()
                bar.update(CHUNK)
    if faults:
        raise _unreadable(sorted(faults))
    partial.replace(folder / "pixels")
    (folder / "done").unlink()


def _progress(
    folder: Path, index: NDArray[np.int64], partial: Path
) -> tuple[NDArray[np.uint8], np.memmap]:
    """A byte a chunk, 1 where it is in the file, and a checksum a photograph; both on the disk."""
    sizes = {"done": -(-len(index) // CHUNK), "sums": SUM_BYTES * len(index)}
    known = all(_has_size(folder / name, size) for name, size in sizes.items())
    if not (partial.exists() and known):
        partial.write_bytes(b"")
        for name, size in sizes.items():  # zeros take their room now: no full disk later
            (folder / name).write_bytes(bytes(size))
    done = np.memmap(folder / "done", np.uint8, mode="r+")
    return done, np.memmap(folder / "sums", np.uint32, mode="r+")


def _has_size(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size == size


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise KdlibError(
            f"{folder.parent} has {free / 1e9:.1f} GB left, but the resized photographs need "
            f"{needed / 1e9:.1f} GB. Make room, or set KDLIB_CACHE to another folder."
        )


def _write_chunk(
    file: int, source: Source, index: NDArray[np.int64], sums: NDArray[np.uint32], chunk: int
) -> list[str]:
    """Decode and write a chunk, down to the disk; returns what is wrong with its photographs."""
    faults = []
    for position in range(chunk * CHUNK, min((chunk + 1) * CHUNK, len(index))):
        try:
            picture = source.read(position)
        except KdlibError as error:
            faults.append(str(error))
        else:
            _write(file, picture, index[position])
            sums[position] = _sum(picture, index[position])
    os.fsync(file)
    return faults


def _write(file: int, picture: Pixels, place: NDArray[np.int64]) -> None:
    start, height, width = place.tolist()
    if picture.shape != (height, width, CHANNELS):
        raise KdlibError("A photograph has changed while the cache was made; start again.")
    content = memoryview(cast("bytes", np.ascontiguousarray(picture).data)).cast("B")
    while content:
        written = os.pwrite(file, content, start)
        start, content = start + written, content[written:]


def _unreadable(faults: list[str]) -> KdlibError:
    more = f"\n... and {len(faults) - SHOWN:,} more" if len(faults) > SHOWN else ""
    return KdlibError(
        f"{len(faults):,} photographs cannot be read; the others are kept.\n"
        + "\n".join(faults[:SHOWN])
        + more
    )


def _remove_outdated(folder: Path, source: Source) -> None:
    """Earlier states of the same files, which nothing will read again."""
    stem = folder.name.removesuffix(source.key)
    for other in folder.parent.glob(f"{stem}*/folder.txt"):
        same = other.read_text(encoding="utf-8") == str(source.listing.folder)
        if same and other.parent != folder:
            shutil.rmtree(other.parent, ignore_errors=True)
