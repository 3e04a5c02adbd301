"""The benchmarks: their arithmetic, and that tiny runs measure, print, write and judge it all."""

import io
import json
import os
import re
from contextlib import redirect_stdout
from functools import partial
from itertools import count
from types import SimpleNamespace

import pytest
import torch
from processes import ROOT
from torch import nn
from training import tiny

from benchmarks import methods, pairs, speed
from benchmarks.__main__ import main
from benchmarks.goals import TAUGHT, judge
from benchmarks.steps import Bench, same_weights
from benchmarks.timing import Ratio, Scope, median_ratio, peak_bytes, ratios, rounds_of
from study.export import machine_name
from study.figures.comparison import read_costs
from study.notebooks import check_parameters
from study.pages import page, part
from study.profiles import expand

CPU = torch.device("cpu")
SMALL = ("scenes_small", "scenes_small")
TINY = ["--teacher=scenes_small", "--image-size=32"]
TABLES = {one: one for one in (*speed.SECTIONS, "goals", "steps")}
TABLES |= {"ratios": "pairs", "taught": "steps"}
FEW = ["--precision=float32", "--quick", "--rounds=2"]


def scope(rounds):
    """With a clock that every reading moves on by one second."""
    return SimpleNamespace(device=CPU, rounds=rounds, clock=count().__next__, compiled=False)


def bench(*methods):
    config = tiny(method=methods[0], batch_size=8, image_size=32)
    return Bench(config, methods, pairs.noise(20, classes=16), device=CPU, precision="float32")


def read(path):
    return json.loads(path.read_text())


def test_ratios_do_not_see_that_a_machine_gets_slower_and_have_the_sign_test_s_interval():
    machine, ticks = SimpleNamespace(now=0.0, slowness=1.0), count()

    def work(cost):
        machine.now += cost * machine.slowness
        machine.slowness += 0.01

    others = {"same": partial(work, 2.0), "more expensive": partial(work, 3.0)}
    found = ratios(partial(work, 2.0), others, 9, lambda: machine.now, ticks.__next__)
    assert [ratio.median for ratio in found.values()] == pytest.approx([1.0, 1.5], abs=1e-3)
    assert next(ticks) == 9
    found = median_ratio([float(value) for value in range(1, 21)], [1.0] * 20)
    assert found == Ratio(10.5, 6.0, 15.0)  # 20 values: the 6th and the 15th
    few = median_ratio([1.0, 2.0, 3.0], [1.0] * 3)
    assert few.as_json(shift=-1) == {"median": 1.0, "low": None, "high": None}
    assert Ratio(0.5, 0.4, 0.8).inverse() == Ratio(2.0, 1.25, 2.5)


def test_time_is_taken_in_turns_and_memory_is_the_peak_of_what_is_held_at_once():
    calls, clock = [], count().__next__
    times = rounds_of({name: partial(calls.append, name) for name in "ab"}, 2, clock, int)
    assert calls == list("ababab")  # the first round does not count
    assert times == {"a": [1.0, 1.0], "b": [1.0, 1.0]}
    assert [Scope(threads=n).named_clock[0] for n in (1, 2)] == ["processor time", "wall time"]

    def work():
        first = torch.zeros(2_500_000)
        second = first + 1
        del first
        return second * 2

    assert peak_bytes(work) / 1e6 == pytest.approx(20, abs=0.1)
    layer = nn.Linear(10, 10, bias=False)
    layer.register_buffer("bank", torch.zeros(25), persistent=False)
    assert methods.state_bytes(layer) == 4 * 125


def test_lock_step_ends_with_the_weights_of_separate_steps_on_whole_batches_without_end():
    one, other, third = (bench("kd", "dct") for _ in range(3))
    assert {one.batch().images.shape for _ in range(5)} == {(8, 3, 32, 32)}
    assert same_weights(third, other, ["kd", "dct"], 3)
    assert not same_weights(one, other, ["kd", "dct"], 1)  # of whom one has gone on
    batches = pairs.their_batches(pairs.noise(20), 8, CPU)
    assert {next(batches).images.shape for _ in range(5)} == {(8, 3, 32, 32)}


def test_shares_are_of_the_work_over_rate_and_time_and_add_up_to_one():
    assert speed.matrix_rate(CPU, torch.float32, scope(1).clock) == 2 * 1024**3
    found = speed.share_of_floor(*SMALL, 32, 4, scope(rounds=1), int)
    share = found["gigaflops_a_step"] / found["matrix_gigaflops_a_second"]
    assert found["share"] == pytest.approx(share, abs=1e-2) and found["seconds"] == 1.0
    shares = speed.breakdown(bench("dct"), "dct")
    assert sum(shares.values()) == pytest.approx(1, abs=1e-3) and min(shares.values()) > 0
    named = {"convolution", "batch norm", "ReLU", "loss", "optimiser", "loader", "other"}
    assert set(shares) == named


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Where a tiny run of all sections wrote, its record, and what one of a section printed."""
    folder, printed = tmp_path_factory.mktemp("results"), io.StringIO()
    costs = methods.measure
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        for name, value in {
            "speed.LARGE": (*SMALL, 32), "speed.IMAGES": 64, "speed.CHUNKS": 2,
            "speed.RUN": "assert images == 64", "pairs.PAIRS": (SMALL,), "pairs.BATCHES": (8,),
            "speed.RunConfig": partial(tiny, batch_size=8, image_size=32),
            "methods.measure": lambda *given: costs(*given, images=20),
            "loading.measure": lambda images, epochs: {"photographs": []},
        }.items():  # fmt: skip
            patch.setattr(f"benchmarks.{name}", value)
        how = [*FEW, f"--to={folder}"]
        assert main([*TINY, "--student=scenes_small", "--batch-size=8", *how]) == 0
        (path,) = (folder / "speed").iterdir()
        first = read(path)
        path.write_text(json.dumps({**first, "methods": {}}))
        printed.truncate(0)
        assert main(["--only", "floor", *how]) == 0
    return folder, first, printed.getvalue()


def test_a_run_measures_prints_and_keeps_every_section(measured, tmp_path):
    folder, first, printed = measured
    assert set(first) == {*speed.SECTIONS, "goals"}
    assert set(first["methods"]["eager"]["methods"]) == set(speed.METHODS)
    assert {row["image_size"] for row in first["floor"]["steps"]} == {32}
    ways = first["pairs"]["pairs"][0]["images_per_second"]
    assert min(ways.values()) > 0 and pairs.LOCKSTEP in ways
    added, spent = (first["notebooks"][name] for name in ("added_seconds", "seconds"))
    assert added == pytest.approx(spent["notebook"] - spent["program"], abs=0.02)
    check_parameters(speed.write_notebook(tmp_path / "tiny.ipynb"), {"images": 8})
    (path,), (other,) = folder.glob("*float32.json"), (folder / "speed").iterdir()
    steps, second = read(path), read(other)
    taught = steps["taught"]
    assert {f"{name} kept" for name in TAUGHT} <= set(taught["over_plain"])
    assert min(*taught["images_per_second"].values(), taught["kept"]["stages"]["megabytes"]) > 0
    assert steps["lock_step"]["identical"] is True
    assert list(steps["lock_steps"]) == ["1", "2", "4", "8"]
    assert steps["images_per_second"]["composing"] > 0 < steps["images_per_second"]["reading"]
    assert steps["provenance"]["threads"] == 1 and steps["provenance"]["versions"]["torch"]
    for one in (steps, first["breakdown"]):
        assert one["provenance"]["machine"] == machine_name(CPU)
    assert second["breakdown"] == first["breakdown"] and second["methods"] == {}
    assert all(speed._shown(name, second) in printed for name in ("floor", "goals"))
    texts = [speed._shown(name, second) for name in TABLES.keys() - {"steps", "taught", "loading"}]
    speed_page = page("docs/speed.md", folder)
    shown = [speed._shown(name, steps) for name in ("taught", "steps")]
    assert all(text in speed_page for text in (*texts, *shown)) and "identical" in shown[1]
    without = speed._shown("taught", {**steps, "taught": {**taught, "version": None}})
    assert "`make bench` installs it" in without
    assert all(f"--only {one}`" in part("_speed.md", name, []) for name, one in TABLES.items())


def test_methods_are_timed_where_they_are_at_home_with_the_options_of_their_runs():
    images, objects = (methods.timed_methods(task) for task in ("classification", "detection"))
    assert objects == ["kd_cls", "loc", "kd_loc", "kd_cls_loc"] and {"kd", "srm"} <= set(images)
    assert not {"frskd_pixels", "student", "srm_init", *objects} & set(images)
    runs = expand("study_methods", methods=["reviewkd", "at", "srm"], seeds=[0])
    assert [methods.run_of(run.method, "study_methods") for run in runs] == runs
    assert methods.run_of("reviewkd", "paper").method_options != runs[0].method_options
    stages = [(part.method, part.epochs) for part in methods.parts_of(runs[2])]
    assert stages == [("srm_init", 36), ("srm", 44)]


COSTS = {
    "classification": ("scenes_small", ["at", "frskd", "srm", "vid"]),
    "detection": ("scenes_ssd_tiny", ["kd_cls_loc", "loc"]),
}


@pytest.mark.parametrize("task", COSTS)
def test_costs_of_methods_are_written_as_figures_read_them(tmp_path, capsys, task):
    path, (student, names) = tmp_path / "costs.json", COSTS[task]
    few = [f"--student={student}", "--batch-size=8", "--rounds=2", "--images=20", f"--task={task}"]
    assert main(["methods", *TINY, *few, "--methods", *names, f"--to={path}"]) == 0
    (plan, costs), record = read_costs(path), read(path)
    assert plan == {"teacher": "scenes_small", "student": student, "image_size": 32}
    assert set(costs) == set(names) and record["provenance"]["threads"] == 1
    assert methods.report(record) in capsys.readouterr().out
    if task == "classification":
        assert costs["vid"]["memory"] > 1 < costs["vid"]["time"] and costs["frskd"]["memory"] > 1
        assert costs["srm"]["time"] > 0.5  # as its student's epochs cost
    else:  # detectors are measured beside a plain step too
        assert record["plan"]["crop_size"] == 16 and "over a plain step" in methods.report(record)
        both, loc = (record["methods"][name] for name in names)
        assert both["plain"]["memory"]["ratio"] >= both["memory"]["ratio"] > 1
        assert loc["plain"]["memory"] == loc["memory"]


@pytest.mark.parametrize(("words", "message"), [
    ("--only steps --teacher scenes_lage", "scenes_large"),
    ("--only steps --batch-size 0", "batch_size"),
    ("--only floor --device vulkano", "vulkano"),
    ("--only flor", "Did you mean .floor"),
    ("methods --methods vdi --images 20", "Did you mean 'vid'"),
    ("methods --task detection --methods at --images 8", "'at' is no method of detectors"),
])  # fmt: skip
def test_a_mistake_is_told_without_a_traceback(tmp_path, capsys, words, message):
    assert main([*words.split(), f"--to={tmp_path / 'results'}"]) == 2
    assert re.search(message, capsys.readouterr().err) and not list(tmp_path.iterdir())


def test_loading_of_photographs_and_commands_in_a_fresh_clone_are_timed(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_CACHE", "somewhere")
    path = tmp_path / "found.json"
    assert main(f"loading --images 4 --epochs 1 --to {path}".split()) == 0
    record = read(path)
    assert [row["size"] for row in record["photographs"]] == ["500 x 400", "340 x 256"]
    for row in record["photographs"]:
        assert row["same_pixels"] is True
        assert min(*row["decoded"].values(), *row["cached"].values(), row["making"]) > 0
    assert {"machine", "cores", "commit", "versions"} <= set(record["provenance"])
    assert os.environ["KDLIB_CACHE"] == "somewhere"
    path.write_text('{"make test": {"seconds": 60}}')
    assert main(["commands", "git status", f"--to={path}"]) == 0
    found = read(path)
    assert found["make test"] == {"seconds": 60} and len(found["git status"]["commit"]) == 40


def test_goals_are_judged_on_the_device_they_are_of():
    """On a processor as they were for the committed measurements; more is wanted of a GPU."""
    path, *_ = (ROOT / "benchmarks/results/speed").glob("*.json")
    sections, steps = read(path), sorted(path.parents[1].glob(f"{path.stem}-*.json"))
    assert judge(sections, map(read, steps), "cpu") == sections["goals"]
    assert {goal["met"] for goal in sections["goals"]} == {True, False, None}
    compiled = {"compiled": {"methods": {"dct": {"time": {"median": 1.06}}}}}
    sections |= {"methods": compiled, "floor": {"steps": [{"image_size": 224, "share": 0.7}]}}
    found = [goal for goal in judge(sections, [], "cuda") if goal["device"] == "cuda"]
    told = {(one["wanted"], one["met"]) for one in found}
    assert told == {(0.05, False), (3, False), (0.6, True)}


def test_torchdistill_computes_our_losses_and_is_measured_beside_us():
    pytest.importorskip("torchdistill", reason="`make bench` installs it")
    for method in speed.SHARED_METHODS:
        ours = bench(method)
        batch, theirs = ours.batch(), pairs.torchdistill_step(ours, method)
        for _ in range(2):  # the second step shows that the first made the same update
            own = ours.step(batch, method)[method].item()
            assert theirs(batch).item() == pytest.approx(own, rel=1e-4)
    row = pairs.measure_pair(SMALL, 8, scope(rounds=2), int)
    speeds, found = row["images_per_second"], row["ratios"]
    for who in (pairs.OURS, pairs.THEIRS, pairs.IN_OUR_LAYOUT):
        assert {f"{who}, float32", f"{who}, bfloat16"} <= set(speeds)
    assert found["each at its best"]["median"] == 1.0  # of a clock that knows no difference
    assert found["students in lock-step"]["median"] == 4.0
    assert not found["each at its best"]["theirs"].startswith(pairs.IN_OUR_LAYOUT)
    assert found["same step, bfloat16"]["theirs"] == f"{pairs.IN_OUR_LAYOUT}, bfloat16"
