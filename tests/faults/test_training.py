"""Killed, without room, side by side, in the wrong time: a run ends as if nothing had happened."""

import datetime
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from faults.processes import (
    begin,
    check_like,
    check_nothing_half_written,
    ended,
    forbid,
    learning,
    outcome,
    remains,
    unprivileged,
    with_room,
)
from training import result_of, tiny

from kdlib import files, train
from kdlib.errors import KdlibError
from kdlib.files import UnwritableError, load_tensors
from kdlib.runs import is_finished, read_record, run_directory
from kdlib.train import fit
from kdlib.trainee import Trainee
from study.jobs import plan

LEAVES_WITHIN_S = 20
CHECKPOINT, WEIGHTS = "checkpoint.safetensors", "weights.safetensors"
FULL = r"{name} cannot be written, where [\d,]+ MB are free \(.+\)\. Make room there, or .+ again"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("trials", [3, pytest.param(50, marks=pytest.mark.slow_faults)])
def test_killed_at_random_moments(number, trials, taught, tmp_path, undisturbed, tally):
    """One run after the other, until there were so many kills."""
    kills, seed, stream = 0, 0, torch.Generator().manual_seed(int(number))
    while kills < trials:
        config, seed = tiny(data_seed=seed, epochs=6), seed + 1
        whole, root = undisturbed(config), shutil.copytree(taught, tmp_path / f"killed{seed}")
        ends = [(whole / name).stat().st_mtime for name in ("config.json", "record.json")]
        here = 0
        while kills < trials and not is_finished(config, root):
            process = begin(learning(config, root))
            process.join(0.1 + torch.rand((), generator=stream).item() * (ends[1] - ends[0]))
            if process.exitcode is None:
                os.kill(process.pid, number)
                process.join(LEAVES_WITHIN_S)
                expected = -number if number == signal.SIGKILL else 128 + number
                assert process.exitcode in (expected, 0), "it did not leave as it should"
                assert number == signal.SIGKILL or not remains(root)
                here += process.exitcode != 0
            kills += here > 0 and not is_finished(config, root)
            check_nothing_half_written(config, root)
        assert ended(learning(config, root)) == 0
        check_like(config, root, whole)
        for _ in range(here):
            tally(f"{signal.Signals(number).name} at a random moment", "recovered")


def test_killed_within_every_single_write(root, undisturbed, monkeypatch, tally):
    config, left, flush = tiny(epochs=2), 0, os.fsync
    whole, written = undisturbed(config), []

    def flush_or_die(file: int) -> None:
        written.append(file)
        if len(written) == died + 1:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(file)

    monkeypatch.setattr(files.os, "fsync", flush_or_die)
    for died in range(20):
        status = ended(learning(config, root))
        check_nothing_half_written(config, root)
        if status == 0:
            break
        left += bool(remains(root))
        tally("SIGKILL within a write", "recovered")
        if died == 3:  # the others begin where this one left the run
            run_directory(config, root).joinpath(CHECKPOINT).unlink()
    assert status == 0 and left >= 4, "no write was met"
    check_like(config, root, whole)


def check_told(error: object, name: str) -> None:
    assert isinstance(error, UnwritableError), repr(error)
    assert re.search(FULL.format(name=name), str(error)) and "\n" not in str(error), str(error)


@pytest.mark.parametrize(
    ("what", "owner", "act", "size", "kept"),
    [
        (CHECKPOINT, Trainee, "end_epoch", 20_000, []),
        (f"a later {CHECKPOINT}", Trainee, "end_epoch", 20_000, [CHECKPOINT]),
        ("record.json", train, "write_record", 500, [CHECKPOINT, "history.csv", WEIGHTS]),
    ],
)
def test_no_room_for(what, owner, act, size, kept, root, undisturbed, monkeypatch, tally):
    config, usual, fault = tiny(epochs=2), getattr(owner, act), f"disk full: {what.split('.')[0]}"
    whole, directory = undisturbed(config), run_directory(config, root)

    def filled(first, *given):
        full = "later" not in what or first.history
        return with_room(size, lambda: usual(first, *given))() if full else usual(first, *given)

    with monkeypatch.context() as patch:
        patch.setattr(owner, act, filled)
        check_told(outcome(learning(config, root)), what.split()[-1])
    tally(fault, "told")
    assert {path.name for path in directory.iterdir()} == {"config.json", *kept}
    if "later" in what:
        assert len(load_tensors(directory / kept[0])[1]["history"]) == 1
    fit(config, root, progress=False)
    check_like(config, root, whole)
    tally(fault, "recovered")


def mount(disk: Path, kib: int, *how: str) -> bool:
    """Make a folder a disk of so many KiB; whether that may be done here."""
    options = ",".join([*how, f"size={kib}k"])
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.parametrize("kib", [12, 60])
def test_a_disk_that_is_full_and_then_has_room(kib, taught, tmp_path, undisturbed, tally):
    """A real one, with so many KiB left beside the teacher's files."""
    if not mount(tmp_path, 100_000):
        pytest.skip("no disk may be mounted here")
    try:
        config, root = tiny(epochs=2), shutil.copytree(taught, tmp_path / "runs")
        mount(tmp_path, shutil.disk_usage(tmp_path).used // 1024 + kib, "remount")
        check_told(outcome(learning(config, root)), r"(checkpoint|weights)\.safetensors")
        assert not remains(root)
        mount(tmp_path, 100_000, "remount")
        fit(config, root, progress=False)
        check_like(config, root, undisturbed(config))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    tally("disk full: a whole disk", "recovered")


def test_a_folder_of_runs_that_cannot_be_written_to_is_told(tmp_path, tally):
    (tmp_path / "runs").mkdir()
    error = outcome(unprivileged(learning(tiny(method="student"), forbid(tmp_path / "runs"))))
    assert isinstance(error, UnwritableError), repr(error)
    assert "Make it writable, or choose another folder" in str(error) and "\n" not in str(error)
    tally("read-only folder of runs", "told")


def test_a_loss_that_is_not_finite_after_a_good_epoch(root, undisturbed, monkeypatch, tally):
    config, step = tiny(epochs=2), Trainee.step
    checkpoint = run_directory(config, root) / CHECKPOINT

    def spoilt(trainee, *given):
        if trainee.history:  # in the second epoch
            torch.nn.init.constant_(next(trainee.student.parameters()), float("nan"))
        return step(trainee, *given)

    says = r"not finite in epoch 2, step 1 .*ce nan.*learning rate 0\.\d+.*last good epoch is kept"
    with monkeypatch.context() as patch:
        patch.setattr(Trainee, "step", spoilt)
        with pytest.raises(KdlibError, match=says):
            fit(config, root, progress=False)
    assert len(load_tensors(checkpoint)[1]["history"]) == 1 and not is_finished(config, root)
    tally("loss is NaN", "told")
    fit(config, root, progress=False)
    check_like(config, root, undisturbed(config))
    tally("loss is NaN", "recovered")


@pytest.mark.parametrize("killed", [False, True])
def test_two_processes_train_a_run_once(killed, root, undisturbed, tmp_path, tally):
    """Each epoch that anybody ends leaves a line; if the first is killed, the second goes on."""
    config, epochs = tiny(epochs=2), tmp_path / "epochs"

    def count(config, row) -> None:
        with epochs.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.5 if killed else 0.1)

    def slowly() -> None:
        fit(config, root, progress=False, on_epoch=count)

    first = begin(slowly)
    while not epochs.exists():
        time.sleep(0.01)
    second = begin(slowly)
    if killed:
        time.sleep(0.2)
        os.kill(first.pid, signal.SIGKILL)
    for process in (first, second):
        process.join(120)
    assert (first.exitcode, second.exitcode) == (-signal.SIGKILL if killed else 0, 0)
    trained = epochs.read_text().split()
    assert trained == [str(first.pid), str(second.pid if killed else first.pid)]
    check_like(config, root, undisturbed(config))
    tally("two processes, one is killed" if killed else "two processes on one run", "recovered")


class BackwardClock(datetime.datetime):
    """Of a day in the past, though files are of today."""

    @classmethod
    def now(cls, tz=None):
        return super().now(tz) - datetime.timedelta(days=1000)


def test_a_clock_that_goes_backwards_and_files_of_the_future(root, undisturbed, monkeypatch, tally):
    config, start, calls = tiny(epochs=2), time.time(), iter(range(10**9))

    def from_2038() -> None:
        for path in root.rglob("*"):
            os.utime(path, (2**31 - 1, 2**31 - 1))

    from_2038()
    monkeypatch.setattr(time, "time", lambda: start - 3600 * next(calls))
    monkeypatch.setattr("kdlib.runs.datetime", BackwardClock)
    found = fit(config, root, progress=False)
    cost = found["cost"]
    assert plan([config], root, 4) == []
    assert cost["train_seconds"] > 0 and min(cost["latency_ms"].values()) > 0
    assert result_of(found) == result_of(read_record(undisturbed(config) / "record.json"))
    tally("clock moved back", "recovered")
    from_2038()
    assert fit(config, root, on_epoch=pytest.fail) == found, "it was trained again"
    tally("files of the future", "recovered")
