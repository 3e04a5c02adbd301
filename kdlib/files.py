"""Files that are whole or absent, whatever happens while they are written: text, JSON, tensors.

Tensors are safetensors, which never run code. What is made once and read often (composed scenes,
resized photographs) is kept in a cache.
"""

import errno
import json
import math
import os
import re
import secrets
import shlex
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from tqdm import tqdm

from kdlib.errors import KdlibError

if TYPE_CHECKING:
    from torch import Tensor, nn

PARTIAL = ".partial"  # how the names of files end that are being written
# Stands before the facts: the header has one entry, for entries have no order in it.
SEAL, UNSEALED = re.compile(rb"crc32=(\d{10}) "), b"crc32=0000000000 "
OURS = "Delete it and run again; of a finished run, delete its folder."
KINDS = {
    "run": "run", "data": "training data with the fingerprint", "teacher": "a teacher with the "
    "checksum", "evaluation": "evaluation data with the fingerprint", "of": "cached",
}  # fmt: skip
"""What the facts in a file say that it is of."""
CHUNK = 64  # rows made at a time: their intermediate arrays stay in the processor's cache
Arrays = Mapping[str, NDArray]


class UnwritableError(KdlibError, OSError):
    """The disk is full, or the folder is not ours to write to."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make the folder of ``path``; what fails to be written is an ``UnwritableError``: why."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except UnwritableError:
        raise
    except OSError as error:
        room, remedy = "", "Make it writable"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            existing = next(folder for folder in path.absolute().parents if folder.exists())
            free = shutil.disk_usage(existing).free / 1e6
            room, remedy = f", where {free:,.0f} MB are free", "Make room there"
        other = "set KDLIB_CACHE to" if path.is_relative_to(cache_root()) else "choose"
        raise UnwritableError(
            f"{path} cannot be written{room} ({error.strerror or error}). {remedy}, or {other} "
            "another folder, and run again; what was whole is kept."
        ) from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock ``path``; the system lets go of it when the process ends, however it ends."""
    with writing(path):
        held = FileLock(path).acquire()
    with held:
        yield


def write_atomic(path: Path, write: Callable[[Path], object], sync: bool = True) -> None:
    """Let ``write`` fill a temporary file beside ``path``, then rename it into place.

    A kill or a full disk (``UnwritableError``) leaves the old file or none, never half a one; with
    ``sync`` a power cut does, too.
    """
    with writing(path):
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
        try:  # before there is a file: a signal in between would leave one behind
            write(temporary)
            if sync:
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def remove_remains(folder: Path) -> None:
    """Remove what killed processes left half-written; for whoever holds the folder's lock."""
    for remains in folder.glob(f".*{PARTIAL}"):
        remains.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Atomically write UTF-8 text."""
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Atomically write JSON that a person can read; NaN and infinity are refused."""
    write_text(path, json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n")


def finite(value: Any) -> Any:
    """A measurement as JSON holds it: ``None`` for every number in it that is not finite."""
    if isinstance(value, Mapping):
        return {name: finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def save_tensors(
    path: Path, tensors: "Mapping[str, Tensor]", facts: Mapping[str, Any], sync: bool = True
) -> None:
    """Atomically write tensors with JSON ``facts`` in the header, and a checksum of all of it."""
    from safetensors.torch import save

    whole = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    content = save(whole, {"facts": UNSEALED.decode() + json.dumps(dict(facts))})
    sealed = content.replace(UNSEALED, b"crc32=%010d " % zlib.crc32(content), 1)
    write_atomic(path, lambda temporary: temporary.write_bytes(sealed), sync)


def load_tensors(path: Path, remedy: str = OURS) -> "tuple[dict[str, Tensor], dict[str, Any]]":
    """Read tensors and facts; files without a checksum, from elsewhere, are read too.

    The ``remedy`` is what the error advises: a file that is not ours must not be deleted.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        content = path.read_bytes()
        tensors = dict(sorted(load(content).items()))  # as safetensors names them
        header = content[8 : 8 + int.from_bytes(content[:8], "little")]
        seal = SEAL.search(header)
        if seal and _crc(memoryview(content), 8 + seal.start(), 8 + seal.end()) != int(seal[1]):
            raise ValueError("it is damaged: its checksum differs")
        text = json.loads(header).get("__metadata__", {}).get("facts", "{}")
        facts = json.loads(text.removeprefix(seal[0].decode()) if seal else text)
        return tensors, dict(facts)
    except (OSError, SafetensorError, ValueError, TypeError) as error:
        raise KdlibError(f"{path} cannot be read as safetensors ({error}). {remedy}") from error


def _crc(content: memoryview, start: int, end: int) -> int:
    """CRC-32 of a file whose seal, from ``start`` to ``end``, is not set; without a copy of it."""
    return zlib.crc32(content[end:], zlib.crc32(UNSEALED, zlib.crc32(content[:start])))


def checksum(tensors: "Mapping[str, Tensor]") -> str:
    """Eight hexadecimal digits of the CRC-32 of tensors and their names."""
    found = 0
    for name, tensor in sorted(tensors.items()):
        whole = (tensor.float() if tensor.is_floating_point() else tensor).detach().cpu()
        found = zlib.crc32(whole.numpy().tobytes(), zlib.crc32(name.encode(), found))
    return f"{found:08x}"


def check_identity(
    path: Path, facts: Mapping[str, Any], wanted: Mapping[str, Any], remedy: str
) -> None:
    """Refuse a file whose ``facts`` do not say that it is of what is ``wanted``, by ``KINDS``."""
    for name, value in wanted.items():
        kind, found = KINDS.get(name, name), facts.get(name)
        if found != value:
            says = f"is of {kind} {found}" if found else f"does not say of which {name} it is"
            raise KdlibError(f"{path} {says}; this needs {kind} {value}. {remedy}")


def load_weights(
    network: "nn.Module", path: Path, classes: int, wanted: Mapping[str, Any] | None = None
) -> None:
    """Load a network's weights; refuse those of other classes, architectures, or not finite.

    ``wanted`` is what a run's own file must say that it is of; ``None``: the user named the file.
    """
    remedy = OURS if wanted else _conversion(path)
    tensors, facts = load_tensors(path, remedy)
    check_identity(path, facts, wanted or {}, f"Put its own file back, or: {OURS}")
    if (found := facts.get("classes", classes)) != classes:
        says = f"The weights in {path} are of {found} classes, but the data set has {classes}"
        raise KdlibError(f"{says}. Train the teacher on it, or name the weights of one that was.")
    if not tensors:
        raise KdlibError(f"{path} holds no weights. {remedy}")
    if all(name.startswith("module.") for name in tensors):
        says = f"Every name in {path} begins with 'module.', as DataParallel's do"
        raise KdlibError(f"{says}: save the state_dict() of its .module instead.")
    if lost := not_finite(tensors):
        advice = OURS if wanted else "Name a file whose weights are finite."
        raise KdlibError(f"{path}: '{lost}' has values that are not finite. {advice}")
    own = {name: tensor.shape for name, tensor in network.state_dict().items()}
    odd = [f"{name} is missing" for name in own if name not in tensors]
    odd += [f"{name} is unknown" for name in tensors if name not in own]
    odd += [f"{n} is {[*t.shape]}" for n, t in tensors.items() if t.shape != own.get(n, t.shape)]
    if odd:  # told by us: torch takes a file without num_batches_tracked, whose checksum differs
        says = f"The weights in {path} do not fit this network: {'; '.join(odd[:3])}"
        raise KdlibError(f"{says} ({len(odd)} such). Name the architecture that they are of.")
    network.load_state_dict(tensors)


def _conversion(path: Path) -> str:
    """How a file that the user named becomes one that is read."""
    if not path.is_file():
        says = "It is a folder" if path.is_dir() else "There is no such file"
        return f"{says}: name a file of weights, which ends in .safetensors."
    made = path.with_suffix(".safetensors" if path.suffix != ".safetensors" else ".new.safetensors")
    code = (
        "import sys; from torch import load; from safetensors.torch import save_file; "
        "save_file(load(sys.argv[1], weights_only=True), sys.argv[2])"
    )
    words = shlex.join(["python", "-c", code, str(path), str(made)])
    if path.suffix == ".safetensors":
        return f"Get it again if it was cut short. If it is PyTorch's state_dict: {words}"
    return f"Weights are safetensors alone, which run no code. Of PyTorch's state_dict: {words}"


def not_finite(tensors: "Mapping[str, Tensor]") -> str | None:
    """The name of the first tensor that holds NaN or infinity."""
    return next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)


def cache_root() -> Path:
    """Where caches live: the variable ``KDLIB_CACHE``, or ``~/.cache/kdlib``."""
    return Path(os.environ.get("KDLIB_CACHE") or "~/.cache/kdlib").expanduser()


def cached(name: str, count: int, make: Callable[[NDArray[np.int64]], Arrays]) -> Arrays:
    """Arrays of ``count`` rows, read from the cache or made, of row numbers (B,), and kept there.

    The ``name`` must change whenever the content would.
    """
    folder, parts = cache_root() / name, []
    with locked(folder / "lock"):
        remove_remains(folder)
        for start in tqdm(range(0, count, CHUNK), desc=name, delay=1):
            rows = np.arange(start, min(start + CHUNK, count))
            parts.append(kept(folder / f"{start}.safetensors", partial(make, rows)))
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def kept(path: Path, make: Callable[[], Arrays]) -> Arrays:
    """Arrays read from a file of a cache; made and kept there if it is missing or damaged."""
    with suppress(KdlibError):
        return {name: tensor.numpy() for name, tensor in load_kept(path).items()}
    made = make()
    keep(path, made)
    return made


def keep(path: Path, made: Arrays) -> None:
    """Write arrays to a file of a cache, with its place in it."""
    from torch import tensor

    tensors = {name: tensor(rows) for name, rows in made.items()}
    save_tensors(path, tensors, {"of": "/".join(path.parts[-2:])}, sync=False)


def load_kept(path: Path) -> "dict[str, Tensor]":
    """What :func:`keep` wrote to this very place of a cache; else a ``KdlibError``."""
    tensors, facts = load_tensors(path)
    check_identity(path, facts, {"of": "/".join(path.parts[-2:])}, OURS)
    return tensors
