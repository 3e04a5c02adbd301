"""The numbers stay: the same configurations, and the same bits as the commit before the rebuild."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
TREE = HERE.parents[1]
BASE = "af1d304"
"""The commit whose numbers are kept."""


def script(name, *arguments):
    """Run one of the net's scripts with the code of this tree."""
    command = [sys.executable, HERE / name, *arguments]
    environment = {**os.environ, "PYTHONPATH": str(TREE)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_profile_has_the_configurations_that_it_had(monkeypatch):
    monkeypatch.syspath_prepend(HERE)
    from configurations import lines

    now, kept = lines(), (HERE / "configurations.txt").read_text().splitlines()
    assert (sorted({*now} - {*kept}), sorted({*kept} - {*now})) == ([], [])
    assert now == kept


@pytest.mark.safety
def test_lock_step_and_stopped_runs_end_as_runs_alone(tmp_path):
    script("remake.py", tmp_path / "now.json", "together,stopped at+kd")


@pytest.mark.safety
def test_every_kind_of_run_is_the_same_to_the_bit(tmp_path):
    base = subprocess.run(["git", "archive", BASE], cwd=TREE, capture_output=True)
    if base.returncode:
        pytest.skip(f"commit {BASE} is not in this clone: get the whole history to compare with it")
    subprocess.run(["tar", "-x", "-C", tmp_path], input=base.stdout, check=True)
    script("compare.py", tmp_path, TREE)
