"""Two processes in one place, places that cannot be written to, and clocks that go wrong."""

import contextlib
import datetime
import io
import os
import signal
import time
from pathlib import Path

import pytest
from faults.processes import begin, check_like, copy_of, learning, outcome, unprivileged
from photographs import write_mit67
from training import result_of, tiny

from kdlib import train
from kdlib.data.cache import cached
from kdlib.files import UnwritableError
from kdlib.runs import read_record, run_directory
from kdlib.train import fit
from kdlib.trainee import Trainee
from study.cli import main
from study.jobs import plan


def count_epochs(monkeypatch, place: Path, seconds: float = 0.0) -> None:
    """Let each epoch that anybody ends leave a line."""
    end_epoch = Trainee.end_epoch

    def counted(trainee, row):
        end_epoch(trainee, row)
        with place.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(seconds)

    monkeypatch.setattr(Trainee, "end_epoch", counted)


def test_two_processes_train_a_run_once(taught, tmp_path, monkeypatch, tally):
    config, root = tiny(epochs=3), copy_of(taught, tmp_path / "runs")
    count_epochs(monkeypatch, tmp_path / "epochs", 0.1)
    both = [begin(learning(config, root)) for _ in range(2)]
    for process in both:
        process.join(120)
    assert [process.exitcode for process in both] == [0, 0]
    assert len((tmp_path / "epochs").read_text().split()) == config.epochs
    monkeypatch.undo()
    whole = copy_of(taught, tmp_path / "whole")
    fit([config], whole, progress=False)
    check_like(config, root, whole)
    tally("two processes on one run", "recovered")


def test_when_who_trains_is_killed_who_waits_goes_on(taught, tmp_path, monkeypatch, tally):
    config, whole = tiny(epochs=3), copy_of(taught, tmp_path / "whole")
    fit([config], whole, progress=False)
    root, epochs = copy_of(taught, tmp_path / "runs"), tmp_path / "epochs"
    count_epochs(monkeypatch, epochs, 0.5)
    first = begin(learning(config, root))
    while not epochs.exists():
        time.sleep(0.01)
    second = begin(learning(config, root))
    time.sleep(0.2)
    os.kill(first.pid, signal.SIGKILL)
    second.join(120)
    assert second.exitcode == 0
    check_like(config, root, whole)
    trained = epochs.read_text().split()
    assert set(trained) == {str(first.pid), str(second.pid)} and len(trained) == config.epochs
    tally("two processes, one is killed", "recovered")


def told_by(*arguments: str) -> tuple[int, str]:
    """Status and error text of a command that permissions hold for."""

    def command() -> tuple[int, str]:
        with contextlib.redirect_stderr(io.StringIO()) as text:
            status = main(arguments)
        return status, text.getvalue()

    return outcome(unprivileged(command))


def forbid(folder: Path) -> Path:
    """Let nobody write to a folder, nor to what is in it."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    return folder


CACHE = ("data", "cache", "mit67", "--image-size", "28", "--workers", "1")


@pytest.mark.parametrize("command", [("data", "check", "mit67"), CACHE])
def test_a_data_root_that_cannot_be_written_to_is_no_matter(tmp_path, monkeypatch, command, tally):
    monkeypatch.setenv("KDLIB_DATA", str(forbid(write_mit67(tmp_path / "data"))))
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
    assert told_by(*command)[0] == 0
    tally("read-only data root", "harmless")


def test_a_cache_that_cannot_be_written_to_is_told(tmp_path, monkeypatch, tally):
    (tmp_path / "cache").mkdir()
    monkeypatch.setenv("KDLIB_DATA", str(write_mit67(tmp_path / "data")))
    monkeypatch.setenv("KDLIB_CACHE", str(forbid(tmp_path / "cache")))
    status, text = told_by(*CACHE)
    assert status == 2 and "set KDLIB_CACHE" in text and len(text.splitlines()) == 1, text
    tally("read-only cache", "told")


def test_a_folder_of_runs_that_cannot_be_written_to_is_told(tmp_path, tally):
    (tmp_path / "runs").mkdir()
    error = outcome(unprivileged(learning(tiny(method="student"), forbid(tmp_path / "runs"))))
    assert isinstance(error, UnwritableError), repr(error)
    assert "Make it writable, or choose another folder" in str(error) and "\n" not in str(error)
    tally("read-only folder of runs", "told")


class BackwardClock(datetime.datetime):
    """Of a day in the past, though files are of today."""

    @classmethod
    def now(cls, tz=None):
        return super().now(tz) - datetime.timedelta(days=1000)


def test_a_clock_that_goes_backwards(taught, tmp_path, monkeypatch, tally):
    config, root = tiny(epochs=2), copy_of(taught, tmp_path / "runs")
    for path in root.rglob("*"):
        os.utime(path, (2**31 - 1, 2**31 - 1))  # of the year 2038
    start, calls = time.time(), iter(range(10**9))
    with monkeypatch.context() as wrong:
        wrong.setattr(time, "time", lambda: start - 3600 * next(calls))
        wrong.setattr("kdlib.runs.datetime", BackwardClock)
        (record,) = fit([config], root, progress=False)
        assert plan([config], root, 4) == []
        before = (run_directory(config, root) / "record.json").stat().st_mtime_ns
        assert fit([config], root, progress=False) == [record]
    path = run_directory(config, root) / "record.json"
    assert path.stat().st_mtime_ns == before, "it was trained again"
    cost = record["cost"]
    assert cost["train_seconds"] > 0 and min(cost["latency_ms"].values()) > 0
    whole = copy_of(taught, tmp_path / "whole")
    assert result_of(fit([config], whole, progress=False)[0]) == result_of(record)
    tally("clock moved back", "recovered")


def test_files_of_the_future_are_taken_as_they_are(taught, tmp_path, monkeypatch, tally):
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
    config, root = tiny(method="student", epochs=1), tmp_path / "runs"
    (record,) = fit([config], root, progress=False)
    for path in [*root.rglob("*"), *(tmp_path / "cache").rglob("*")]:
        os.utime(path, (2**31 - 1, 2**31 - 1))
    monkeypatch.setattr(train, "_train", lambda *_: pytest.fail("it was trained again"))
    assert fit([config], root, progress=False) == [record]
    assert read_record(run_directory(config, root) / "record.json") == record
    made = []
    cached("small", 3, lambda rows: made.append(rows) or {"a": rows}, progress=False)
    for path in (tmp_path / "cache" / "small").iterdir():
        os.utime(path, (2**31 - 1, 2**31 - 1))
    cached("small", 3, lambda rows: pytest.fail("it was made again"), progress=False)
    tally("files of the future", "recovered")
