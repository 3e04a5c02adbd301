"""The sections of `python -m benchmarks`: shares, ratios, verdicts, and what is printed."""

import json
from types import SimpleNamespace

import pytest
import torch
from training import tiny

from benchmarks.__main__ import main
from benchmarks.measure import judge
from benchmarks.pairs import IN_OUR_LAYOUT, OURS, THEIRS, measure_pair, noise, their_batches
from benchmarks.speed import (
    breakdown,
    matrix_rate,
    measure_notebooks,
    share_of_floor,
    write_notebook,
)
from benchmarks.steps import Bench
from benchmarks.timing import Scope, paired, rounds_of
from study.notebooks import check_parameters
from study.pages import SPEED, page, section_text

CPU = torch.device("cpu")


class Steps:
    """A clock that every reading moves on by one second."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1
        return self.now


def scope(rounds):
    return SimpleNamespace(device=CPU, rounds=rounds, clock=Steps(), compiled=False)


def test_all_have_their_turn_in_each_round():
    calls, ticks = [], []
    works = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    times = rounds_of(works, 2, Steps(), lambda: ticks.append(1))
    assert calls == list("ababab") and len(ticks) == 2  # the first round does not count
    assert times == {"a": [1.0, 1.0], "b": [1.0, 1.0]}


def test_rounds_are_compared_with_themselves():
    assert paired([2.0, 30.0, 4.0], [1.0, 10.0, 2.0]).median == 2.0


def test_a_matrix_rate_is_operations_a_second():
    assert matrix_rate(CPU, torch.float32, Steps()) == 2 * 1024**3


def test_the_share_of_the_floor_is_work_over_rate_and_time():
    found = share_of_floor("scenes_small", "scenes_small", 32, 4, scope(rounds=1), int)
    rate = found["matrix_gigaflops_a_second"] * 1e9
    assert found["share"] == pytest.approx(found["gigaflops_a_step"] * 1e9 / rate, abs=1e-2)
    assert found["seconds"] == 1.0


def test_shares_of_a_step_add_up_to_one():
    config = tiny(method="dct", batch_size=8, image_size=32)
    bench = Bench(config, ["dct"], noise(16, 32, 16), device=CPU, precision="float32")
    shares = breakdown(bench, "dct")
    assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
    named = {"convolution", "batch norm", "ReLU", "loss", "optimiser", "loader", "other"}
    assert set(shares) == named and min(shares.values()) > 0
    assert "forward" not in vars(bench.trainees["dct"].distiller)


def test_a_pair_is_measured_beside_torchdistill():
    pytest.importorskip("torchdistill", reason="`make bench` installs it")
    row = measure_pair(("scenes_small", "scenes_small"), 8, scope(rounds=2), int)
    speeds, ratios = row["images_per_second"], row["ratios"]
    for who in (OURS, THEIRS, IN_OUR_LAYOUT):
        assert {f"{who}, float32", f"{who}, bfloat16"} <= set(speeds)
    assert ratios["each at its best"]["median"] == 1.0  # of a clock that knows no difference
    assert ratios["students in lock-step"]["median"] == 4.0
    assert not ratios["each at its best"]["theirs"].startswith(IN_OUR_LAYOUT)
    assert ratios["same step, bfloat16"]["theirs"] == f"{IN_OUR_LAYOUT}, bfloat16"


def test_their_loader_hands_out_whole_batches_for_ever():
    batches = their_batches(noise(20), 8, CPU)
    sizes = [next(batches).images.shape for _ in range(4)]
    assert set(sizes) == {(8, 3, 32, 32)}


@pytest.fixture
def _short_notebook(monkeypatch):
    monkeypatch.setattr("benchmarks.speed.RUN", "assert images == 64")  # imports no PyTorch


@pytest.mark.usefixtures("_short_notebook")
def test_a_notebook_of_one_step_has_parameters_and_runs(tmp_path):
    check_parameters(write_notebook(tmp_path / "tiny.ipynb"), {"images": 8})
    found = measure_notebooks(Scope(quick=True, progress=False))
    assert min(found["seconds"].values()) > 0
    difference = found["seconds"]["notebook"] - found["seconds"]["program"]
    assert found["added_seconds"] == pytest.approx(difference, abs=0.02)


def verdicts(device, sections, overhead=0.02):
    steps = [{"provenance": {"precision": "float32"}, "overhead": {"dct": {"median": overhead}}}]
    return {goal["name"]: goal["met"] for goal in judge(sections, steps, device)}


def test_goals_are_judged_on_the_device_they_are_of():
    pair = {"teacher": "a", "student": "b", "batch_size": 64}
    both = {"each at its best": {"median": 1.4}, "students in lock-step": {"median": 1.6}}
    large = {"image_size": 224, "share": 0.7}
    sections = {"pairs": {"pairs": [{**pair, "ratios": both}]}, "floor": {"steps": [large]}}
    found = verdicts("cpu", sections)
    assert found["DCT overhead, float32"] is True
    assert found["images a second over torchdistill's, a > b, batch 64, each at its best"] is False
    assert found["images a second over torchdistill's, a > b, batch 64, students in lock-step"]
    assert found["DCT overhead, compiled"] is None
    assert found["share of the floor, resnet50 > resnet18, 224 pixels, bfloat16"] is None
    assert verdicts("cpu", sections, 0.031)["DCT overhead, float32"] is False
    compiled = {"methods": {"dct": {"time": {"median": 1.06}}}}
    on_gpu = verdicts("cuda", {**sections, "methods": {"compiled": compiled}})
    assert on_gpu["DCT overhead, compiled"] is False
    assert on_gpu["share of the floor, resnet50 > resnet18, 224 pixels, bfloat16"] is True
    assert "DCT overhead, float32" not in on_gpu


@pytest.mark.usefixtures("_short_notebook")
def test_sections_are_printed_written_and_kept(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("benchmarks.pairs.PAIRS", (("scenes_small", "scenes_small"),))
    how = ["--quick", "--rounds=1", f"--to={tmp_path}"]
    assert main(["--only", "breakdown", *how]) == 0
    (path,) = (tmp_path / "speed").iterdir()
    first = json.loads(path.read_text())
    path.write_text(json.dumps({**first, "methods": {}}))
    assert main(["--only", "notebooks", *how]) == 0
    record, printed = json.loads(path.read_text()), capsys.readouterr().out
    assert record["breakdown"] == first["breakdown"] and record["notebooks"]["added_seconds"]
    assert all(section_text(name, [record]) in printed for name in ("breakdown", "notebooks"))
    assert "not measured" in printed and record["breakdown"]["provenance"]["machine"]
    assert section_text("notebooks", [record]) in page("docs/speed.md", tmp_path)


def test_what_was_not_measured_says_how_to(tmp_path):
    assert all(f"--only {section}`" in section_text(name, []) for name, section in SPEED.items())


def test_a_device_that_is_not_there_is_told(tmp_path, capsys):
    assert main(["--only", "floor", "--device", "vulkano", f"--to={tmp_path}"]) == 2
    assert "vulkano" in capsys.readouterr().err
