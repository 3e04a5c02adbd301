"""Children to whom bad things are done: killed, without room, without privileges."""

import ctypes
import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from training import history_of, result_of

from kdlib.errors import leave_when_asked
from kdlib.files import PARTIAL, load_tensors
from kdlib.runs import RunConfig, read_record, run_directory
from kdlib.train import fit

CONTEXT = multiprocessing.get_context("fork")  # an import of torch takes longer than a tiny run
VERSION_3, OVERRIDE, SEARCH = 0x20080522, 1, 2  # of capset(2), capabilities(7)
Act = Callable[[], Any]


def begin(act: Act) -> BaseProcess:
    """Start ``act`` in a child that leaves on SIGTERM as the command line does."""

    def whole() -> None:
        torch.set_num_threads(1)
        leave_when_asked()
        act()

    process = CONTEXT.Process(target=whole)
    process.start()
    return process


def ended(act: Act) -> int | None:
    """The exit status of a child that does ``act``."""
    process = begin(act)
    process.join(120)
    return process.exitcode


def outcome(act: Act) -> Any:
    """What ``act`` gives in a child, or the exception that it raised there."""
    ours, theirs = CONTEXT.Pipe()

    def answer() -> None:
        try:
            theirs.send(act())
        except Exception as error:
            theirs.send(type(error)(str(error)))  # for not every one can be sent as it is

    process = begin(answer)
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise AssertionError(f"the child left with {process.exitcode}") from None
    finally:
        process.join()


def with_room(size: int, act: Act) -> Act:
    """``act`` where no file can grow beyond ``size`` bytes."""

    def limited() -> Any:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return act()

    return limited


def unprivileged(act: Act) -> Act:
    """``act`` where permissions hold: without the capabilities by which root passes over them."""

    def limited() -> Any:
        if sys.platform == "linux" and os.geteuid() == 0:
            system = ctypes.CDLL(None, use_errno=True)
            header, sets = (ctypes.c_uint32 * 2)(VERSION_3, 0), (ctypes.c_uint32 * 6)()
            assert system.capget(header, sets) == 0
            sets[0] &= ~(1 << OVERRIDE | 1 << SEARCH)
            assert system.capset(header, sets) == 0
        return act()

    return limited


def forbid(folder: Path) -> Path:
    """Let nobody write to a folder, nor to what is in it."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    return folder


def learning(config: RunConfig, root: Path) -> Act:
    """Train a run, or go on training it."""
    return lambda: fit(config, root, progress=False)


def check_nothing_half_written(config: RunConfig, root: Path) -> None:
    """Whatever has its final name is whole."""
    directory = run_directory(config, root)
    for path in directory.glob("[!.]*.safetensors"):
        load_tensors(path)
    if (directory / "record.json").exists():
        read_record(directory / "record.json")
        assert (directory / "weights.safetensors").exists()


def check_like(config: RunConfig, root: Path, theirs: Path) -> None:
    """A run ended as an undisturbed one did, and nothing else is left of it."""
    ours = run_directory(config, root)
    records = [read_record(one / "record.json") for one in (ours, theirs)]
    assert result_of(records[0]) == result_of(records[1])
    assert history_of(ours) == history_of(theirs)
    assert {path.name for path in ours.iterdir()} == {path.name for path in theirs.iterdir()}


def remains(root: Path) -> list[Path]:
    """Files that were being written when somebody was killed."""
    return list(root.rglob(f".*{PARTIAL}"))
