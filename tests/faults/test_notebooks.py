"""A notebook that is asked to leave, whose kernel dies, or that takes too long."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from training import TINY

from study.notebooks import ExecutionError, execute_notebook

LEAVES_WITHIN_S = 20


@pytest.mark.parametrize(
    "delay", [8.0, *(pytest.param(s, marks=pytest.mark.slow_faults) for s in (1.0, 12.0, 18.0))]
)
def test_a_notebook_that_is_asked_to_leave_does_so_at_once(delay, tmp_path, tally):
    """SIGTERM to ``kdlib run`` after ``delay`` seconds; nothing temporary is left."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    # In a folder of its own, with a temporary folder that nobody else writes to.
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(Path.cwd())}
    words = [sys.executable, "-m", "kdlib", "run", "05_distill", "--output", "out.ipynb"]
    given = {**TINY, "epochs": 500, "runs_root": tmp_path / "runs"}
    for name, value in given.items():
        words += ["-p", name, str(value)] if name != "method" else []
    process = subprocess.Popen(words, cwd=tmp_path, env=environment)
    time.sleep(delay)
    assert process.poll() is None
    start = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert time.monotonic() - start < LEAVES_WITHIN_S
    assert not list(tmp_path.glob("*out*.ipynb")) or list(tmp_path.glob("out.failed.ipynb"))
    assert not list(temporary.glob("kdlib-*"))
    tally("SIGTERM to a notebook's execution", "harmless")


@pytest.mark.parametrize(
    ("cell", "says", "fault"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "kernel died", "dead kernel"),
        ("while True: pass", "over its time limit of 2 s", "notebook over its time limit"),
    ],
)
def test_a_kernel_that_dies_or_takes_too_long(cell, says, fault, tmp_path, tally):
    content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell)])
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content.metadata["kernelspec"] = kernel
    source, start = tmp_path / "one.ipynb", time.monotonic()
    nbformat.write(content, source)
    with pytest.raises(ExecutionError, match=says):
        execute_notebook(source, tmp_path / "out.ipynb", timeout_s=2 if "time" in says else 60)
    assert time.monotonic() - start < 60
    assert not (tmp_path / "out.ipynb").exists()
    tally(fault, "told")
