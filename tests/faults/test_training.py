"""Killed, without room, side by side, in the wrong time: a run ends as if nothing had happened."""

import datetime
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from shutil import copytree, disk_usage
from unittest.mock import Mock

import processes
import pytest
import torch
from processes import check_full, outcomes, with_room
from training import TINY, check_like, result_of, tiny

from kdlib import KdlibError, files, fit, train
from kdlib.files import PARTIAL, UnwritableError, load_tensors
from kdlib.runs import RunConfig, is_finished, read_record, run_directory
from kdlib.train_state import TrainState
from study.jobs import plan

CHECKPOINT, WEIGHTS = "checkpoint.safetensors", "weights.safetensors"


def learning(config: RunConfig, root: Path) -> processes.Act:
    """Train a run, or go on training it."""
    return lambda: fit(config, root, progress=False)


def remains(root: Path) -> list[Path]:
    """Files that were being written when somebody was killed."""
    return list(root.rglob(f".*{PARTIAL}"))


def check_nothing_half_written(directory: Path) -> None:
    """Whatever has its final name is whole."""
    for path in directory.glob("[!.]*.safetensors"):
        load_tensors(path)
    if (directory / "record.json").exists():
        read_record(directory / "record.json")
        assert (directory / WEIGHTS).exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("trials", [3, pytest.param(50, marks=pytest.mark.slow_faults)])
def test_killed_at_random_moments(number, trials, taught, tmp_path, undisturbed, tally):
    """One run after the other, until there were so many kills."""
    kills, seed = 0, 0
    while kills < trials:
        config, seed, before = tiny(data_seed=seed, epochs=6), seed + 1, kills
        whole, root = undisturbed(config), copytree(taught, tmp_path / f"killed{seed}")
        ends = [(whole / name).stat().st_mtime for name in ("config.json", "record.json")]
        for _ in processes.killed(learning(config, root), ends[1] - ends[0], number):
            assert number == signal.SIGKILL or not remains(root)
            check_nothing_half_written(run_directory(config, root))
            kills += 1
        fit(config, root, progress=False)
        check_like(run_directory(config, root), whole)
        for _ in range(kills - before):
            tally(f"{signal.Signals(number).name} at a random moment", "recovered")


def test_killed_within_every_single_write(root, undisturbed, monkeypatch, tally):
    config, left, flush, written = tiny(epochs=2), 0, os.fsync, []
    whole, directory = undisturbed(config), run_directory(config, root)

    def flush_or_die(file: int) -> None:
        written.append(file)
        if len(written) == died + 1:
            os.kill(os.getpid(), signal.SIGKILL)
        flush(file)

    monkeypatch.setattr(files.os, "fsync", flush_or_die)
    for died in range(20):
        status = processes.statuses(learning(config, root))
        check_nothing_half_written(directory)
        if status == [0]:
            break
        left += bool(remains(root))
        tally("SIGKILL within a write", "recovered")
        if died == 3:  # the others begin where this one left the run
            (directory / CHECKPOINT).unlink()
    assert status == [0] and left >= 4, "no write was met"
    check_like(directory, whole)


@pytest.mark.parametrize(("what", "owner", "act", "size", "kept"), [
    (CHECKPOINT, TrainState, "end_epoch", 20_000, []),
    (f"a later {CHECKPOINT}", TrainState, "end_epoch", 20_000, [CHECKPOINT]),
    ("record.json", train, "write_record", 500, [CHECKPOINT, "history.csv", WEIGHTS]),
])  # fmt: skip
def test_no_room_for(what, owner, act, size, kept, root, undisturbed, monkeypatch, tally):
    config, usual, fault = tiny(epochs=2), getattr(owner, act), f"disk full: {what.split('.')[0]}"
    whole, directory = undisturbed(config), run_directory(config, root)

    def filled(first, *given):
        full = "later" not in what or first.history
        return with_room(size, lambda: usual(first, *given))() if full else usual(first, *given)

    with monkeypatch.context() as patch:
        patch.setattr(owner, act, filled)
        check_full(*outcomes(learning(config, root)), what.split()[-1])
    tally(fault, "told")
    assert {path.name for path in directory.iterdir()} == {"config.json", *kept}
    if "later" in what:
        assert len(load_tensors(directory / CHECKPOINT)[1]["history"]) == 1
    fit(config, root, progress=False)
    check_like(directory, whole)
    tally(fault, "recovered")


@pytest.mark.parametrize("kib", [12, 60])
def test_a_disk_that_is_full_and_then_has_room(kib, taught, tmp_path, undisturbed, tally):
    """A real one, with so many KiB left beside the teacher's files."""

    def mount(disk: Path, kib: int, how: str = "rw") -> bool:
        command = ["mount", "-t", "tmpfs", "-o", f"{how},size={kib}k", "tmpfs", str(disk)]
        return subprocess.run(command, capture_output=True).returncode == 0

    if not mount(tmp_path, 100_000):
        pytest.skip("no disk may be mounted here")
    try:
        config, root = tiny(epochs=2), copytree(taught, tmp_path / "runs")
        mount(tmp_path, disk_usage(tmp_path).used // 1024 + kib, "remount")
        check_full(*outcomes(learning(config, root)), r"(checkpoint|weights)\.safetensors")
        assert not remains(root)
        mount(tmp_path, 100_000, "remount")
        fit(config, root, progress=False)
        check_like(run_directory(config, root), undisturbed(config))
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    tally("disk full: a whole disk", "recovered")


def test_a_folder_of_runs_that_cannot_be_written_to_is_told(tmp_path, tally):
    (tmp_path / "runs").mkdir()
    folder = processes.forbid(tmp_path / "runs")
    act = processes.unprivileged(learning(tiny(method="student"), folder))
    (error,) = outcomes(act)
    assert isinstance(error, UnwritableError), repr(error)
    assert "Make it writable, or choose another folder" in str(error) and "\n" not in str(error)
    tally("read-only folder of runs", "told")


def test_a_loss_that_is_not_finite_after_a_good_epoch(root, undisturbed, monkeypatch, tally):
    config, step = tiny(epochs=2), TrainState.step
    directory = run_directory(config, root)

    def spoilt(state, *given):
        if state.history:  # in the second epoch
            torch.nn.init.constant_(next(state.student.parameters()), float("nan"))
        return step(state, *given)

    says = r"not finite in epoch 2, step 1 .*ce nan.*learning rate 0\.\d+.*last good epoch is kept"
    with monkeypatch.context() as patch:
        patch.setattr(TrainState, "step", spoilt)
        with pytest.raises(KdlibError, match=says):
            fit(config, root, progress=False)
    assert len(load_tensors(directory / CHECKPOINT)[1]["history"]) == 1
    assert not is_finished(config, root)
    tally("loss is NaN", "told")
    fit(config, root, progress=False)
    check_like(directory, undisturbed(config))
    tally("loss is NaN", "recovered")


@pytest.mark.parametrize("first_is_killed", [False, True])
def test_two_processes_train_a_run_once(first_is_killed, root, undisturbed, tmp_path, tally):
    """Each epoch that anybody ends leaves a line; if the first is killed, the second goes on."""
    config, epochs = tiny(epochs=2), tmp_path / "epochs"

    def count(config, row) -> None:
        with epochs.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.5 if first_is_killed else 0.1)

    def slowly() -> None:
        fit(config, root, progress=False, on_epoch=count)

    first = processes.begin(slowly)
    while not epochs.exists():
        time.sleep(0.01)
    second = processes.begin(slowly)
    if first_is_killed:
        time.sleep(0.2)
        os.kill(first.pid, signal.SIGKILL)
    for process in (first, second):
        process.join(120)
    assert (first.exitcode, second.exitcode) == (-signal.SIGKILL if first_is_killed else 0, 0)
    last = second if first_is_killed else first
    assert epochs.read_text().split() == [str(first.pid), str(last.pid)]
    check_like(run_directory(config, root), undisturbed(config))
    tally(f"two processes{', one is killed' if first_is_killed else ' on one run'}", "recovered")


def test_a_clock_that_goes_backwards_and_files_of_the_future(root, undisturbed, monkeypatch, tally):
    config, start, calls = tiny(epochs=2), time.time(), iter(range(10**9))
    past = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1000)

    def from_2038() -> None:
        for path in root.rglob("*"):
            os.utime(path, (2**31 - 1, 2**31 - 1))

    from_2038()
    monkeypatch.setattr(time, "time", lambda: start - 3600 * next(calls))
    monkeypatch.setattr("kdlib.runs.datetime", Mock(now=Mock(return_value=past)))
    found = fit(config, root, progress=False)
    assert plan([config], root, 4) == []
    assert found["cost"]["train_seconds"] > 0 and min(found["cost"]["latency_ms"].values()) > 0
    assert result_of(found) == result_of(read_record(undisturbed(config) / "record.json"))
    tally("clock moved back", "recovered")
    from_2038()
    assert fit(config, root, on_epoch=pytest.fail) == found, "it was trained again"
    tally("files of the future", "recovered")


@pytest.mark.slow_faults
@pytest.mark.parametrize("delay", [1.0, 6.0, 12.0, 18.0])
def test_a_notebook_that_is_asked_to_leave_does_so_at_once(delay, tmp_path, tally):
    """SIGTERM to ``kdlib run`` after ``delay`` seconds; nothing temporary is left."""
    (temporary := tmp_path / "tmp").mkdir()
    # In a folder of its own, with a temporary folder that nobody else writes to.
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": str(Path.cwd())}
    words = [sys.executable, "-m", "kdlib", "run", "batch/train", "--output", "out.ipynb"]
    words += ["-p", "runs", str([{**TINY, "epochs": 500}]), "-p", "runs_root", str(tmp_path)]
    process = subprocess.Popen(words, cwd=tmp_path, env=environment)
    time.sleep(delay)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    assert not list(tmp_path.glob("*out*.ipynb")) or list(tmp_path.glob("out.failed.ipynb"))
    assert not list(temporary.glob("kdlib-*"))
    tally("SIGTERM to a notebook's execution", "harmless")
