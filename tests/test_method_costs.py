"""The costs of methods' steps: memory is exact, and a tiny run measures, prints and writes."""

import json

import pytest
import torch
from torch import nn

from benchmarks.methods import main, parts_of, report, run_of, timed_methods
from benchmarks.timing import peak_bytes, state_bytes
from study.figures.cost import read_costs
from study.profiles import expand

MEGABYTE = 250_000  # float32 numbers


def test_the_peak_is_of_what_is_held_at_once():
    def work():
        first = torch.zeros(10 * MEGABYTE)
        second = first + 1
        del first
        return second * 2

    assert peak_bytes(work) / 1e6 == pytest.approx(20, abs=0.1)


def test_the_state_of_a_module_counts_buffers_too():
    layer = nn.Linear(10, 10, bias=False)
    layer.register_buffer("bank", torch.zeros(25), persistent=False)
    assert state_bytes(layer) == 4 * 125


def test_a_tiny_run_writes_what_figures_read(tmp_path, capsys):
    path = tmp_path / "costs.json"
    tiny = ["--teacher=scenes_small", "--student=scenes_small", "--image-size=32", "--batch-size=8"]
    assert main([*tiny, "--rounds=2", "--images=20", "--methods", "at", "vid", f"--to={path}"]) == 0
    record, (plan, costs) = json.loads(path.read_text()), read_costs(path)
    assert plan == {"teacher": "scenes_small", "student": "scenes_small", "image_size": 32}
    assert set(costs) == {"at", "vid"} and costs["vid"]["memory"] > 1 < costs["vid"]["time"]
    assert record["provenance"]["threads"] == 1 and report(record) in capsys.readouterr().out


def test_a_method_has_the_options_of_the_runs_whose_gain_stands_beside_its_cost():
    runs = expand("full", methods=["reviewkd", "at", "srm"], seeds=[0])
    assert [run_of(run.method, "full") for run in runs] == runs
    options = [run_of("reviewkd", profile).method_options for profile in ("full", "paper")]
    assert options[0] != options[1]


def test_a_method_in_stages_costs_what_its_students_epochs_do(tmp_path):
    path = tmp_path / "costs.json"
    tiny = ["--teacher=scenes_small", "--student=scenes_small", "--image-size=32", "--batch-size=8"]
    assert [(part.method, part.epochs) for part in parts_of(run_of("srm", "full"))] == [
        ("srm_init", 2), ("srm", 3),
    ]  # fmt: skip
    methods = ["--methods", "srm", "frskd", f"--to={path}"]
    assert main([*tiny, "--rounds=2", "--images=20", *methods]) == 0
    costs = read_costs(path)[1]
    assert costs["srm"]["time"] > 0.5 and costs["frskd"]["time"] > 1


def test_an_unknown_method_is_told(tmp_path, capsys):
    assert main(["--methods", "vdi", "--images=20", f"--to={tmp_path / 'costs.json'}"]) == 2
    assert "Did you mean 'vid'" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_detectors_are_measured_beside_a_plain_step_too(tmp_path, capsys):
    path = tmp_path / "detectors.json"
    tiny = ["--teacher=scenes_small", "--student=scenes_ssd_tiny", "--image-size=32"]
    few = ["--batch-size=8", "--rounds=2", "--images=16", "--methods", "loc", "kd_cls_loc"]
    assert main(["--task=detection", *tiny, *few, f"--to={path}"]) == 0
    record, (plan, costs) = json.loads(path.read_text()), read_costs(path)
    assert plan == {"teacher": "scenes_small", "student": "scenes_ssd_tiny", "image_size": 32}
    assert set(costs) == {"loc", "kd_cls_loc"} and record["plan"]["crop_size"] == 16
    both = record["methods"]["kd_cls_loc"]
    assert both["plain"]["memory"]["ratio"] >= both["memory"]["ratio"] > 1
    loc = record["methods"]["loc"]
    assert loc["plain"]["memory"] == loc["memory"]
    assert "over a plain step" in capsys.readouterr().out


def test_methods_are_timed_where_they_are_at_home():
    images, objects = timed_methods("classification"), timed_methods("detection")
    assert objects == ["kd_cls", "loc", "kd_loc", "kd_cls_loc"]
    assert {"kd", "srm", "frskd"} <= set(images)
    assert not {"frskd_pixels", "student", "srm_init", *objects} & set(images)


def test_a_method_of_images_is_none_of_detectors(tmp_path, capsys):
    where = f"--to={tmp_path / 'costs.json'}"
    assert main(["--task=detection", "--methods", "at", "--images=8", where]) == 2
    assert "at" in capsys.readouterr().err and not list(tmp_path.iterdir())
