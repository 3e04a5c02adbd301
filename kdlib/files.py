"""Files that are whole or absent, whatever happens while they are written: text, JSON, tensors.

Tensors are kept as safetensors: loading them never runs code. What is made once and read often
(composed scenes, resized photographs) is kept in a cache of such files.
"""

import errno
import json
import os
import re
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from tqdm import tqdm

from kdlib.errors import KdlibError

if TYPE_CHECKING:
    from torch import Tensor, nn


PARTIAL = ".partial"
"""How the names of files end that are being written."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class UnwritableError(KdlibError, OSError):
    """A file that cannot be written: the disk is full, or the folder is not ours to write to."""


@contextmanager
def writing(path: Path, otherwise: str = "choose another folder") -> Iterator[None]:
    """Explain a failure to write ``path`` inside; ``otherwise`` is what else can be done.

    Raises:
        UnwritableError: names the file, the reason, the room that is left and what to do.
    """
    try:
        yield
    except UnwritableError:
        raise
    except OSError as error:
        room, remedy, reason = "", "Make it writable", error.strerror or str(error)
        if error.errno in FULL:
            existing = next(folder for folder in path.absolute().parents if folder.exists())
            free = shutil.disk_usage(existing).free / 1e6
            room, remedy = f", where {free:,.0f} MB are free", "Make room there"
        raise UnwritableError(
            f"{path} cannot be written{room} ({reason}). {remedy}, or {otherwise}, and run again; "
            "what was whole is kept."
        ) from error


@contextmanager
def locked(path: Path, otherwise: str = "choose another folder") -> Iterator[None]:
    """Hold the lock ``path``; the system lets go of it when the process ends, however it ends.

    Raises:
        UnwritableError: there can be no such file.
    """
    lock = FileLock(path)
    with writing(path, otherwise):
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it into place.

    A kill or a full disk leaves the old file (or none), never a half-written one.

    Raises:
        UnwritableError: the disk is full, say; the temporary file is removed.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
        try:  # before there is a file: a signal in between would leave one behind
            write(temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def remove_remains(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder, by whoever holds its lock."""
    for remains in folder.glob(f".*{PARTIAL}"):
        remains.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Atomically write UTF-8 text."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Atomically write JSON that a person can read; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


SEAL = re.compile(rb"crc32=(\d{10}) ")
UNSEALED = b"crc32=0000000000 "
"""Stands before the facts, whose header has one entry, for entries have no order in it."""


def save_tensors(path: Path, tensors: "Mapping[str, Tensor]", facts: Mapping[str, Any]) -> None:
    """Atomically write tensors with JSON ``facts`` in the header, and a checksum of all of it.

    Raises:
        UnwritableError: the disk is full, say; an earlier file at ``path`` is kept.
    """
    from safetensors.torch import save

    whole = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    content = save(whole, {"facts": UNSEALED.decode() + json.dumps(dict(facts))})
    seal = b"crc32=%010d " % zlib.crc32(content)
    sealed = content.replace(UNSEALED, seal, 1)
    write_atomic(path, lambda temporary: temporary.write_bytes(sealed))


def load_tensors(path: Path) -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """Read what ``save_tensors`` wrote; files without a checksum, from elsewhere, are read too.

    Raises:
        KdlibError: the file is missing, damaged or not safetensors (a pickle, say).
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        content = path.read_bytes()
        tensors = dict(sorted(load(content).items()))  # as safetensors names them
        header = content[8 : 8 + int.from_bytes(content[:8], "little")]
        seal = SEAL.search(header)
        if seal and zlib.crc32(content.replace(seal[0], UNSEALED, 1)) != int(seal[1]):
            raise ValueError("it is damaged: its checksum differs")
        text = json.loads(header).get("__metadata__", {}).get("facts", "{}")
        return tensors, json.loads(text.removeprefix(seal[0].decode()) if seal else text)
    except (OSError, SafetensorError, ValueError) as error:
        raise KdlibError(
            f"{path} cannot be read as safetensors ({error}). Delete it and run again; of a "
            "finished run, delete its folder."
        ) from error


def load_weights(network: "nn.Module", path: Path, classes: int) -> None:
    """Load a network's weights, checking that they are for as many classes.

    Raises:
        KdlibError: unreadable file, another number of classes, or another architecture.
    """
    tensors, facts = load_tensors(path)
    found = facts.get("classes", classes)
    if found != classes:
        raise KdlibError(
            f"The weights in {path} were trained for {found} classes, but the data set has "
            f"{classes}. Teacher and student must share one set of classes: train the teacher on "
            f"this data set, or name the weights of one that was."
        )
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise KdlibError(
            f"The weights in {path} do not fit this network: {error}. "
            "Name the architecture that they were trained with."
        ) from error


CHUNK = 64  # rows made at a time: their intermediate arrays stay in the processor's cache
AHEAD = 16  # units that a worker makes before they are written
OTHERWISE = "set KDLIB_CACHE to another folder"

Arrays = Mapping[str, NDArray]
Integers = NDArray[np.int64]
Make = Callable[[int], Arrays | None]
"""From a unit to its rows of each array; ``None`` leaves it out."""


def cache_root() -> Path:
    """Where caches live: the variable ``KDLIB_CACHE``, or ``~/.cache/kdlib``."""
    return Path(os.environ.get("KDLIB_CACHE") or "~/.cache/kdlib").expanduser()


def cached(
    name: str, count: int, make: Callable[[Integers], Arrays], progress: bool = True
) -> Arrays:
    """Arrays of ``count`` rows, read from the cache ``name`` or made and kept there.

    The name must change whenever the content would; ``make`` makes of row numbers (B,) the arrays
    of these rows, by name. A folder that cannot be written to, or a full disk, is told.
    """
    found = Cache(name, chunks(count))
    found.fill(lambda unit: make(np.arange(*found.starts[unit : unit + 2])), progress=progress)
    return found.arrays


def chunks(count: int) -> Integers:
    """Where each chunk of ``count`` rows starts, and where the last ends."""
    return np.append(np.arange(0, count, CHUNK), count)


class Cache:
    """Arrays in a folder, made unit by unit; ``arrays`` has none if there is no such cache yet.

    Args:
        name: folder's name; must change whenever the content would.
        starts: (U + 1,) the first row of each unit, and the number of rows.
        mode: ``c`` maps arrays so that torch may share them, ``r`` those larger than the memory.
    """

    def __init__(self, name: str, starts: Integers, mode: str = "c") -> None:
        self.folder, self.starts, self._mode = cache_root() / name, starts, mode
        self._open()

    def _open(self) -> None:
        self.arrays: dict[str, np.memmap] = {}
        self.sums = np.zeros(len(self.starts) - 1, np.uint32)
        try:
            sums, paths = np.fromfile(self.folder / "sums", np.uint32), self.folder.glob("*.npy")
            arrays = {path.stem: open_memmap(path, self._mode) for path in paths}
            lengths = {len(array) for array in arrays.values() if array.flags.c_contiguous}
        except Exception:  # a damaged header ends in whatever Python's own parser raises
            return
        if len(sums) == len(self.sums) and lengths == {self.starts[-1]}:
            self.arrays, self.sums = arrays, sums

    def is_whole(self) -> bool:
        """Whether all was written; :meth:`lacking` knows whether it is undamaged, too."""
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
        """Make what is lacking, by so many threads (0: the caller's); what is done is kept."""
        root = self.folder.parent
        with suppress(OSError):
            root.mkdir(parents=True, exist_ok=True)
        if not (root.is_dir() and os.access(root, os.W_OK)):
            raise KdlibError(
                f"The cache folder {root} cannot be written to; set KDLIB_CACHE to one that can."
            )
        with locked(self.folder.with_suffix(".lock"), OTHERWISE), writing(self.folder, OTHERWISE):
            self._open()
            if lacking := self.lacking():
                bar = tqdm(total=len(lacking), desc=self.folder.name, disable=not progress)
                for unit, rows in _made(make, lacking, workers, bar):
                    if unit == lacking[0] or not self.arrays:
                        self._prepare(lacking, rows)
                    self._write(unit, rows)
                self._open()

    def _prepare(self, lacking: list[int], rows: Arrays) -> None:
        """Make files for rows like these, unless they are there, and check that there is room."""
        if _form(rows) != _form(self.arrays):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir()
            for name, values in rows.items():  # of the full length, though they take no room yet
                shape = (int(self.starts[-1]), *values.shape[1:])
                open_memmap(self.folder / f"{name}.npy", "w+", values.dtype, shape)
            (self.folder / "sums").write_bytes(bytes(self.sums.nbytes))
            self._open()
        row = sum(array.strides[0] for array in self.arrays.values())
        needed = row * int(np.diff(self.starts)[lacking].sum())
        if needed > shutil.disk_usage(self.folder).free:
            raise OSError(errno.ENOSPC, f"{needed / 1e9:.2f} GB are needed")

    def _write(self, unit: int, rows: Arrays) -> None:
        start = int(self.starts[unit])
        for name, values in rows.items():
            array = self.arrays[name]
            _put(self.folder / f"{name}.npy", array.offset + start * array.strides[0], values)
        _put(self.folder / "sums", 4 * unit, np.array([_sum(rows, start)], np.uint32))


def _made(make: Make, units: list[int], workers: int, bar: tqdm) -> Iterator[tuple[int, Arrays]]:
    """Each unit and its rows, some of them made ahead."""
    step = AHEAD * workers or 1
    with bar, ThreadPoolExecutor(workers or 1, thread_name_prefix="cache") as pool:
        for start in range(0, len(units), step):
            group = units[start : start + step]
            for unit, rows in zip(group, (pool.map if workers else map)(make, group), strict=True):
                if rows is not None:
                    yield unit, {name: np.ascontiguousarray(rows[name]) for name in rows}
                bar.update()


def _form(arrays: Arrays) -> dict[str, tuple[str, tuple[int, ...]]]:
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
