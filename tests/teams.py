"""Processes that train together, forked from a test: what a launcher would start."""

import multiprocessing
import os
import socket
from collections.abc import Callable
from typing import Any

import torch
from accelerate import PartialState

from kdlib.team import Team, launched_team

PATIENCE_S = 120


def started(work: Callable[[], Any], size: int = 2) -> list[Any]:
    """``size`` processes that call ``work``, each with the environment that a launcher gives."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}

    def act(rank: str) -> None:
        sizes = dict.fromkeys(("WORLD_SIZE", "LOCAL_WORLD_SIZE"), str(size))
        os.environ.update(**shared, **sizes, RANK=rank, LOCAL_RANK=rank)
        torch.set_num_threads(1)
        PartialState._reset_state()  # what the test's own process knows of its launch
        work()

    context = multiprocessing.get_context("fork")
    found = [context.Process(target=act, args=(str(rank),)) for rank in range(size)]
    for process in found:
        process.start()
    return found


def together(work: Callable[[Team], Any], size: int = 2) -> list[Any]:
    """What ``work`` returns in each of ``size`` processes, or the error that it raises there."""
    ends = [multiprocessing.Pipe() for _ in range(size)]

    def answer() -> None:
        team = launched_team("cpu")
        try:
            ends[team.rank][1].send(work(team))
        except Exception as error:
            ends[team.rank][1].send(error)
        team.gathered(None)  # whoever ends at once takes the others' connections along

    processes = started(answer, size)
    try:
        return [theirs.recv() if theirs.poll(PATIENCE_S) else "no answer" for theirs, _ in ends]
    finally:
        for process in processes:
            process.join(PATIENCE_S)
            process.kill()
