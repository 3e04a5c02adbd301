"""Killed or asked to leave at any moment, a run ends, when it is begun again, as if nothing was."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from faults.processes import (
    begin,
    check_like,
    check_nothing_half_written,
    copy_of,
    learning,
    remains,
)
from training import TINY, tiny

from kdlib import files
from kdlib.runs import RunConfig, is_finished, run_directory

LEAVES_WITHIN_S = 20
TERMINATED = 128 + signal.SIGTERM


def undisturbed(config: RunConfig, taught: Path, folder: Path) -> tuple[Path, float]:
    """The folder of a run that nobody disturbed, and the seconds that it took."""
    root, start = copy_of(taught, folder), time.monotonic()
    process = begin(learning(config, root))
    process.join()
    assert process.exitcode == 0
    return root, time.monotonic() - start


def disturbed(config: RunConfig, root: Path, number: int, delay: float) -> bool:
    """Send a signal after a while; whether the run was still going on."""
    process = begin(learning(config, root))
    process.join(delay)
    if process.exitcode is not None:
        return False
    os.kill(process.pid, number)
    process.join(LEAVES_WITHIN_S)
    assert process.exitcode in (-signal.SIGKILL, TERMINATED, 0), "it did not leave as it should"
    if number == signal.SIGTERM:
        assert process.exitcode != -signal.SIGTERM and not remains(root)
    return process.exitcode != 0


def kill_often(
    number: int, trials: int, taught: Path, folder: Path, tally: Callable[[str, str], None]
) -> None:
    """Kill runs at random moments, one run after the other, as often as ``trials`` says."""
    name, kills, seed = signal.Signals(number).name, 0, 0
    stream = torch.Generator().manual_seed(int(number))
    while kills < trials:
        config = tiny(data_seed=seed, epochs=6)
        whole, duration = undisturbed(config, taught, folder / f"whole{seed}")
        root, here = copy_of(taught, folder / f"killed{seed}"), 0
        while kills < trials and not is_finished(config, root):
            delay = torch.rand((), generator=stream).item() * duration
            here += disturbed(config, root, number, delay)
            kills += here > 0 and not is_finished(config, root)
            check_nothing_half_written(config, root)
        last = begin(learning(config, root))
        last.join()
        assert last.exitcode == 0
        check_like(config, root, whole)
        for _ in range(here):
            tally(f"{name} at a random moment", "recovered")
        seed += 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_few_kills(number, taught, tmp_path, tally):
    kill_often(number, 3, taught, tmp_path, tally)


@pytest.mark.slow_faults
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_fifty_kills(number, taught, tmp_path, tally):
    kill_often(number, 50, taught, tmp_path, tally)


def test_killed_within_every_single_write(taught, tmp_path, monkeypatch, tally):
    config, left = tiny(epochs=2), 0
    whole, _ = undisturbed(config, taught, tmp_path / "whole")
    root, flush = copy_of(taught, tmp_path / "killed"), os.fsync
    written: list[int] = []

    def flush_or_die(file: int) -> None:
        written.append(file)
        if len(written) == died + 1:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(file)

    monkeypatch.setattr(files.os, "fsync", flush_or_die)
    for died in range(20):
        process = begin(learning(config, root))
        process.join()
        check_nothing_half_written(config, root)
        if process.exitcode == 0:
            break
        left += bool(remains(root))
        tally("SIGKILL within a write", "recovered")
        if died == 3:  # the others begin where this one left the run
            run_directory(config, root).joinpath("checkpoint.safetensors").unlink()
    assert process.exitcode == 0 and left >= 4, "no write was met"
    check_like(config, root, whole)


def test_a_notebook_that_is_asked_to_leave_does_so_at_once(tmp_path, tally):
    stop_notebook(tmp_path, 12.0, tally)


@pytest.mark.slow_faults
@pytest.mark.parametrize("delay", [1.0, 6.0, 18.0])
def test_a_notebook_leaves_at_once_whenever_it_is_asked(tmp_path, delay, tally):
    stop_notebook(tmp_path, delay, tally)


def stop_notebook(folder: Path, delay: float, tally: Callable[[str, str], None]) -> None:
    """SIGTERM to ``kdlib run`` after ``delay`` seconds; nothing temporary is left."""
    temporary = folder / "tmp"
    temporary.mkdir()
    command = [sys.executable, "-m", "kdlib", "run", "05_distill", "--output", "out.ipynb"]
    given = {**{name: value for name, value in TINY.items() if name != "method"}, "epochs": 500}
    for name, value in {**given, "runs_root": str(folder / "runs")}.items():
        command += ["-p", name, str(value)]
    # In a folder of its own, with a temporary folder that nobody else writes to.
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(Path.cwd())}
    process = subprocess.Popen(command, cwd=folder, env=environment)
    time.sleep(delay)
    assert process.poll() is None
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == TERMINATED
    assert time.monotonic() - start < LEAVES_WITHIN_S
    assert not list(folder.glob("*out*.ipynb")) or list(folder.glob("out.failed.ipynb"))
    assert not list(temporary.glob("kdlib-*"))
    tally("SIGTERM to a notebook's execution", "harmless")
