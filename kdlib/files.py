"""Files that are whole or absent, whatever happens while they are written: text, JSON, tensors.

Tensors are kept as safetensors: loading them never runs code.
"""

import errno
import json
import os
import re
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from kdlib.errors import KdlibError

if TYPE_CHECKING:
    from torch import Tensor, nn

PARTIAL = ".partial"
"""How the names of files end that are being written."""
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ELSEWHERE = "choose another folder"


class UnwritableError(KdlibError, OSError):
    """A file that cannot be written: the disk is full, or the folder is not ours to write to."""


@contextmanager
def writing(path: Path, otherwise: str = ELSEWHERE) -> Iterator[None]:
    """Explain a failure to write ``path`` inside; ``otherwise`` is what else can be done.

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
        try:  # before there is a file: a signal in between would leave one behind
            write(temporary)
            _flush_to_disk(temporary)
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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


def checksum(path: Path) -> int:
    """CRC-32 of a file's bytes: damage by chance does not get past it."""
    value = 0
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            value = zlib.crc32(block, value)
    return value


SEALED = re.compile(r"crc32=(\d+) (.*)", re.DOTALL)
"""Facts with their checksum before them: one entry, for a header has no order of entries."""


def save_tensors(path: Path, tensors: "Mapping[str, Tensor]", facts: Mapping[str, Any]) -> None:
    """Atomically write tensors with JSON ``facts`` in the header, and a checksum of both.

    Raises:
        UnwritableError: the disk is full, say; an earlier file at ``path`` is kept.
    """
    whole = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    text = json.dumps(dict(facts))
    metadata = {"facts": f"crc32={_checksum(whole, text)} {text}"}
    write_atomic(path, lambda temporary: _save(temporary, whole, metadata))


def _save(path: Path, tensors: "dict[str, Tensor]", metadata: dict[str, str]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:  # it names the system's error by its number alone
        code = re.search(r"os error (\d+)", str(error))
        number = int(code[1]) if code else errno.EIO
        raise OSError(number, os.strerror(number)) from error


def _checksum(tensors: "Mapping[str, Tensor]", facts: str) -> int:
    """CRC-32 of facts, names, shapes and contents; safetensors itself has no checksum."""
    import torch

    value = zlib.crc32(facts.encode())
    for name, tensor in sorted(tensors.items()):
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return value


def load_tensors(path: Path) -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """Read what ``save_tensors`` wrote; files without a checksum, from elsewhere, are read too.

    Raises:
        KdlibError: the file is missing, damaged or not safetensors (a pickle, say).
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            known = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, _facts(known, tensors)
    except (OSError, SafetensorError, ValueError) as error:
        raise KdlibError(
            f"{path} cannot be read as safetensors ({error}). Delete it and run again; of a "
            "finished run, delete its folder."
        ) from error


def _facts(known: Mapping[str, str], tensors: "Mapping[str, Tensor]") -> dict[str, Any]:
    """The facts of a header, if the checksum before them is that of this file."""
    sealed = next(filter(None, map(SEALED.fullmatch, known.values())), None)
    if sealed is None:
        return json.loads(known.get("facts", "{}"))
    if int(sealed[1]) != _checksum(tensors, sealed[2]):
        raise ValueError("it is damaged: its checksum differs")
    return json.loads(sealed[2])


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
