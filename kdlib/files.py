"""Files that are either whole or absent, whatever happens while they are written."""

import errno
import json
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock

from kdlib.errors import KdlibError

PARTIAL = ".partial"
"""How the names of files end that are being written."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ELSEWHERE = "choose another folder"


class UnwritableError(KdlibError, OSError):
    """A file that cannot be written: the disk is full, or the folder is not ours to write to."""


@contextmanager
def writing(path: Path, otherwise: str = ELSEWHERE) -> Iterator[None]:
    """Tell a failure to write ``path`` inside in words; ``otherwise`` is what else can be done.

    Raises:
        UnwritableError: names the file, the reason, the room that is left and what to do.
    """
    try:
        yield
    except UnwritableError:
        raise
    except OSError as error:
        full = error.errno in FULL
        reason = error.strerror or str(error)
        room = f", where {_free(path) / 1e6:,.0f} MB are free" if full else ""
        remedy = "Make room there" if full else "Make it writable"
        raise UnwritableError(
            f"{path} cannot be written{room} ({reason}). {remedy}, or {otherwise}, and run again; "
            "what was whole is kept."
        ) from error


def _free(path: Path) -> int:
    """Bytes that are free where a file is, or would be."""
    existing = next(folder for folder in path.absolute().parents if folder.exists())
    return shutil.disk_usage(existing).free


@contextmanager
def locked(path: Path, otherwise: str = ELSEWHERE) -> Iterator[None]:
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
        try:  # before there is a file: who is asked to leave in between would leave one behind
            write(temporary)
            _flush_to_disk(temporary)
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def remove_remains(folder: Path) -> None:
    """Remove what killed processes left of files that they were writing in a folder.

    For who holds its lock: nobody else can be writing there.
    """
    for remains in folder.glob(f".*{PARTIAL}"):
        remains.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Atomically write UTF-8 text."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Atomically write JSON that a person can read; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def checksum(path: Path) -> int:
    """CRC-32 of a file's bytes: damage by chance does not get past it."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
