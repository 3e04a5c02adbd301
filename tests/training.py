"""The smallest run that still has a teacher, a student and all loss terms."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from kdlib.runs import RunConfig

TINY: dict[str, Any] = {
    "student": "scenes_small", "teacher": "scenes_small", "train_size": 64, "test_size": 32,
    "image_size": 32, "batch_size": 32, "epochs": 3, "teacher_epochs": 1, "method": "dct+kd",
}  # fmt: skip


def tiny(**changes: Any) -> RunConfig:
    """A tiny run with some fields changed."""
    return RunConfig(**{**TINY, **changes}).canonical()


def result_of(record: dict[str, Any]) -> dict[str, Any]:
    """What must be equal in two records of one run: all but timings and the clock."""
    kept = {k: v for k, v in record.items() if k not in ("cost", "provenance")}
    return {**kept, "parameters": record["cost"]["parameters"]}


def history_of(directory: Path) -> list[str]:
    """The history without its last column, the seconds."""
    lines = (directory / "history.csv").read_text().splitlines()
    return [line.rsplit(",", 1)[0] for line in lines]


def killed_at_random(learn: Callable[[Path], object], root: Path, duration: float) -> int:
    """Start ``learn(root)`` anew until it ends by itself; how often it was killed, 30 at most.

    ``duration`` are the seconds that it takes undisturbed; a kill comes within half of it.
    """

    def alone() -> None:
        torch.set_num_threads(1)
        learn(root)

    stream = torch.Generator().manual_seed(0)
    for kills in range(30):
        process = multiprocessing.get_context("fork").Process(target=alone)
        process.start()
        process.join(0.1 + torch.rand((), generator=stream).item() * duration / 2)
        if process.exitcode == 0:
            return kills
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    return 30
