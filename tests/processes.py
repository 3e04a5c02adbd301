"""Children to whom bad things are done: killed, without room, without privileges."""

import ctypes
import multiprocessing
import os
import random
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from kdlib.errors import leave_when_asked
from kdlib.files import UnwritableError

CONTEXT = multiprocessing.get_context("fork")  # an import of torch takes longer than a tiny run
PATIENCE_S, ROOT = 120, Path(__file__).parents[1]
VERSION_3, OVERRIDE, SEARCH = 0x20080522, 1, 2  # of capset(2), capabilities(7)
MOMENTS = random.Random(0)
FULL = r"{} cannot be written, where [\d,]+ MB are free \(.+\)\. Make room there, or .+ again"
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


def statuses(*acts: Act) -> list[int | None]:
    """The exit statuses of children that do ``acts`` side by side."""
    processes = [begin(act) for act in acts]
    for process in processes:
        process.join(PATIENCE_S)
    return [process.exitcode for process in processes]


def outcomes(*acts: Act) -> list[Any]:
    """What ``acts`` give in children side by side, or the exceptions that they raised there."""

    def answer(act: Act, end: Any) -> None:
        try:
            end.send(act())
        except Exception as error:
            end.send(type(error)(str(error)))  # for not every one can be sent as it is

    ends, processes = [], []
    for act in acts:
        ours, theirs = CONTEXT.Pipe()
        processes.append(begin(partial(answer, act, theirs)))
        ends.append(ours)
        theirs.close()  # so that a child that leaves without an answer is an EOFError here
    try:
        return [end.recv() if end.poll(PATIENCE_S) else "no answer" for end in ends]
    finally:
        for process in processes:
            process.join(PATIENCE_S)
            process.kill()


def killed(act: Act, within_s: float, number: int = signal.SIGKILL) -> Iterator[None]:
    """Start ``act`` anew until it ends by itself, 30 times at most; yields after each kill."""
    for _ in range(30):
        process = begin(act)
        process.join(MOMENTS.uniform(0.1, 0.1 + within_s))
        if process.exitcode is None:
            os.kill(process.pid, number)
            process.join(PATIENCE_S / 6)
        if process.exitcode == 0:
            return
        assert process.exitcode == (-number if number == signal.SIGKILL else 128 + number)
        yield


def with_room(size: int, act: Act) -> Act:
    """``act`` where no file can grow beyond ``size`` bytes."""

    def limited() -> Any:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return act()

    return limited


def check_full(error: object, name: str) -> None:
    """The error says that there was no room for the file ``name``, and what to do."""
    assert isinstance(error, UnwritableError), repr(error)
    assert re.search(FULL.format(name), str(error)) and "\n" not in str(error), str(error)


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


def make(*words: str, where: Path = ROOT, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Call make itself, with variables of the environment, as if no other make had called us."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    environment = {**own, "PYTHON": sys.executable, **variables}
    return subprocess.run(
        ["make", *words], cwd=where, env=environment, capture_output=True, text=True
    )


def forbid(folder: Path) -> Path:
    """Let nobody write to a folder, nor to what is in it."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    return folder
