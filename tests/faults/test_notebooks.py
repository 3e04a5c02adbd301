"""A notebook that is asked to leave, early and late; the rest is in ``test_execute.py``."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from training import TINY

LEAVES_WITHIN_S = 20


@pytest.mark.slow_faults
@pytest.mark.parametrize("delay", [1.0, 6.0, 12.0, 18.0])
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
