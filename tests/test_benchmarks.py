"""The benchmarks: their arithmetic, and that tiny runs measure, print, write and judge it all."""

import io
import json
import os
import re
from contextlib import redirect_stdout
from functools import partial
from itertools import count
from math import isnan
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from training import tiny

from benchmarks import methods, pairs, speed
from benchmarks.__main__ import main
from benchmarks.goals import judge
from benchmarks.steps import Bench, endless, same_weights
from benchmarks.timing import Ratio, Scope, median_ratio, peak_bytes, ratios, rounds_of
from kdlib.data.batches import Batches
from study.export import machine_name
from study.figures.comparison import read_costs
from study.notebooks import check_parameters
from study.pages import SPEED, page, section_text
from study.profiles import expand

CPU = torch.device("cpu")
SMALL = ("scenes_small", "scenes_small")
TINY = ["--teacher=scenes_small", "--student=scenes_small", "--image-size=32", "--batch-size=8"]
FEW = ["--precision=float32", "--quick", "--rounds=2"]
MEGABYTE = 250_000  # float32 numbers


def scope(rounds):
    """With a clock that every reading moves on by one second."""
    return SimpleNamespace(device=CPU, rounds=rounds, clock=count().__next__, compiled=False)


def bench(data, *methods):
    config = tiny(method=methods[0], batch_size=8, image_size=32)
    return Bench(config, methods, data, device=CPU, precision="float32")


def read(path):
    return json.loads(path.read_text())


def test_paired_ratios_do_not_see_a_machine_that_gets_slower():
    machine, ticks = SimpleNamespace(now=0.0, slowness=1.0), count()

    def work(cost):
        machine.now += cost * machine.slowness
        machine.slowness += 0.01

    others = {"same": partial(work, 2.0), "more expensive": partial(work, 3.0)}
    found = ratios(partial(work, 2.0), others, 9, lambda: machine.now, ticks.__next__)
    assert found["same"].median == pytest.approx(1.0, abs=1e-3)
    assert found["more expensive"].median == pytest.approx(1.5, abs=1e-3)
    assert next(ticks) == 9


def test_ratios_are_taken_round_by_round_with_the_interval_of_the_sign_test():
    assert median_ratio([2.0, 30.0, 4.0], [1.0, 10.0, 2.0]).median == 2.0
    found = median_ratio([float(value) for value in range(1, 21)], [1.0] * 20)
    assert found == Ratio(10.5, 6.0, 15.0)  # 20 values: the 6th and the 15th
    few = median_ratio([1.0, 2.0, 3.0], [1.0] * 3)
    assert few.median == 2 and isnan(few.low) and isnan(few.high)
    assert few.as_json(shift=-1) == {"median": 1.0, "low": None, "high": None}
    assert Ratio(0.5, 0.4, 0.8).inverse() == Ratio(2.0, 1.25, 2.5)


def test_all_have_their_turn_in_each_round_and_one_thread_is_timed_by_its_own_time():
    calls, ticks = [], count()
    works = {name: partial(calls.append, name) for name in "ab"}
    times = rounds_of(works, 2, count().__next__, ticks.__next__)
    assert calls == list("ababab") and next(ticks) == 2  # the first round does not count
    assert times == {"a": [1.0, 1.0], "b": [1.0, 1.0]}
    (one, _), (two, clock) = (Scope(threads=threads).named_clock for threads in (1, 2))
    assert (one, two) == ("processor time", "wall time") and clock() > 0


def test_the_peak_is_of_what_is_held_at_once():
    def work():
        first = torch.zeros(10 * MEGABYTE)
        second = first + 1
        del first
        return second * 2

    assert peak_bytes(work) / 1e6 == pytest.approx(20, abs=0.1)
    layer = nn.Linear(10, 10, bias=False)
    layer.register_buffer("bank", torch.zeros(25), persistent=False)
    assert methods.state_bytes(layer) == 4 * 125


def test_lock_step_ends_with_the_weights_of_separate_steps_on_batches_without_end():
    both = ["kd", "dct"]
    create = partial(bench, pairs.noise(20, classes=16), *both)
    assert same_weights(create(), create(), both, 3)
    other = create()
    other.step(other.batch(), "dct")
    assert not same_weights(create(), other, both, 1)
    data = pairs.noise(20)
    for batches in (endless(Batches(data, 8), 0), pairs.their_batches(data, 8, CPU)):
        assert {next(batches).images.shape for _ in range(5)} == {(8, 3, 32, 32)}


def test_shares_are_of_the_work_over_rate_and_time_and_add_up_to_one():
    assert speed.matrix_rate(CPU, torch.float32, scope(1).clock) == 2 * 1024**3
    found = speed.share_of_floor(*SMALL, 32, 4, scope(rounds=1), int)
    rate = found["matrix_gigaflops_a_second"] * 1e9
    assert found["share"] == pytest.approx(found["gigaflops_a_step"] * 1e9 / rate, abs=1e-2)
    assert found["seconds"] == 1.0
    one = bench(pairs.noise(16, classes=16), "dct")
    shares = speed.breakdown(one, "dct")
    assert sum(shares.values()) == pytest.approx(1, abs=1e-3)
    named = {"convolution", "batch norm", "ReLU", "loss", "optimiser", "loader", "other"}
    assert set(shares) == named and min(shares.values()) > 0
    assert "forward" not in vars(one.trainees["dct"].distiller)


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
        assert main([*TINY, *FEW, f"--to={folder}"]) == 0
        (path,) = (folder / "speed").iterdir()
        first = read(path)
        path.write_text(json.dumps({**first, "methods": {}}))
        printed.truncate(0)
        assert main(["--only", "floor", *FEW, f"--to={folder}"]) == 0
    return folder, first, printed.getvalue()


def test_a_run_measures_every_section(measured, tmp_path):
    folder, record, _ = measured
    assert set(record) == {*speed.SECTIONS, "goals"}
    assert set(record["methods"]["eager"]["methods"]) == set(speed.METHODS)
    assert {row["image_size"] for row in record["floor"]["steps"]} == {32}
    ways = record["pairs"]["pairs"][0]["images_per_second"]
    assert min(ways.values()) > 0 and pairs.LOCKSTEP in ways
    spent = record["notebooks"]["seconds"]
    difference = spent["notebook"] - spent["program"]
    assert record["notebooks"]["added_seconds"] == pytest.approx(difference, abs=0.02)
    check_parameters(speed.write_notebook(tmp_path / "tiny.ipynb"), {"images": 8})
    (path,) = folder.glob("*float32.json")
    steps = read(path)
    assert set(steps["overhead"]) == {"kd", "at", "dct", "dct+kd"}
    assert steps["lock_step"]["identical"] is True
    assert list(steps["lock_steps"]) == ["1", "2", "4", "8"]
    assert steps["lock_steps"]["4"] == steps["lock_step"]["speedup"]
    assert steps["images_per_second"]["composing"] > 0 < steps["images_per_second"]["reading"]
    assert steps["provenance"]["threads"] == 1 and steps["provenance"]["versions"]["torch"]
    for one in (steps, record["breakdown"]):
        assert one["provenance"]["machine"] == machine_name(CPU)


def test_sections_are_printed_and_those_left_out_are_kept(measured):
    folder, first, printed = measured
    (path,) = (folder / "speed").iterdir()
    record = read(path)
    assert record["breakdown"] == first["breakdown"] and record["methods"] == {}
    assert all(section_text(name, [record]) in printed for name in ("floor", "goals"))
    texts = [section_text(name, [record]) for name in SPEED.keys() - {"steps"}]
    (path,) = folder.glob("*float32.json")
    texts.append(section_text("steps", [read(path)]))
    assert all(text in page("docs/speed.md", folder) for text in texts)
    without = section_text("steps", [{**read(path), "torchdistill": None}])
    assert "identical" in without and "`make bench` installs it" in without
    assert all(f"--only {section}`" in section_text(name, []) for name, section in SPEED.items())


def test_methods_are_timed_where_they_are_at_home_with_the_options_of_their_runs():
    images, objects = (methods.timed_methods(task) for task in ("classification", "detection"))
    assert objects == ["kd_cls", "loc", "kd_loc", "kd_cls_loc"]
    assert {"kd", "srm", "frskd"} <= set(images)
    assert not {"frskd_pixels", "student", "srm_init", *objects} & set(images)
    runs = expand("full", methods=["reviewkd", "at", "srm"], seeds=[0])
    assert [methods.run_of(run.method, "full") for run in runs] == runs
    options = [methods.run_of("reviewkd", profile).method_options for profile in ("full", "paper")]
    assert options[0] != options[1]
    stages = [(part.method, part.epochs) for part in methods.parts_of(runs[2])]
    assert stages == [("srm_init", 2), ("srm", 3)]


@pytest.mark.parametrize(
    ("task", "student", "names"),
    [
        ("classification", "scenes_small", ["at", "frskd", "srm", "vid"]),
        ("detection", "scenes_ssd_tiny", ["kd_cls_loc", "loc"]),
    ],
)
def test_costs_of_methods_are_written_as_figures_read_them(tmp_path, capsys, task, student, names):
    path, how = tmp_path / "costs.json", [*TINY[::2], f"--student={student}", TINY[3]]
    few = ["--rounds=2", "--images=20", f"--task={task}", "--methods", *names]
    assert main(["methods", *how, *few, f"--to={path}"]) == 0
    (plan, costs), record = read_costs(path), read(path)
    assert plan == {"teacher": "scenes_small", "student": student, "image_size": 32}
    assert set(costs) == set(names) and record["provenance"]["threads"] == 1
    assert methods.report(record) in capsys.readouterr().out
    found = record["methods"]
    if task == "classification":
        assert costs["vid"]["memory"] > 1 < costs["vid"]["time"] and costs["frskd"]["memory"] > 1
        assert costs["srm"]["time"] > 0.5  # as its student's epochs cost
    else:  # detectors are measured beside a plain step too
        assert record["plan"]["crop_size"] == 16 and "over a plain step" in methods.report(record)
        both = found["kd_cls_loc"]
        assert both["plain"]["memory"]["ratio"] >= both["memory"]["ratio"] > 1
        assert found["loc"]["plain"]["memory"] == found["loc"]["memory"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--only steps --teacher scenes_lage", "scenes_large"),
        ("--only steps --batch-size 0", "batch_size"),
        ("--only floor --device vulkano", "vulkano"),
        ("--only flor", "Did you mean .floor"),
        ("methods --methods vdi --images 20", "Did you mean 'vid'"),
        ("methods --task detection --methods at --images 8", "'at' is no method of detectors"),
    ],
)
def test_a_mistake_is_told_without_a_traceback(tmp_path, capsys, words, message):
    assert main([*words.split(), f"--to={tmp_path / 'results'}"]) == 2
    assert re.search(message, capsys.readouterr().err) and not list(tmp_path.iterdir())


def test_the_loading_of_photographs_is_measured_both_ways(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_CACHE", "somewhere")
    assert main(f"loading --images 4 --epochs 1 --to {tmp_path / 'loading.json'}".split()) == 0
    record = read(tmp_path / "loading.json")
    assert [row["size"] for row in record["photographs"]] == ["500 x 400", "340 x 256"]
    for row in record["photographs"]:
        assert row["same_pixels"] is True
        assert min(*row["decoded"].values(), *row["cached"].values(), row["making"]) > 0
    assert {"machine", "cores", "commit", "versions"} <= set(record["provenance"])
    assert os.environ["KDLIB_CACHE"] == "somewhere"


def test_commands_are_timed_in_a_fresh_clone(tmp_path):
    path = tmp_path / "commands.json"
    path.write_text('{"make test": {"seconds": 60}}')
    assert main(["commands", "git status", f"--to={path}"]) == 0
    found = read(path)
    assert found["make test"] == {"seconds": 60} and len(found["git status"]["commit"]) == 40


def verdicts(device, sections, overhead=0.02):
    lock_step = {"students": list("abcd"), "speedup": {"median": 1.7}}
    found = {"dct": {"median": overhead}, "at": {"median": 0.04}}
    step = {"provenance": {"precision": "float32"}, "overhead": found, "lock_step": lock_step}
    return {goal["name"]: goal["met"] for goal in judge(sections, [step], device)}


def test_goals_are_judged_on_the_device_they_are_of():
    pair = {"teacher": "a", "student": "b", "batch_size": 64}
    both = {"each at its best": {"median": 1.4}, "students in lock-step": {"median": 1.6}}
    sections = {"pairs": {"pairs": [{**pair, "ratios": both}]}}
    sections["floor"] = {"steps": [{"image_size": 224, "share": 0.7}]}
    peers, share = "images a second over torchdistill's", "share of the floor, resnet50 > resnet18"
    share = f"{share}, 224 pixels, bfloat16"
    alone, together = (f"{peers}, a > b, batch 64, {how}" for how in both)
    steps = dict.fromkeys(("AT overhead, float32", "DCT overhead, float32"), True)
    steps["lock-step over separate steps, 4 students, float32"] = True
    unknown = {"DCT overhead, compiled": None, share: None, peers: None}
    assert verdicts("cpu", sections) == {**steps, alone: False, together: True, **unknown}
    assert verdicts("cpu", {}, 0.031) == {**steps, "DCT overhead, float32": False, **unknown}
    compiled = {"methods": {"dct": {"time": {"median": 1.06}}}}
    on_gpu = verdicts("cuda", {**sections, "methods": {"compiled": compiled}})
    known = {"DCT overhead, compiled": False, share: True}
    assert on_gpu == {**unknown, **known, alone: False, together: False}  # more is wanted of a GPU


def test_torchdistill_computes_our_losses_and_is_measured_beside_us():
    pytest.importorskip("torchdistill", reason="`make bench` installs it")
    for method in speed.SHARED_METHODS:
        ours = bench(pairs.noise(20, classes=16), method)
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
