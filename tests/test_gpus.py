"""Jobs never share a GPU, whatever becomes of them; what `make gpu` asks; GPUs are pretended."""

import itertools
import json
import os
import time
from functools import partial
from pathlib import Path

import pytest
from processes import begin, outcomes
from training import tiny

from kdlib.errors import KdlibError
from study.jobs import VISIBLE, gpu_names, own_gpus
from study.profiles import expand, read_profile
from study.records import load_records
from workflow import gpu


@pytest.fixture(autouse=True)
def two_devices(monkeypatch):
    monkeypatch.setenv(VISIBLE, "0,1")


def test_what_a_process_may_use_and_takes(tmp_path, monkeypatch):
    for count, taken, seen in ((0, [], "0,1"), (1, ["0"], "0"), (2, ["0", "1"], "0,1")):
        monkeypatch.setenv(VISIBLE, "0,1")
        with own_gpus(count, tmp_path) as found:
            assert (found, os.environ[VISIBLE]) == (taken, seen)
    monkeypatch.setenv(VISIBLE, "0,1")
    with pytest.raises(KdlibError, match="gpus_per_job=2"), own_gpus(3, tmp_path):
        pass
    for visible, names in (("GPU-3f, GPU-77", ["GPU-3f", "GPU-77"]), ("", [])):
        monkeypatch.setenv(VISIBLE, visible)
        assert gpu_names() == names


def hold(folder: Path, seconds: float) -> tuple[str, str, float, float]:
    with own_gpus(1, folder) as taken:
        start = time.monotonic()
        time.sleep(seconds)
        return taken[0], os.environ[VISIBLE], start, time.monotonic()


def test_of_five_jobs_on_two_gpus_no_two_have_one_at_once(tmp_path):
    # The first holds its GPU until the second, however late it starts, has found the other.
    held = outcomes(*(partial(hold, tmp_path, seconds) for seconds in (2.0, 0.1, 0.1, 0.1, 0.1)))
    assert all(device == visible for device, visible, *_ in held)
    assert {device for device, *_ in held} == {"0", "1"}
    for device in ("0", "1"):
        times = sorted((start, end) for d, _, start, end in held if d == device)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(times))


def test_a_killed_job_gives_its_gpu_back(tmp_path):
    killed = begin(partial(hold, tmp_path, 60.0))
    while not list(tmp_path.glob("*.lock")):
        time.sleep(0.01)
    killed.kill()
    killed.join()
    with own_gpus(2, tmp_path) as taken:
        assert taken == ["0", "1"]


def test_parts_of_the_kit_keep_to_their_time_and_say_what_is_missing(tmp_path, monkeypatch, capsys):
    run, real = tiny(method="student", image_size=64, epochs=1), gpu.parts
    late = {"sleep": ["timeit", "-n1", "-r1", "import time; time.sleep(60)"]}
    more = [gpu.Part("late", 1, late), gpu.Part("wrong", 9, {"odd": ["kdlib.train", "--odd"]})]
    monkeypatch.setattr(gpu, "wanted", lambda trial: [run])
    monkeypatch.setattr(gpu, "parts", lambda *given: [*real(*given)[:1], *more, *real(*given)[:1]])
    gpu.measure(191, True, tmp_path)
    told = json.loads((tmp_path / "parts.json").read_text())["parts"]
    assert [len(one["left_out"]) for one in told] == [0, 1, 1, 1] and told[1]["seconds"] < 30
    assert "no time for 190 s" in capsys.readouterr().out
    assert load_records(tmp_path)["run_id"].tolist() == [run.run_id]


def test_the_kit_has_every_run_of_its_profile_and_says_when_there_is_no_gpu(tmp_path, monkeypatch):
    parts, runs = gpu.parts(expand("gpu"), tmp_path, False, tmp_path), expand("gpu")
    asked = {name for part in parts for name in part.commands}
    assert {run.run_id for run in runs} <= asked and sum(one.estimate for one in parts) <= 720
    ours, theirs = read_profile("gpu"), read_profile("study_methods")
    assert all(ours[key] == theirs[key] for key in ("options", "teachers"))
    assert ours["weights"] == read_profile("study_confirm")["weights"] | theirs["weights"]
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    with pytest.raises(KdlibError, match="no GPU here.*--dry-run"):
        gpu.measure(60, False, tmp_path)
