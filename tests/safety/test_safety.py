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


def script(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run one of the net's scripts with the code of this tree."""
    command = [sys.executable, str(HERE / name), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(TREE)}
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def git(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Ask git about this tree."""
    command = ["git", "-C", str(TREE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def test_every_profile_has_the_configurations_that_it_had(tmp_path):
    done = script("configurations.py", tmp_path / "now.txt")
    assert done.returncode == 0, done.stderr
    now = (tmp_path / "now.txt").read_text().splitlines()
    kept = (HERE / "configurations.txt").read_text().splitlines()
    assert (sorted({*now} - {*kept}), sorted({*kept} - {*now})) == ([], [])
    assert now == kept


@pytest.mark.safety
def test_lock_step_and_stopped_runs_end_as_runs_alone(tmp_path):
    done = script("remake.py", tmp_path / "now.json", "--only", "together,stopped at+kd")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def base(tmp_path):
    """A tree of the commit whose numbers are kept."""
    if git("cat-file", "-e", f"{BASE}^{{commit}}").returncode:
        pytest.skip(f"commit {BASE} is not in this clone: get the whole history to compare with it")
    tree = tmp_path / "base"
    added = git("worktree", "add", "--detach", tree, BASE)
    assert added.returncode == 0, added.stderr
    yield tree
    git("worktree", "remove", "--force", tree)


@pytest.mark.safety
def test_every_kind_of_run_is_the_same_to_the_bit(base):
    done = script("compare.py", base, TREE)
    assert done.returncode == 0, done.stdout + done.stderr
