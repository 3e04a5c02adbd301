"""Figures of detectors: what their tables hold, that all fits, and that others' are unchanged."""

import json

import matplotlib as mpl
import numpy as np
import pytest
from detection.detector_runs import (
    DAP,
    MAP,
    WEIGHTS,
    write_ablations,
    write_detectors,
    write_weights,
)
from synthetic import scatter, write_grid

from kdlib.errors import KdlibError
from study import figures as figure_tables
from study.figures import FIGURES, SCOPES, draw_all
from study.figures.cost import detection_cost_table
from study.figures.detection import (
    detection_ablations_table,
    detection_gain_table,
    detection_iou_table,
    detection_weights_table,
    error_types_table,
)
from study.records import load_records

mpl.use("Agg")
DETECTION = [name for name, scope in SCOPES.items() if scope.task == "detection"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return load_records(write_detectors(tmp_path_factory.mktemp("one")), task="detection")


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    ablations = write_ablations(tmp_path_factory.mktemp("ablations"))
    weights = write_weights(tmp_path_factory.mktemp("weights"))
    return {
        "detection_ablations": load_records(ablations, task="detection"),
        "detection_weights": load_records(weights, task="detection"),
    }


@pytest.fixture(autouse=True)
def costs(tmp_path, monkeypatch):
    methods = {
        name: {"time": {"median": share, "low": share, "high": share}, "memory": {"ratio": share}}
        for name, share in {"kd_cls": 1.1, "loc": 1.05, "kd_loc": 1.3, "kd_cls_loc": 1.4}.items()
    }
    plan = {"teacher": "scenes_medium", "student": "scenes_ssd", "image_size": 64}
    path = tmp_path / "detectors.json"
    path.write_text(json.dumps({"methods": methods, "plan": plan}))
    monkeypatch.setattr(detection_cost_table, "__defaults__", (path,))


@pytest.mark.parametrize("name", DETECTION)
def test_nothing_is_cut_off(name, runs, others):
    figure = FIGURES[name](others.get(name, runs))
    figure.draw_without_rendering()
    drawn, size = figure.get_tightbbox(), figure.get_size_inches()
    assert drawn.min.min() >= -0.01 and (drawn.max <= size + 0.01).all()


@pytest.mark.parametrize("name", DETECTION)
def test_other_runs_have_nothing_to_show(name, runs, tmp_path):
    classifiers = load_records(write_grid(tmp_path, ["student", "at"], [0]))
    for none in (classifiers, runs.iloc[:0], runs[runs["label"] == "student"]):
        assert getattr(figure_tables, f"{name}_table")(none).empty
    with pytest.raises(KdlibError, match="nothing to show"):
        FIGURES[name](classifiers)


def test_gains_are_paired_over_seeds(runs):
    found = detection_gain_table(runs).set_index(["label", "metric"])
    differences = [scatter("kd_loc", s) - scatter("student", s) for s in range(3)]
    row = found.loc[("kd_loc", "map")]
    assert row["difference"] == pytest.approx(0.03 + np.mean(differences)) and row["n"] == 3
    assert row["low"] < row["difference"] < row["high"] and len(found) == 4 * 3


def test_gains_by_iou_fall_as_they_were_made_to(runs):
    found = detection_iou_table(runs)
    own = found[found["label"] == "kd_cls_loc"]
    assert own["iou"].tolist() == pytest.approx(np.arange(0.5, 1, 0.05))
    falls = own["difference"].to_numpy() - own["difference"].iloc[0]
    assert falls == pytest.approx(-(MAP["kd_cls_loc"] - MAP["student"]) * np.arange(10) / 27)


def test_errors_have_a_row_a_run_and_type(runs):
    found = error_types_table(runs)
    assert list(dict.fromkeys(found["error"])) == ["cls", "loc", "both", "dupe", "bkg", "miss"]
    own = found[(found["error"] == "cls") & (found["label"] == "kd_cls")]
    expected = [DAP["kd_cls"] + scatter("kd_cls cls", seed) for seed in range(3)]
    assert sorted(own["dap"]) == pytest.approx(sorted(expected))
    assert own["mean"].tolist() == pytest.approx([np.mean(expected)] * 3)


def test_ablations_are_compared_with_the_method_as_it_is(others):
    found = detection_ablations_table(others["detection_ablations"])
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


def test_ablations_do_not_enter_the_comparison(runs, others):
    table = others["detection_ablations"]
    main = table[table["student"] == "scenes_ssd"]
    for name in ("detection_gain", "detection_iou", "error_types"):
        make = getattr(figure_tables, f"{name}_table")
        assert make(main).equals(make(runs))


def test_weights_are_told_in_multiples_of_the_default(others):
    found = detection_weights_table(others["detection_weights"])
    own = found[found["method"] == "kd_cls"]
    assert own["factor"].tolist() == pytest.approx([weight / 0.4 for weight in WEIGHTS])
    assert own["map"].tolist() == pytest.approx([0.4 + weight / 9 for weight in WEIGHTS])
    assert set(found["method"]) == {"student", "kd_cls", "kd_loc"}


def test_gain_and_cost_stand_beside_each_other(runs):
    found = detection_cost_table(runs)
    assert found["label"].tolist() == ["loc", "kd_cls", "kd_loc", "kd_cls_loc"]
    assert found["front"].tolist() == [True, True, False, True]


def test_detectors_and_classifiers_are_drawn_from_one_folder(tmp_path):
    write_detectors(tmp_path / "records", [0, 1], ["student", "kd_cls"])
    write_grid(tmp_path / "records", ["student", "at"], [0, 1])
    names = {path.stem for path in draw_all(tmp_path / "records", tmp_path / "out")}
    assert "method_accuracy-scenes-a2" in names
    assert {name for name in names if "ssd" in name} == {
        f"{name}-scenes-a2-scenes_ssd"
        for name in ("detection_gain", "detection_iou", "error_types")
    }
