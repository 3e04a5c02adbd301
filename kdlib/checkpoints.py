"""Checkpoints and weights as safetensors: loading one never runs code from it."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn, optim

from kdlib.errors import KdlibError
from kdlib.files import write_atomic


def save_tensors(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Atomically write tensors with JSON ``facts`` in the header."""
    whole = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    metadata = {"facts": json.dumps(dict(facts))}
    write_atomic(path, lambda temporary: save_file(whole, temporary, metadata=metadata))


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what ``save_tensors`` wrote.

    Raises:
        KdlibError: the file is missing, truncated or not safetensors (a pickle, say).
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {}).get("facts", "{}"))
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise KdlibError(
            f"{path} cannot be read as safetensors ({error}). Delete it and run again."
        ) from error


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
