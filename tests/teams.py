"""Processes that train together, forked from a test: what a launcher would start."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
from accelerate import PartialState

from kdlib.team import Team, launched_team

PATIENCE_S = 120
Work = Callable[[Team], Any]


def started(work: Callable[[], Any], size: int = 2) -> list[Any]:
    """``size`` processes that call ``work``, each with the environment that a launcher gives."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("fork")
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    shared |= {"WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    found = []
    for rank in range(size):
        environment = {**shared, "RANK": rank, "LOCAL_RANK": rank}
        found.append(context.Process(target=_in_environment, args=(work, environment)))
        found[-1].start()
    return found


def _in_environment(work: Callable[[], Any], environment: dict[str, Any]) -> None:
    os.environ.update({name: str(value) for name, value in environment.items()})
    torch.set_num_threads(1)
    PartialState._reset_state()  # what the test's own process knows of its launch
    work()


def together(work: Work, size: int = 2) -> list[Any]:
    """What ``work`` returns in each of ``size`` processes, or the error that it raises there."""
    ends = [multiprocessing.Pipe() for _ in range(size)]
    processes = started(lambda: _answer(work, [mine for _, mine in ends]), size)
    try:
        return [theirs.recv() if theirs.poll(PATIENCE_S) else "no answer" for theirs, _ in ends]
    finally:
        for process in processes:
            process.join(PATIENCE_S)
            process.kill()


def _answer(work: Work, ends: list[Connection]) -> None:
    team = launched_team("cpu")
    try:
        ends[team.rank].send(work(team))
    except Exception as error:
        ends[team.rank].send(error)
    team.gathered(None)  # whoever ends at once takes the others' connections along
