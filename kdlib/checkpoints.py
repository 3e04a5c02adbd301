"""Checkpoints and weights as safetensors: loading one never runs code from it."""

import errno
import json
import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn, optim

from kdlib.errors import KdlibError
from kdlib.files import write_atomic

FACTS = "facts"
SEALED = re.compile(r"crc32=(\d+) (.*)", re.DOTALL)
"""Facts with their checksum before them: one entry, for a header has no order of entries."""


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Atomically write tensors with JSON ``facts`` in the header, and a checksum of both.

    Raises:
        UnwritableError: the disk is full, say; an earlier file at ``path`` is kept.
    """
    whole = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    text = json.dumps(dict(facts))
    metadata = {FACTS: f"crc32={_checksum(whole, text)} {text}"}
    write_atomic(path, lambda temporary: _save(temporary, whole, metadata))


def _save(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:  # it names the system's error by its number alone
        code = re.search(r"os error (\d+)", str(error))
        number = int(code[1]) if code else errno.EIO
        raise OSError(number, os.strerror(number)) from error


def _checksum(tensors: Mapping[str, Tensor], facts: str) -> int:
    """CRC-32 of facts, names, shapes and contents; safetensors itself has no checksum."""
    value = zlib.crc32(facts.encode())
    for name, tensor in sorted(tensors.items()):
        value = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), value)
        value = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, value)
    return value


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``save_tensors`` wrote; files without a checksum, from elsewhere, are read too.

    Raises:
        KdlibError: the file is missing, damaged or not safetensors (a pickle, say).
    """
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


def _facts(known: Mapping[str, str], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The facts of a header, if the checksum before them is that of this file."""
    sealed = next(filter(None, map(SEALED.fullmatch, known.values())), None)
    if sealed is None:  # from before there were checksums, or from elsewhere
        return json.loads(known.get(FACTS, "{}"))
    if int(sealed[1]) != _checksum(tensors, sealed[2]):
        raise ValueError("it is damaged: its checksum differs")
    return json.loads(sealed[2])


def optimiser_state(optimiser: optim.Optimizer) -> dict[str, Tensor]:
    """What the optimiser remembers of each parameter, by its position and the memory's name."""
    states = optimiser.state_dict()["state"]
    return {
        f"{position}.{name}": value
        for position, state in states.items()
        for name, value in state.items()
        if isinstance(value, Tensor)
    }


def restore_optimiser(optimiser: optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what ``optimiser_state`` gave, or the bare momenta of an older checkpoint."""
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        position, _, name = key.partition(".")
        state.setdefault(int(position), {})[name or "momentum_buffer"] = tensor
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})


def load_weights(network: nn.Module, path: Path, classes: int) -> None:
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
