"""A full disk: one line says which file and how much room there is; what was whole is kept."""

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
from faults.processes import check_like, copy_of, learning, outcome, remains, with_room
from photographs import write_mit67
from training import tiny

from kdlib.data import listed
from kdlib.data.cache import cached
from kdlib.data.photograph_cache import Resized
from kdlib.data.photograph_cache import build as resized_build
from kdlib.data.photographs import open_source
from kdlib.errors import KdlibError
from kdlib.files import UnwritableError, load_tensors
from kdlib.runs import run_directory
from kdlib.train import fit

LINE = r"{name} cannot be written, where [\d,]+ MB are free \(.+\)\. Make room there, or .+ again"


def check_told(error: object, name: str) -> None:
    assert isinstance(error, UnwritableError), repr(error)
    assert re.search(LINE.format(name=name), str(error)), str(error)
    assert "\n" not in str(error)


def test_a_checkpoint_that_does_not_fit(taught, tmp_path, tally):
    config = tiny(epochs=2)
    whole, root = copy_of(taught, tmp_path / "whole"), copy_of(taught, tmp_path / "full")
    fit([config], whole, progress=False)
    check_told(outcome(with_room(20_000, learning(config, root))), r"checkpoint\.safetensors")
    assert [path.name for path in run_directory(config, root).iterdir()] == ["config.json"]
    tally("disk full: checkpoint", "told")
    fit([config], root, progress=False)
    check_like(config, root, whole)
    tally("disk full: checkpoint", "recovered")


def test_the_last_good_checkpoint_is_kept(taught, tmp_path, monkeypatch, tally):
    config = tiny(epochs=3)
    whole, root = copy_of(taught, tmp_path / "whole"), copy_of(taught, tmp_path / "full")
    fit([config], whole, progress=False)
    from kdlib.trainee import Trainee

    end_epoch = Trainee.end_epoch

    def end_full(trainee, row):
        act = end_epoch if not trainee.history else with_room(20_000, end_epoch_of(trainee, row))
        return act(trainee, row) if act is end_epoch else act()

    def end_epoch_of(trainee, row):
        return lambda: end_epoch(trainee, row)

    monkeypatch.setattr(Trainee, "end_epoch", end_full)
    check_told(outcome(learning(config, root)), r"checkpoint\.safetensors")
    monkeypatch.undo()
    kept = run_directory(config, root) / "checkpoint.safetensors"
    assert len(load_tensors(kept)[1]["history"]) == 1 and not remains(root)
    fit([config], root, progress=False)
    check_like(config, root, whole)
    tally("disk full: a later checkpoint", "recovered")


def test_a_record_that_does_not_fit(taught, tmp_path, monkeypatch, tally):
    config = tiny(epochs=1)
    whole, root = copy_of(taught, tmp_path / "whole"), copy_of(taught, tmp_path / "full")
    fit([config], whole, progress=False)
    from kdlib import train
    from kdlib.runs import write_record

    write = write_record

    def write_full(*given):
        return with_room(500, lambda: write(*given))()

    monkeypatch.setattr(train, "write_record", write_full)
    check_told(outcome(learning(config, root)), r"record\.json")
    monkeypatch.undo()
    assert not (run_directory(config, root) / "record.json").exists() and not remains(root)
    fit([config], root, progress=False)
    check_like(config, root, whole)
    tally("disk full: record", "recovered")


def rows(numbers: np.ndarray) -> dict[str, np.ndarray]:
    return {"squares": np.repeat(numbers[:, None] ** 2, 100, axis=1)}


def make_cache() -> int:
    return int(cached("squares", 200, rows, progress=False)["squares"].sum())


def test_a_cache_that_does_not_fit(tmp_path, monkeypatch, tally):
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path))
    error = outcome(with_room(60_000, make_cache))
    check_told(error, "squares")
    assert "KDLIB_CACHE" in str(error)
    tally("disk full: cache", "told")
    assert outcome(make_cache) == 100 * sum(number**2 for number in range(200))
    tally("disk full: cache", "recovered")


def test_resized_photographs_that_do_not_fit(tmp_path, monkeypatch, tally):
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
    opened = open_source(resolve_name(listed()["mit67"]), "train", 28, write_mit67(tmp_path))

    def build() -> str:
        return str(resized_build(opened, workers=1, progress=False))

    error = outcome(with_room(9_000, build))
    check_told(error, opened.listing.dataset + ".*")
    assert not Resized(opened).is_whole()
    tally("disk full: resized photographs", "told")
    assert Path(outcome(build)).is_dir() and Resized(opened).is_whole()
    tally("disk full: resized photographs", "recovered")


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Callable[[int], Path]]:
    """A disk of so many KiB, or the same disk with more room; where there may be none, a skip."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted: list[Path] = []

    def sized(kib: int) -> Path:
        remount = ["-o", f"remount,size={kib}k"] if mounted else ["-o", f"size={kib}k"]
        done = subprocess.run(["mount", "-t", "tmpfs", *remount, "tmpfs", str(place)],
                              capture_output=True)  # fmt: skip
        if done.returncode:
            pytest.skip("no disk may be mounted here")
        mounted.append(place)
        return place

    yield sized
    if mounted:
        subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("kib", [12, 24, 60])
def test_a_disk_that_is_full_and_then_has_room(kib, taught, tmp_path, small_disk, tally):
    """A real one, with so many KiB left beside the teacher's files."""
    config = tiny(epochs=2)
    whole = copy_of(taught, tmp_path / "whole")
    fit([config], whole, progress=False)
    root = small_disk(100_000)
    copy_of(taught, root / "runs")
    small_disk(shutil.disk_usage(root).used // 1024 + kib)
    error = outcome(learning(config, root / "runs"))
    check_told(error, r"(checkpoint|weights)\.safetensors")
    assert not remains(root)
    small_disk(100_000)
    fit([config], root / "runs", progress=False)
    check_like(config, root / "runs", whole)
    tally("disk full: a whole disk", "recovered")


def test_a_cache_on_a_full_disk_kills_nobody(tmp_path, monkeypatch, small_disk, tally):
    """Files that are mapped into memory would: the system sends SIGBUS."""
    root = small_disk(64)
    monkeypatch.setenv("KDLIB_CACHE", str(root))
    error = outcome(make_cache)
    assert isinstance(error, KdlibError), repr(error)
    check_told(error, "squares")
    tally("disk full: a whole disk", "told")
