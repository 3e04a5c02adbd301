"""Jobs side by side never share a GPU, whatever becomes of them; the devices are pretended."""

import itertools
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pytest

from kdlib.errors import KdlibError
from study.jobs import VISIBLE, gpu_names, own_gpus


@pytest.fixture(autouse=True)
def two_devices(monkeypatch):
    monkeypatch.setenv(VISIBLE, "0,1")


def hold(folder: Path, seconds: float, told: multiprocessing.Queue) -> None:
    with own_gpus(1, folder) as taken:
        start = time.monotonic()
        time.sleep(seconds)
        told.put((taken[0], os.environ[VISIBLE], start, time.monotonic()))


def process(*arguments: object) -> multiprocessing.Process:
    started = multiprocessing.get_context("fork").Process(target=hold, args=arguments)
    started.start()
    return started


def test_the_gpus_are_those_that_this_process_may_use(monkeypatch):
    assert gpu_names() == ["0", "1"]
    monkeypatch.setenv(VISIBLE, "GPU-3f, GPU-77")
    assert gpu_names() == ["GPU-3f", "GPU-77"]
    monkeypatch.setenv(VISIBLE, "")
    assert gpu_names() == []


def test_of_five_jobs_on_two_gpus_no_two_have_one_at_once(tmp_path):
    told = multiprocessing.get_context("fork").Queue()
    jobs = [process(tmp_path, 0.2, told) for _ in range(5)]
    held = [told.get(timeout=30) for _ in jobs]
    for job in jobs:
        job.join()
    assert {device for device, *_ in held} == {"0", "1"}
    assert all(device == visible for device, visible, *_ in held)
    for device in ("0", "1"):
        times = sorted((start, end) for d, _, start, end in held if d == device)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(times))


def test_a_killed_job_gives_its_gpu_back(tmp_path):
    told = multiprocessing.get_context("fork").Queue()
    killed = process(tmp_path, 60.0, told)
    while not list(tmp_path.glob("*.lock")):
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    with own_gpus(2, tmp_path) as taken:
        assert taken == ["0", "1"]


def test_a_job_of_two_gpus_sees_both_and_one_of_none_sees_what_there_is(tmp_path):
    with own_gpus(0, tmp_path) as taken:
        assert (taken, os.environ[VISIBLE]) == ([], "0,1")
    with own_gpus(2, tmp_path):
        assert os.environ[VISIBLE] == "0,1"


def test_more_gpus_than_there_are_is_a_mistake(tmp_path):
    with pytest.raises(KdlibError, match="gpus_per_job=2"), own_gpus(3, tmp_path):
        pass
