"""Children to whom bad things are done: killed, without room, without privileges."""

import ctypes
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from shutil import copytree
from typing import Any

import torch
from training import history_of, result_of

from kdlib.errors import leave_when_asked
from kdlib.files import PARTIAL, load_tensors
from kdlib.runs import RunConfig, read_record, run_directory
from kdlib.train import fit

CONTEXT = multiprocessing.get_context("fork")  # an import of torch takes longer than a tiny run
VERSION_3, OVERRIDE, SEARCH = 0x20080522, 1, 2  # of capset(2), capabilities(7)


def begin(act: Callable[[], object]) -> BaseProcess:
    """Start ``act`` in a child that leaves on SIGTERM as the command line does."""
    process = CONTEXT.Process(target=_act, args=(act,))
    process.start()
    return process


def _act(act: Callable[[], object]) -> None:
    torch.set_num_threads(1)
    leave_when_asked()
    act()


def outcome(act: Callable[[], Any]) -> Any:
    """What ``act`` gives in a child, or the exception that it raised there."""
    ours, theirs = CONTEXT.Pipe()
    process = begin(lambda: _send(theirs, act))
    theirs.close()
    try:
        found = ours.recv()
    except EOFError:
        process.join()
        raise AssertionError(f"the child left with {process.exitcode}") from None
    process.join()
    return found


def _send(to: Connection, act: Callable[[], Any]) -> None:
    try:
        found = act()
    except Exception as error:
        found = error
    to.send(found if not isinstance(found, Exception) else _plain(found))


def _plain(error: Exception) -> Exception:
    """The same error by its kind and text, for not every one can be sent."""
    return type(error)(str(error))


def with_room(size: int, act: Callable[[], Any]) -> Callable[[], Any]:
    """``act`` where no file can grow beyond ``size`` bytes."""

    def limited() -> Any:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return act()

    return limited


def unprivileged(act: Callable[[], Any]) -> Callable[[], Any]:
    """``act`` where permissions hold, even if root starts it."""

    def limited() -> Any:
        if sys.platform == "linux" and os.geteuid() == 0:
            _drop_capabilities()
        return act()

    return limited


def _drop_capabilities() -> None:
    """Give up those of capabilities(7) by which root passes over permissions."""
    system = ctypes.CDLL(None, use_errno=True)
    header, sets = (ctypes.c_uint32 * 2)(VERSION_3, 0), (ctypes.c_uint32 * 6)()
    assert system.capget(header, sets) == 0
    sets[0] &= ~(1 << OVERRIDE | 1 << SEARCH)
    assert system.capset(header, sets) == 0


def learning(config: RunConfig, root: Path) -> Callable[[], object]:
    """Train a run, or go on training it."""
    return lambda: fit([config], root, progress=False)


def copy_of(taught: Path, root: Path) -> Path:
    """A folder of runs that holds what ``taught`` does."""
    copytree(taught, root)
    return root


def check_nothing_half_written(config: RunConfig, root: Path) -> None:
    """Whatever has its final name is whole."""
    directory = run_directory(config, root)
    for path in directory.glob("[!.]*.safetensors"):
        load_tensors(path)
    if (directory / "record.json").exists():
        read_record(directory / "record.json")
        load_tensors(directory / "weights.safetensors")


def check_like(config: RunConfig, root: Path, undisturbed: Path) -> None:
    """A run ended as an undisturbed one did, and nothing else is left of it."""
    ours, theirs = (run_directory(config, one) for one in (root, undisturbed))
    records = [read_record(one / "record.json") for one in (ours, theirs)]
    assert result_of(records[0]) == result_of(records[1])
    assert history_of(ours) == history_of(theirs)
    assert {path.name for path in ours.iterdir()} == {path.name for path in theirs.iterdir()}


def remains(root: Path) -> list[Path]:
    """Files that were being written when somebody was killed."""
    return list(root.rglob(f".*{PARTIAL}"))
