"""A whole batch, as `make reproduce` starts it, killed with all its children at random moments."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from processes import MOMENTS
from training import check_like

ROOT = Path(__file__).parents[2]
HEAVY = ("figures/", "tests/golden/")
BATCH = ["reproduce", "PROFILE=smoke", "METHODS=student,at", "SEEDS=0,1", "IMAGES=256", "JOBS=2"]
STARTS_S = 2.0  # before that nothing is begun


def checkout(place: Path) -> Path:
    """The project as a fresh clone has it, with the environment of these tests."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if not name.startswith(HEAVY) and (ROOT / name).is_file():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, place / name)
    (place / ".venv").symlink_to(sys.prefix)
    return place


def start(place: Path) -> psutil.Popen:
    """`make reproduce` there, whose installation counts as done."""
    made = ["make", "-o", ".venv/.installed", *BATCH, f"PYTHON={sys.executable}"]
    log = (place / "log.txt").open("a")
    return psutil.Popen(made, cwd=place, stdout=log, stderr=subprocess.STDOUT)


def kill_all(batch: psutil.Popen) -> None:
    """Kill a batch, its jobs and their kernels, which are stopped first: none may start another."""
    stopped: set[psutil.Process] = set()
    while found := {batch, *batch.children(recursive=True)} - stopped:
        for one in found:
            try:
                one.suspend()
            except psutil.NoSuchProcess:
                continue
        stopped |= found
    for one in stopped:
        try:
            one.kill()
        except psutil.NoSuchProcess:
            continue
    batch.wait(20)


def finish(place: Path) -> None:
    """Let the batch come to its end."""
    assert start(place).wait(900) == 0, (place / "log.txt").read_text()[-3000:]


def check_same(ours: Path, theirs: Path) -> None:
    """Two batches left the same runs, told the same tables and drew in the same notebooks.

    A job that is killed when its runs have their records is not done again for its notebook alone.
    """
    runs = [{path.parent for path in (p / "runs").glob("*/record.json")} for p in (ours, theirs)]
    names = [{path.name for path in (p / "runs/notebooks").iterdir()} for p in (ours, theirs)]
    assert {"13_figures.ipynb"} <= names[0] <= names[1]
    assert {path.name for path in runs[0]} == {path.name for path in runs[1]}
    logs = [(place / "log.txt").read_text().rpartition("method ")[2] for place in (ours, theirs)]
    tables = [log.partition("figures: ")[0] for log in logs]
    assert tables[0] == tables[1] and "student" in tables[0]
    for one in runs[0]:
        check_like(one, theirs / "runs" / one.name)


@pytest.mark.slow_faults
def test_a_batch_is_killed_again_and_again(tmp_path, tally):
    whole, place, kills = checkout(tmp_path / "whole"), checkout(tmp_path / "killed"), 0
    begun = time.monotonic()
    finish(whole)
    lasts_s = time.monotonic() - begun
    while kills < 10:
        batch = start(place)
        try:
            batch.wait(MOMENTS.uniform(STARTS_S, lasts_s))
        except psutil.TimeoutExpired:
            kill_all(batch)
            kills += 1
            tally("SIGKILL to a whole batch at a random moment", "recovered")
            continue
        check_same(place, whole)
        shutil.rmtree(place / "runs")
    finish(place)
    check_same(place, whole)
