"""Figures: the tables they are drawn from, what fits on them, and their bytes on disk."""

import json
import re
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats
from synthetic import TOP1, fits, write_analyses, write_detectors, write_grid, write_run

from kdlib import METHODS, KdlibError, RunConfig
from study import figures
from study.figures import FIGURES, comparison, draw_all, drawings, figure_named
from study.figures.style import PNG_BYTES, figure_provenance, save_figure
from study.names import CONTROL, FAMILIES, look, name_of
from study.records import load_records

mpl.use("Agg")
ROOT = Path(__file__).parents[2]
DETECTION = [name for name, entry in FIGURES.items() if entry.task == "detection"]
THREE = ["student", "at", "dct"]
WEIGHTS = (0.03, 0.1, 0.3, 1.0)
SSD = RunConfig(task="detection", student="scenes_ssd", teacher="scenes_medium", crop_size=16)
ABLATED = [  # one choice of a method changed at seed 0 alone
    {"method": "kd_cls", "method_options": {"temperature": 1.0}},
    {"method": "kd_loc", "method_options": {"layers": [0]}},
    *({"method": method, "crop_size": 24} for method in ("kd_cls", "kd_loc")),
    {"student": "scenes_retinanet", "method": "kd_cls", "method_options": {"sigmoid": "kl_ce"}},
]
near = pytest.approx


def table_of(name, runs):
    return figure_named(name).table(runs)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Of each figure of classifiers the runs of a setting that was analysed, and of a grid."""
    root = tmp_path_factory.mktemp("made")
    write_analyses(write_grid(root, TOP1))
    for method, weight in product(("student", "dct", "at", "at+kd"), WEIGHTS):
        run = RunConfig(method=method, weight=weight, split="dev")
        write_run(root, run, TOP1[method] + weight / 9 * (method != "student"))
    return {name: runs for name, _, runs in drawings(load_records(root))}


@pytest.fixture(scope="module")
def detectors(tmp_path_factory):
    """Records for the figures of detectors, by the figure's name."""
    folders = {name: tmp_path_factory.mktemp(name) for name in DETECTION}
    ablations, weights = (folders[f"detection_{name}"] for name in ("ablations", "weights"))
    for root in (folders["detection_gain"], ablations):
        write_detectors(root, SSD)
    write_detectors(ablations, replace(SSD, student="scenes_retinanet"), ["student", "kd_cls"], [0])
    for place, fields in enumerate(ABLATED):
        write_run(ablations, replace(SSD, **fields), 0.42 + 0.01 * place)
    write_run(weights, replace(SSD, split="dev"), 0.4)
    for method, weight in product(("kd_cls", "kd_loc"), WEIGHTS):
        run = replace(SSD, split="dev", method=method, weight=weight)
        write_run(weights, run, 0.4 + weight / 9)
    made = [(name, one) for name, one in folders.items() if any(one.iterdir())]
    found = {name: load_records(one, task="detection") for name, one in made}
    return {**dict.fromkeys(DETECTION, found["detection_gain"]), **found}


@pytest.mark.parametrize("name", [name for name, one in FIGURES.items() if not one.profiles])
def test_a_figure_cuts_nothing_off_and_refuses_what_has_nothing_to_show(name, made, detectors):
    runs = detectors[name] if name in DETECTION else made[name]
    figure = figure_named(name)(runs)
    assert fits(figure)
    labels = figure.axes[0].get_yticklabels() if figure.axes[0].axison else []
    boxes = [label.get_window_extent() for label in labels]
    assert all(lower.y1 <= upper.y0 + 0.5 for lower, upper in pairwise(boxes))
    # Runs without anything to show are refused.
    alone, others = runs[runs["label"] == "student"], made["ssim_by_stage"]
    for nothing in (alone, others, runs.iloc[:0]) if name in DETECTION else (runs.iloc[:0],):
        assert table_of(name, nothing).empty
    with pytest.raises(KdlibError, match="nothing to show"):
        figure_named(name)(nothing)


def test_committed_figures_show_what_the_records_say_and_there_are_no_others():
    """Numbers of most tables are held by this alone."""
    there = {path.stem for path in (ROOT / "figures").iterdir()}
    for name, slug, runs in drawings(load_records(ROOT / "records", task=None)):
        if len(data := table_of(name, runs)):
            said = json.loads((ROOT / "figures" / f"{name}-{slug}.json").read_text())
            assert json.loads(json.dumps(figure_provenance(runs, data))) == said
            there.remove(f"{name}-{slug}")
    assert not there


def test_means_have_the_interval_of_scipy(made):
    runs = made["ssim_by_stage"]
    data, values = table_of("ssim_by_stage", runs), runs.loc[runs["label"] == "dct", "ssim_1"]
    dct = data[(data["label"] == "dct") & (data["stage"] == 1)].iloc[0]
    expected = stats.t.interval(0.95, len(values) - 1, loc=values.mean(), scale=stats.sem(values))
    assert dct[["low", "high"]].tolist() == near(list(expected)) and dct["n"] == len(values) > 1
    assert "student" not in set(data["label"])


def test_one_seed_is_drawn_without_an_interval(tmp_path):
    single = load_records(write_grid(tmp_path, THREE, seeds=[0]))
    assert table_of("ssim_by_stage", single)["low"].isna().all()
    assert figure_named("ssim_by_stage")(single)
    assert table_of("class_changes", single).empty
    both = load_records(write_grid(tmp_path, THREE, student="scenes_small"))
    with pytest.raises(KdlibError, match="several settings"):
        figure_named("ssim_by_stage")(both)


def test_weights_are_told_in_multiples_of_the_default(made, detectors):
    runs = made["weight_sensitivity"]
    found = table_of("weight_ablation", runs).set_index("factor")["top1"]
    assert found.index.dropna().tolist() == [weight / METHODS["dct"].weight for weight in WEIGHTS]
    assert found.dropna().iloc[0] == near(TOP1["student"])
    assert table_of("weight_sensitivity", runs.drop_duplicates("method")).empty
    found = table_of("detection_weights", detectors["detection_weights"])
    own = found[found["method"] == "kd_cls"]
    assert own["factor"].tolist() == near([weight / 0.4 for weight in WEIGHTS])
    assert own["map"].tolist() == near([0.4 + weight / 9 for weight in WEIGHTS])
    assert set(found["method"]) == {"student", "kd_cls", "kd_loc"}
    table = detectors["detection_ablations"]  # which are compared apart from the methods themselves
    main = table[table["student"] == "scenes_ssd"]
    for name in ("detection_gain", "detection_iou", "error_types"):
        assert table_of(name, main).equals(table_of(name, detectors["detection_gain"]))


def test_analyses_are_of_their_runs_and_a_shared_teacher_is_not_drawn_alone(tmp_path):
    first, *_ = write_analyses(write_grid(tmp_path, THREE))
    write_grid(tmp_path, ["student", "dct"], student="scenes_small")
    both = load_records(tmp_path)
    runs = both[both["student"] != "scenes_small"]
    for name in ("calibration", "robustness", "map_spectra", "attention_maps", "correct_incorrect"):
        assert table_of(name, both[both["student"] != "scenes_medium"]).empty
    assert not any("/" in str(value) for value in table_of("attention_maps", runs).to_numpy().flat)
    first.write_text(first.read_text().replace(first.parent.name, "elsewhere"))
    with pytest.raises(KdlibError, match="elsewhere.*analyse the run again"):
        table_of("calibration", runs)


def test_costs_that_are_missing_or_of_other_networks_show_nothing(made, tmp_path, monkeypatch):
    runs, costs = made["ssim_by_stage"], comparison.accuracy_cost_table
    assert len(costs(runs))
    record, path = json.loads(comparison.COSTS.read_text()), tmp_path / "costs.json"
    monkeypatch.setattr(comparison, "COSTS", path)
    assert costs(runs).empty
    path.write_text(json.dumps({**record, "plan": {**record["plan"], "student": "scenes_mobile"}}))
    assert costs(runs).empty
    path.write_text(re.sub(r'"low": [\d.]+', '"low": null', json.dumps(record)))  # few rounds
    assert costs(runs)["time"].clip(1).is_monotonic_increasing
    for damaged in ("{", "[]", "{}", json.dumps({**record, "methods": {"at": {"time": 1}}})):
        path.write_text(damaged)
        with pytest.raises(KdlibError, match="holds no costs of methods .* benchmarks methods"):
            costs(runs)


def test_files_are_small_and_the_same_each_time_and_name_the_records(made, tmp_path):
    runs = made["ssim_by_stage"]
    figure, drawn = figure_named("ssim_by_stage"), pd.DataFrame({"a": [1.0, 2.0]})
    found = figure_provenance(runs, drawn)
    first, again = (save_figure(figure(runs), tmp_path / one / "f", found) for one in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in again]
    assert set(found["records"]) == set(runs["run_id"]) and found["uncommitted"] == []
    assert found["table"] == ["a", "1", "2"]
    assert figure_provenance(runs, drawn + 1e-6)["hash"] != found["hash"]
    noise = mpl.figure.Figure(figsize=(3, 3))
    noise.figimage(np.random.default_rng(0).random((900, 900, 3)), resize=False)
    _, png, _ = save_figure(noise, tmp_path / "noise", {})
    assert png.stat().st_size <= PNG_BYTES and Image.open(png).size[0] < 660


def test_a_folder_of_records_is_drawn_setting_by_setting(tmp_path, monkeypatch):
    few = ("ssim_by_stage", "detection_iou")
    monkeypatch.setattr(figures, "FIGURES", {name: FIGURES[name] for name in few})
    root = tmp_path / "records"
    write_detectors(root, SSD, ["student", "kd_cls"], [0, 1])
    write_grid(root, THREE, seeds=[0, 1], attentions=(1, 2))
    # A teacher of the students' kind is drawn once.
    same = {"teacher": "scenes_medium", "epochs": 5, "teacher_epochs": 5}
    write_grid(root, THREE, dataset="fashion_scenes", **same)
    written = draw_all(root, tmp_path / "out")
    assert {path.stem for path in written} == {
        "ssim_by_stage-scenes-a1", "ssim_by_stage-scenes-a2", "ssim_by_stage-fashion_scenes-a2",
        "detection_iou-scenes-a2-scenes_ssd",
    }  # fmt: skip
    assert len(written) == 4 * 3 and all(path.stat().st_size > 0 for path in written)
    beside = json.loads((tmp_path / "out" / "ssim_by_stage-scenes-a2.json").read_text())
    assert len(beside["records"]) == 3 * 2 + 1


def test_every_method_has_a_look_and_no_two_families_share_one():
    looks = {(colour, marker) for _, colour, marker in FAMILIES.values()} | {CONTROL}
    assert len(looks) == len(FAMILIES) + 1
    for method in METHODS:
        assert look(f"{method}+kd").colour == look(method).colour and name_of(method)
    assert look("dct+kd").face == "white" and look("dct+gate").line == "--"
    chosen = 'dct_options [method_options={"band": ["low", 4], "drop_dc": false}, weight=3.9]'
    hot = 'kd_cls [method_options={"temperature": 4.0}, weight=1.2000000000000002]'
    names = {
        "at_equal_scale+kd [weight=2]": "AT, balanced + KD [weight=2]",
        chosen: "DCT, band low 4, drop_dc false",
        hot: "KD_cls, temperature 4.0, weight 1.2",
        "kd_loc [method_options={}, weight=nan, crop_size=24]": "KD_loc, crop_size 24",
    }
    assert {label: name_of(label) for label in names} == names
    assert look(chosen) == look("dct_options")
