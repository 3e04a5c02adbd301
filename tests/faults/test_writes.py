"""Killed while it writes what is made of records: every file is the one before or the one after."""

import os
import signal
from functools import partial
from pathlib import Path
from shutil import copytree

import processes
import pytest
from synthetic import write_grid

from kdlib import files
from kdlib.files import PARTIAL, write_text
from study.figures import draw_all
from study.ledger.page import pages
from study.pages import update_readme
from study.records import publish

MADE = {
    "records": lambda runs, out: publish(runs, out / "records"),
    "pages": lambda runs, out: update_readme(out / "README.md", [runs]),
    "ledger": lambda runs, out: [write_text(*one) for one in pages(out / "L.md", [runs]).items()],
    "figures": lambda runs, out: draw_all(runs, out / "figures"),
}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file that has its final name."""
    found = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    kept = (path for path in found if not path.name.endswith(PARTIAL))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in kept}


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> list[Path]:
    """Runs of before, and of after."""
    place = tmp_path_factory.mktemp("runs")
    before = write_grid(place / "before", ["student", "at"], seeds=[0, 1])
    after = write_grid(copytree(before, place / "after"), ["dct"], seeds=[0, 1])
    return [before, after]


SLOW = [pytest.param(name, marks=pytest.mark.slow_faults) for name in MADE if name != "records"]


@pytest.mark.parametrize("what", ["records", *SLOW])
def test_killed_within_every_write_of(what, roots, tmp_path, monkeypatch, tally):
    make, flush, parent, written = MADE[what], os.fsync, os.getpid(), []
    old, new = tmp_path / "old", tmp_path / "new"
    make(roots[0], old)
    make(roots[1], copytree(old, new))
    before, after, kills = contents(old), contents(new), 0

    def flush_or_die(file: int) -> None:
        if os.getpid() != parent:
            written.append(file)
        if len(written) == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(file)

    monkeypatch.setattr(files.os, "fsync", flush_or_die)
    for moment in range(1, 100, 9 if what == "figures" else 1):
        place = copytree(old, tmp_path / f"killed{moment}")
        status = processes.statuses(partial(make, roots[1], place))
        if status == [0]:
            break
        assert status == [-signal.SIGKILL]
        for name, content in contents(place).items():
            assert content in (before.get(name), after.get(name)), f"{name} is neither"
        make(roots[1], place)
        assert contents(place) == after
        kills += 1
        tally(f"SIGKILL within a write of {what}", "recovered")
    assert kills >= 2, "no write was met"
