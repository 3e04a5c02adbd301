"""Figures: the tables they are drawn from, what fits on them, and their bytes on disk."""

import hashlib
import json
from itertools import pairwise
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from detection.detector_runs import (
    DAP,
    MAP,
    WEIGHTS,
    write_ablations,
    write_detectors,
    write_weights,
)
from PIL import Image
from scipy import stats
from synthetic import edit_record, scatter, write_analyses, write_grid, write_run

from kdlib.errors import KdlibError
from kdlib.methods import METHODS
from kdlib.runs import RunConfig
from study import figures
from study.figures import FIGURES, cost, draw_all, drawings, figure_named
from study.figures.analyses import class_names
from study.figures.style import PNG_BYTES, figure_provenance, save_figure
from study.names import CONTROL, FAMILIES, look, name_of
from study.records import load_records
from study.statistics import paired_comparison

mpl.use("Agg")
ROOT = Path(__file__).parents[2]
DETECTION = [name for name, entry in FIGURES.items() if entry.task == "detection"]
OF_ANALYSES = ("calibration", "robustness", "map_spectra", "attention_maps", "correct_incorrect")


def table_of(name, runs):
    return figure_named(name).table(runs)


def costs_at(path, student, times, low=None):
    """A file of made-up costs: each method's time of a step over its floor."""
    bounds = {
        name: {"low": low and time + low, "high": low and time} for name, time in times.items()
    }
    methods = {
        name: {"time": {"median": time, **bounds[name]}, "memory": {"ratio": 1.5}}
        for name, time in times.items()
    }
    teacher = "scenes_medium" if "ssd" in student else "scenes_large"
    plan = {"teacher": teacher, "student": student, "image_size": 64}
    path.write_text(json.dumps({"methods": methods, "plan": plan}))
    return path


@pytest.fixture(scope="module", autouse=True)
def costs(tmp_path_factory):
    """DCT takes a tenth more time than the floor, AT a twentieth; the like of detectors."""
    folder = tmp_path_factory.mktemp("costs")
    shares = {"at": 1.05, "dct": 1.1, "release_a": 1.2, "pkt": 1.3}
    of_detectors = {"kd_cls": 1.1, "loc": 1.05, "kd_loc": 1.3, "kd_cls_loc": 1.4}
    with pytest.MonkeyPatch.context() as patch:
        made = costs_at(folder / "costs.json", "scenes_medium", shares)
        patch.setattr(cost, "COSTS", made)
        made = costs_at(folder / "detectors.json", "scenes_ssd", of_detectors)
        patch.setattr(cost, "DETECTOR_COSTS", made)
        yield


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = write_grid(tmp_path_factory.mktemp("one"), seeds=range(4))
    write_analyses(root)
    return load_records(root)


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    """Records for the figures that are not of one setting's classifiers, by the figure's name."""
    folders = {name: tmp_path_factory.mktemp(name) for name in FIGURES}
    grid, three = folders["weight_sensitivity"], ["student", "at", "dct"]
    write_grid(folders["attentions_gain"], three, attentions=(1, 2, 3, 4))
    for student in ("scenes_medium", "scenes_small"):
        write_grid(folders["architecture_gain"], three, student=student)
    write_run(folders["architecture_gain"], RunConfig(method="kd"), 0.5)  # one student's alone
    for weight in (1.0, 4.0, 12.0):
        write_grid(grid, ["dct", "at", "dct+kd"], seeds=[0], split="dev", weight=weight)
    write_grid(grid, ["student"], seeds=[0], split="dev")
    write_detectors(folders["detection_gain"])
    write_ablations(folders["detection_ablations"])
    write_weights(folders["detection_weights"])
    found = {
        name: load_records(one, task=None) for name, one in folders.items() if any(one.iterdir())
    }
    of_detectors = dict.fromkeys(DETECTION, found["detection_gain"])
    return {"weight_ablation": found["weight_sensitivity"], **of_detectors, **found}


@pytest.mark.parametrize("name", FIGURES)
def test_nothing_is_cut_off_and_names_do_not_overlap(name, runs, others):
    figure = figure_named(name)(others.get(name, runs))
    figure.draw_without_rendering()
    drawn, size = figure.get_tightbbox(), figure.get_size_inches()
    assert drawn.min.min() >= -0.01 and (drawn.max <= size + 0.01).all()
    labels = figure.axes[0].get_yticklabels() if figure.axes[0].axison else []
    boxes = [label.get_window_extent() for label in labels]
    assert all(lower.y1 <= upper.y0 + 0.5 for lower, upper in pairwise(boxes))


@pytest.mark.parametrize("name", FIGURES)
def test_runs_without_anything_to_show_are_refused(name, runs, others):
    assert table_of(name, runs.iloc[:0]).empty
    if name in DETECTION:
        detectors = others["detection_gain"]
        assert table_of(name, detectors[detectors["label"] == "student"]).empty
        with pytest.raises(KdlibError, match="nothing to show"):
            figure_named(name)(runs)


def test_committed_figures_show_what_the_records_say():
    seen = set()
    for name, slug, runs in drawings(load_records(ROOT / "records", task=None)):
        committed = ROOT / "figures" / f"{name}-{slug}.json"
        if name not in seen and "cost" not in name and committed.exists():
            seen.add(name)
            beside = figure_provenance(runs, table_of(name, runs))
            assert json.loads(json.dumps(beside)) == json.loads(committed.read_text())
    assert len(seen) == len(FIGURES) - 2


def test_accuracies_come_with_the_t_interval_of_scipy(runs):
    data = table_of("method_accuracy", runs)
    dct = data[data["label"] == "dct"]
    values = runs.loc[runs["label"] == "dct", "top1"]
    expected = stats.t.interval(0.95, 3, loc=values.mean(), scale=stats.sem(values))
    assert dct.iloc[0][["low", "high"]].tolist() == pytest.approx(list(expected))
    assert sorted(dct["top1"]) == pytest.approx(sorted(values)) and set(dct["n"]) == {4}
    assert data.loc[data["label"] == "teacher", "low"].isna().all()


def test_stages_of_students_teacher_and_chance_are_there(runs):
    data = table_of("relevance_by_stage", runs)
    assert set(data["stage"]) == {1, 2, 3} and np.allclose(data["chance"], 0.2)
    teacher = data[(data["label"] == "teacher") & (data["measure"] == "pointing")]
    assert teacher["mean"].tolist() == [0.5, 0.6, 0.7]
    assert "student" not in set(table_of("ssim_by_stage", runs)["label"])


def test_the_gauge_holds_the_differences_seed_by_seed(runs):
    data = table_of("noise_gauge", runs)
    twin = data[data["pair"] == "dct parseval_twin"]
    students = runs[runs["setting"] == runs.loc[runs["method"] == "dct", "setting"].iloc[0]]
    found = paired_comparison(students, "dct", "parseval_twin")
    assert twin["difference"].mean() == pytest.approx(found.difference)
    assert set(data["noise"]) == {found.resolvable} and len(twin) == 4


def test_curves_span_the_seeds(runs):
    data = table_of("training_curves", runs)
    last = data[(data["label"] == "dct") & (data["epoch"] == 15)].iloc[0]
    values = runs.loc[runs["label"] == "dct", "top1"] * (1 - 0.5 / 15)
    found = last[["low", "mean", "high"]].tolist()
    assert found == pytest.approx([values.min(), values.mean(), values.max()], abs=1e-4)


def test_gains_grow_with_attentions_as_they_were_made_to(others):
    data = table_of("attentions_gain", others["attentions_gain"])
    over_at = data[data["baseline"] == "at"]
    assert over_at["attentions"].tolist() == [1, 2, 3, 4]
    expected = [0.05 * (1 + (n - 2) / 3) for n in (1, 2, 3, 4)]
    assert over_at["difference"].tolist() == pytest.approx(expected, abs=0.006)
    with pytest.raises(KdlibError, match="several settings"):
        figure_named("method_accuracy")(others["attentions_gain"])


def test_gains_of_two_students_are_of_methods_that_both_have(runs, others):
    found = table_of("architecture_gain", others["architecture_gain"])
    assert set(found["method"]) == {"at", "dct"}
    assert set(found["student"]) == {"scenes_medium", "scenes_small"}
    assert table_of("architecture_gain", runs).empty


def test_one_seed_is_drawn_without_an_interval(tmp_path):
    single = load_records(write_grid(tmp_path, ["student", "at", "dct"], seeds=[0]))
    assert table_of("method_accuracy", single)["low"].isna().all()
    for name in ("method_accuracy", "ssim_by_stage"):
        figure_named(name)(single)
    with pytest.raises(KdlibError, match="nothing to show"):
        figure_named("noise_gauge")(single)


def dev_grid(root, **weights):
    """Dev-split runs: accuracy 0.5 at the first weight of a method, 0.6 at the second."""
    for method, pair in weights.items():
        field = "kd_weight" if method == "kd" else "weight"
        for top1, weight in zip((0.5, 0.6), pair, strict=False):
            write_run(root, RunConfig(method=method, split="dev", **{field: weight}), top1)
    write_run(root, RunConfig(split="dev"), 0.4)
    return load_records(root)


def test_weights_are_told_in_multiples_of_the_default(tmp_path, others):
    for mu in (1.5, 2.0):  # it has no weight, and is not compared by it
        options = {"mu": mu}
        write_run(tmp_path, RunConfig(method="srm", split="dev", method_options=options), 0.5)
    table = dev_grid(tmp_path, dct=(4.0, 0.4), kd=(1.0, 3.0))
    found = table_of("weight_sensitivity", table)
    of_dct = found[found["method"] == "dct"]
    assert of_dct["factor"].tolist() == pytest.approx([0.1, 1.0])
    assert of_dct["top1"].tolist() == [0.6, 0.5]
    assert found.loc[found["method"] == "kd", "factor"].tolist() == [1, 3]
    assert found.loc[found["method"] == "student", "top1"].tolist() == [0.4]
    assert set(found["method"]) == {"student", "dct", "kd"}
    assert set(table_of("weight_ablation", table)["method"]) == {"student", "dct"}
    found = table_of("detection_weights", others["detection_weights"])
    own = found[found["method"] == "kd_cls"]
    assert own["factor"].tolist() == pytest.approx([weight / 0.4 for weight in WEIGHTS])
    assert own["map"].tolist() == pytest.approx([0.4 + weight / 9 for weight in WEIGHTS])
    assert set(found["method"]) == {"student", "kd_cls", "kd_loc"}


def test_a_single_weight_is_no_ablation(tmp_path):
    assert table_of("weight_sensitivity", dev_grid(tmp_path, dct=(4.0,))).empty


def test_frskd_stands_for_its_variants(tmp_path):
    write_grid(tmp_path, ["student", "kd"])
    for method in ("frskd", "frskd_published"):
        write_run(tmp_path, RunConfig(method=method), 0.5)
    found = table_of("method_accuracy", load_records(tmp_path))
    assert set(found["label"]) == {"student", "kd", "frskd", "teacher"}


def test_switches_are_read_from_presets_and_options(tmp_path):
    write_grid(tmp_path, ["dct", "dct_abs", "release_a", "dct+gate", "at", "dct+kd"])
    for options in ({"normalise": "max_ac"}, {"band": ["low", 4]}, {"level_weights": [1, 1, 0]}):
        for seed in range(3):
            run = RunConfig(method="dct_options", method_options=options)
            own = RunConfig.from_dict({**run.to_dict(), "init_seed": seed, "data_seed": seed})
            write_run(tmp_path, own, 0.7)
    found = table_of("transform_ablation", load_records(tmp_path))
    pairs = list(zip(found["switch"], found["value"], strict=True))
    assert pairs == [
        ("transform", "dct_abs"), ("normalise", "max_ac"), ("band", "low 4"),
        ("level_weights", "1 1 0"), ("gate", "on"), ("several", ""),
    ]  # fmt: skip
    assert found.loc[found["switch"] == "several", "label"].tolist() == ["release_a"]
    turned = found[found["value"] == "dct_abs"].iloc[0]
    expected = 0.665 - 0.68 + sum(scatter("dct_abs", s) - scatter("dct", s) for s in range(3)) / 3
    assert turned["difference"] == pytest.approx(expected) and turned["n"] == 3


def test_class_changes_are_paired_and_sorted(tmp_path):
    write_grid(tmp_path, ["student", "at", "dct"], seeds=[0, 1])
    for path in tmp_path.glob("*/record.json"):
        record = json.loads(path.read_text())
        better = record["config"]["method"] == "dct"
        results = {**record["results"], "per_class": [0.5, 0.8 if better else 0.2, None]}
        edit_record(path.parent, results=results)
    found = table_of("class_changes", load_records(tmp_path))
    over_student = found[found["baseline"] == "student"]
    assert over_student["class"].tolist() == ["class 1", "class 2"]
    assert over_student["difference"].tolist() == pytest.approx([0, 0.6])
    assert set(found["n"]) == {2}
    assert class_names("scenes", 16)[0] == "bathroom"
    assert class_names("scenes", 2) == class_names("cifar100", 2) == ("class 1", "class 2")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Analysed runs of a student, and runs of another that has the same teacher."""
    root = tmp_path_factory.mktemp("shared")
    analyses = write_analyses(write_grid(root, ["student", "at", "dct"]))
    write_grid(root, ["student", "dct"], student="scenes_small")
    return load_records(root), analyses


@pytest.fixture
def analysed(shared):
    return shared[0][shared[0]["student"] != "scenes_small"]


@pytest.mark.parametrize("name", OF_ANALYSES)
def test_a_teacher_that_other_students_share_is_not_drawn_alone(shared, analysed, name):
    runs, _ = shared
    assert len(table_of(name, analysed))
    assert table_of(name, runs[runs["student"] != "scenes_medium"]).empty


def test_errors_of_calibration_are_means_over_seeds(analysed):
    found = table_of("calibration", analysed)
    own = analysed[analysed["label"] == "dct"]["top1"]
    dct = found[found["label"] == "dct"]
    assert dct["ece"].tolist() == pytest.approx([(1 - own.mean()) / 10] * 2, abs=1e-6)
    assert dct["bin"].tolist() == [14, 15] and dct["count"].tolist() == [12000, 18000]
    assert dct["accuracy"].tolist() == pytest.approx([own.mean()] * 2, abs=1e-6)
    assert found.loc[found["label"] == "teacher", "n"].tolist() == [1, 1]


def test_robustness_begins_with_whole_images(analysed):
    found = table_of("robustness", analysed).set_index(["corruption", "label", "level"])["mean"]
    mean = analysed[analysed["label"] == "dct"]["top1"].mean()
    assert found["noise", "dct", 0.0] == pytest.approx(mean, abs=1e-6)
    assert found["noise", "dct", 0.1] == pytest.approx(mean / 2, abs=1e-6)


def test_maps_are_of_one_run_a_network(analysed):
    found = table_of("attention_maps", analysed)
    labels = [one for one in ("teacher", "student", "at", "dct") for _ in "ab"]
    assert found["label"].tolist() == labels
    assert found["predicted"].tolist()[:2] == ["beach", "city"]
    assert not any("/" in str(value) for value in found.to_numpy().flat)


def test_images_are_those_that_only_the_teacher_gets_right(analysed):
    found = table_of("correct_incorrect", analysed)
    shares = found.groupby("label")["right"].mean()
    assert shares["teacher"] == 1 and shares["student"] == 0
    assert 0 < shares["at"] < shares["dct"] < 1
    assert (found["answer"] == found["true"]).equals(found["right"])
    first = found.drop_duplicates("position")["shown"]
    assert first.sum() == min(8, len(first))


def test_an_analysis_of_another_run_is_refused(shared, analysed):
    first, text = shared[1][0], shared[1][0].read_text()
    first.write_text(text.replace(first.parent.name, "elsewhere"))
    with pytest.raises(KdlibError, match="elsewhere.*analyse the run again"):
        table_of("calibration", analysed)
    first.write_text(text)


def test_the_front_is_of_those_that_none_as_cheap_surpasses(runs, others, tmp_path, monkeypatch):
    def weighed(*costs):
        monkeypatch.setattr(cost, "COSTS", costs_at(tmp_path / "costs.json", *costs))
        return table_of("accuracy_cost", runs)

    times = {"kd": 0.99, "dct_abs": 1.01, "at": 1.05, "dct": 1.1, "release_a": 1.2}
    found = weighed("scenes_medium", times, -0.02)
    assert dict(zip(found["label"], found["front"], strict=True)) == {
        "dct_abs": True, "kd": False, "at": False, "dct": True, "release_a": False,
    }  # fmt: skip
    assert weighed("scenes_medium", times)["label"].iloc[0] == "kd"  # of few rounds: no bounds
    assert weighed("scenes_mobile", times).empty  # costs of other networks
    cost.COSTS.write_text("{}")
    with pytest.raises(KdlibError, match=r"benchmarks\.methods"):
        table_of("accuracy_cost", runs)
    cost.COSTS.unlink()
    assert table_of("accuracy_cost", runs).empty
    found = table_of("detection_cost", others["detection_cost"])
    assert found["label"].tolist() == ["loc", "kd_cls", "kd_loc", "kd_cls_loc"]
    assert found["front"].tolist() == [True, True, False, True]


def test_gains_of_detectors_are_paired_over_seeds_and_fall_with_the_iou(others):
    found = table_of("detection_gain", others["detection_gain"]).set_index(["label", "metric"])
    differences = [scatter("kd_loc", s) - scatter("student", s) for s in range(3)]
    row = found.loc[("kd_loc", "map")]
    assert row["difference"] == pytest.approx(0.03 + np.mean(differences)) and row["n"] == 3
    assert row["low"] < row["difference"] < row["high"] and len(found) == 4 * 3
    found = table_of("detection_iou", others["detection_iou"])
    own = found[found["label"] == "kd_cls_loc"]
    assert own["iou"].tolist() == pytest.approx(np.arange(0.5, 1, 0.05))
    falls = own["difference"].to_numpy() - own["difference"].iloc[0]
    assert falls == pytest.approx(-(MAP["kd_cls_loc"] - MAP["student"]) * np.arange(10) / 27)


def test_errors_have_a_row_a_run_and_type(others):
    found = table_of("error_types", others["error_types"])
    assert list(dict.fromkeys(found["error"])) == ["cls", "loc", "both", "dupe", "bkg", "miss"]
    own = found[(found["error"] == "cls") & (found["label"] == "kd_cls")]
    expected = [DAP["kd_cls"] + scatter("kd_cls cls", seed) for seed in range(3)]
    assert sorted(own["dap"]) == pytest.approx(sorted(expected))
    assert own["mean"].tolist() == pytest.approx([np.mean(expected)] * 3)


def test_ablations_are_compared_with_the_method_as_it_is(others):
    found = table_of("detection_ablations", others["detection_ablations"])
    names = ["student", "method", "switch", "value", "used"]
    assert [tuple(row) for row in found[names].to_numpy()] == [
        ("scenes_ssd", "kd_cls", "crop_size", "16", True),
        ("scenes_ssd", "kd_cls", "crop_size", "24", False),
        ("scenes_ssd", "kd_cls", "temperature", "1", False),
        ("scenes_ssd", "kd_cls", "temperature", "2", True),
        ("scenes_ssd", "kd_cls", "temperature", "4", False),
        ("scenes_ssd", "kd_loc", "crop_size", "16", True),
        ("scenes_ssd", "kd_loc", "crop_size", "24", False),
        ("scenes_ssd", "kd_loc", "layers", "-1 0", True),
        ("scenes_ssd", "kd_loc", "layers", "-1 0 1", False),
        ("scenes_ssd", "kd_loc", "layers", "0", False),
        ("scenes_retinanet", "kd_cls", "sigmoid", "kl_bce", True),
        ("scenes_retinanet", "kd_cls", "sigmoid", "kl_ce", False),
    ]
    cold = found.iloc[2]
    assert cold["difference"] == pytest.approx(0.42 - MAP["kd_cls"] - scatter("kd_cls", 0))
    assert cold["n"] == 1 and (found.loc[found["used"], "difference"] == 0).all()


@pytest.mark.parametrize("name", ["detection_gain", "detection_iou", "error_types"])
def test_ablations_do_not_enter_the_comparison(name, others):
    table = others["detection_ablations"]
    main = table[table["student"] == "scenes_ssd"]
    assert table_of(name, main).equals(table_of(name, others["detection_gain"]))


def test_saving_twice_gives_the_same_bytes(runs, tmp_path):
    figure = figure_named("noise_gauge")
    beside = figure_provenance(runs, figure.table(runs))
    digests = [
        [hashlib.sha256(path.read_bytes()).hexdigest() for path in saved]
        for saved in (save_figure(figure(runs), tmp_path / one / "f", beside) for one in "ab")
    ]
    assert digests[0] == digests[1]


def test_a_large_picture_is_saved_at_a_lower_resolution(tmp_path):
    noise = mpl.figure.Figure(figsize=(3, 3))
    noise.figimage(np.random.default_rng(0).random((900, 900, 3)), resize=False)
    _, png, _ = save_figure(noise, tmp_path / "noise", {})
    assert png.stat().st_size <= PNG_BYTES and Image.open(png).size[0] < 660


def test_provenance_names_the_records_and_the_drawn_table(runs):
    drawn = pd.DataFrame({"a": [1.0, 2.0]})
    found = figure_provenance(runs, drawn)
    assert set(found["records"]) == set(runs["run_id"]) and found["uncommitted"] == []
    assert found["table"] == ["a", "1", "2"]
    assert figure_provenance(runs, drawn + 1e-6)["hash"] != found["hash"]


def test_a_folder_of_records_is_drawn_setting_by_setting(tmp_path, monkeypatch):
    few = ("ssim_by_stage", "attentions_gain", "detection_iou")
    monkeypatch.setattr(figures, "FIGURES", {name: FIGURES[name] for name in few})
    root, three = tmp_path / "records", ["student", "at", "dct"]
    write_detectors(root, [0, 1], ["student", "kd_cls"])
    write_grid(root, three, seeds=[0, 1], attentions=(1, 2))
    # A teacher of the students' kind is drawn once.
    same = {"teacher": "scenes_medium", "epochs": 5, "teacher_epochs": 5}
    write_grid(root, three, dataset="fashion_scenes", **same)
    written = draw_all(root, tmp_path / "out")
    assert {path.stem for path in written} == {
        "ssim_by_stage-scenes-a1", "ssim_by_stage-scenes-a2", "ssim_by_stage-fashion_scenes-a2",
        "attentions_gain-scenes", "detection_iou-scenes-a2-scenes_ssd",
    }  # fmt: skip
    assert len(written) == 5 * 3 and all(path.stat().st_size > 0 for path in written)
    beside = json.loads((tmp_path / "out" / "ssim_by_stage-scenes-a2.json").read_text())
    assert len(beside["records"]) == 3 * 2 + 1


def test_every_method_has_a_look_and_no_two_families_share_one():
    looks = {(colour, marker) for _, colour, marker in FAMILIES.values()} | {CONTROL}
    assert len(looks) == len(FAMILIES) + 1
    for method in METHODS:
        assert look(f"{method}+kd").colour == look(method).colour and name_of(method)
    assert look("dct+kd").face == "white" and look("dct+gate").line == "--"
    assert name_of("at_equal_scale+kd [weight=2]") == "AT, balanced + KD [weight=2]"
    options = '[method_options={"band": ["low", 4], "drop_dc": false}, weight=3.9]'
    assert name_of(f"dct_options {options}") == "DCT, band low 4, drop_dc false"
    hot = 'kd_cls [method_options={"temperature": 4.0}, weight=1.2000000000000002]'
    assert name_of(hot) == "KD_cls, temperature 4.0, weight 1.2"
    assert name_of("kd_loc [method_options={}, weight=nan, crop_size=24]") == "KD_loc, crop_size 24"
    assert look(f"dct_options {options}") == look("dct_options")
