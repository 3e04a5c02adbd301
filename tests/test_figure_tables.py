"""The tables of the analyses' figures, against what the synthetic records were made of."""

import json

import pytest
from synthetic import edit_record, scatter, write_analyses, write_grid, write_run

from kdlib.errors import KdlibError
from kdlib.runs import RunConfig
from study import figures as figure_tables
from study.figures.ablations import (
    transform_ablation_table,
    weight_ablation_table,
    weight_sensitivity_table,
)
from study.figures.analyses import (
    calibration_table,
    class_changes_table,
    class_names,
    correct_incorrect_table,
    robustness_table,
)
from study.figures.attention import attention_maps_table
from study.figures.comparison import architecture_gain_table, method_accuracy_table
from study.figures.cost import accuracy_cost_table
from study.records import load_records


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_grid(tmp_path_factory.mktemp("runs"))


def grid(root, **weights):
    """Dev-split runs: accuracy 0.5 at the first weight of a method, 0.6 at the second."""
    for method, pair in weights.items():
        field = "kd_weight" if method == "kd" else "weight"
        for top1, weight in zip((0.5, 0.6), pair, strict=True):
            write_run(root, RunConfig(method=method, split="dev", **{field: weight}), top1)
    write_run(root, RunConfig(split="dev"), 0.4)
    return load_records(root)


def test_weights_are_told_in_multiples_of_the_default(tmp_path):
    found = weight_sensitivity_table(grid(tmp_path, dct=(4.0, 0.4), kd=(1.0, 3.0)))
    of_dct = found[found["method"] == "dct"]
    assert of_dct["factor"].tolist() == pytest.approx([0.1, 1.0])
    assert of_dct["top1"].tolist() == [0.6, 0.5]
    assert found.loc[found["method"] == "kd", "factor"].tolist() == [1, 3]
    assert found.loc[found["method"] == "student", "top1"].tolist() == [0.4]
    assert set(weight_ablation_table(load_records(tmp_path))["method"]) == {
        "student",
        "dct",
    }


def test_a_single_weight_is_no_ablation(tmp_path):
    write_run(tmp_path, RunConfig(method="dct", split="dev"), 0.5)
    assert weight_sensitivity_table(load_records(tmp_path)).empty


def test_what_has_no_weight_is_not_compared_by_it(tmp_path):
    for mu in (1.5, 2.0):
        options = {"mu": mu}
        write_run(tmp_path, RunConfig(method="srm", split="dev", method_options=options), 0.5)
    found = weight_sensitivity_table(grid(tmp_path, dct=(4.0, 0.4)))
    assert set(found["method"]) == {"student", "dct"}


def test_frskd_stands_for_its_variants(tmp_path):
    write_grid(tmp_path, ["student", "kd"])
    for method in ("frskd", "frskd_published"):
        write_run(tmp_path, RunConfig(method=method), 0.5)
    found = method_accuracy_table(load_records(tmp_path))
    assert set(found["label"]) == {"student", "kd", "frskd", "teacher"}


def test_switches_are_read_from_presets_and_options(tmp_path):
    write_grid(tmp_path, ["dct", "dct_abs", "release_a", "dct+gate", "at", "dct+kd"])
    for options in ({"normalise": "max_ac"}, {"band": ["low", 4]}, {"level_weights": [1, 1, 0]}):
        for seed in range(3):
            run = RunConfig(method="dct_options", method_options=options)
            own = RunConfig.from_dict({**run.to_dict(), "init_seed": seed, "data_seed": seed})
            write_run(tmp_path, own, 0.7)
    found = transform_ablation_table(load_records(tmp_path))
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
    found = class_changes_table(load_records(tmp_path))
    over_student = found[found["baseline"] == "student"]
    assert over_student["class"].tolist() == ["class 1", "class 2"]
    assert over_student["difference"].tolist() == pytest.approx([0, 0.6])
    assert set(found["n"]) == {2}


def test_classes_have_names_where_they_were_composed():
    assert class_names("scenes", 16)[0] == "bathroom"
    assert class_names("scenes", 2) == class_names("cifar100", 2) == ("class 1", "class 2")


def test_gains_of_two_students_are_of_methods_that_both_have(tmp_path):
    write_grid(tmp_path, ["student", "at", "dct"])
    write_grid(tmp_path, ["student", "dct", "kd"], student="scenes_small")
    found = architecture_gain_table(load_records(tmp_path))
    assert set(found["method"]) == {"dct"}
    assert set(found["student"]) == {"scenes_medium", "scenes_small"}
    assert architecture_gain_table(load_records(write_grid(tmp_path / "one"))).empty


OF_ANALYSES = ("calibration", "robustness", "map_spectra", "attention_maps", "correct_incorrect")


@pytest.mark.parametrize("name", OF_ANALYSES)
def test_what_needs_analyses_is_empty_without_them(root, name):
    assert getattr(figure_tables, f"{name}_table")(load_records(root)).empty


@pytest.mark.parametrize("name", OF_ANALYSES)
def test_a_teacher_that_other_students_share_is_not_drawn_alone(tmp_path, name):
    write_analyses(write_grid(tmp_path, ["student", "dct"]))
    write_grid(tmp_path, ["student", "dct"], student="scenes_small")
    runs = load_records(tmp_path)
    assert not getattr(figure_tables, f"{name}_table")(
        runs[runs["student"] != "scenes_small"]
    ).empty
    assert getattr(figure_tables, f"{name}_table")(runs[runs["student"] != "scenes_medium"]).empty


def test_errors_of_calibration_are_means_over_seeds(tmp_path):
    write_analyses(write_grid(tmp_path, ["student", "dct"]))
    runs = load_records(tmp_path)
    found = calibration_table(runs)
    own = runs[runs["label"] == "dct"]["top1"]
    dct = found[found["label"] == "dct"]
    assert dct["ece"].tolist() == pytest.approx([(1 - own.mean()) / 10] * 2, abs=1e-6)
    assert dct["bin"].tolist() == [14, 15] and dct["count"].tolist() == [12000, 18000]
    assert dct["accuracy"].tolist() == pytest.approx([own.mean()] * 2, abs=1e-6)
    assert found.loc[found["label"] == "teacher", "n"].tolist() == [1, 1]


def test_robustness_begins_with_whole_images(tmp_path):
    write_analyses(write_grid(tmp_path, ["student", "dct"]))
    runs = load_records(tmp_path)
    found = robustness_table(runs).set_index(["corruption", "label", "level"])["mean"]
    mean = runs[runs["label"] == "dct"]["top1"].mean()
    assert found["noise", "dct", 0.0] == pytest.approx(mean, abs=1e-6)
    assert found["noise", "dct", 0.1] == pytest.approx(mean / 2, abs=1e-6)


def test_maps_are_of_one_run_a_network_and_change_with_their_file(tmp_path):
    write_analyses(write_grid(tmp_path, ["student", "at", "dct"]))
    found = attention_maps_table(load_records(tmp_path))
    assert found["label"].tolist() == [
        one for one in ("teacher", "student", "at", "dct") for _ in "ab"
    ]
    assert found["predicted"].tolist()[:2] == ["beach", "city"]
    assert not any("/" in str(value) for value in found.to_numpy().flat)


def test_images_are_those_that_only_the_teacher_gets_right(tmp_path):
    write_analyses(write_grid(tmp_path, ["student", "at", "dct"]))
    found = correct_incorrect_table(load_records(tmp_path))
    shares = found.groupby("label")["right"].mean()
    assert shares["teacher"] == 1 and shares["student"] == 0
    assert 0 < shares["at"] < shares["dct"] < 1
    assert (found["answer"] == found["true"]).equals(found["right"])
    first = found.drop_duplicates("position")["shown"]
    assert first.sum() == min(8, len(first))


def test_an_analysis_of_another_run_is_refused(tmp_path):
    first, *_ = write_analyses(write_grid(tmp_path, ["student", "dct"], seeds=[0, 1]))
    first.write_text(first.read_text().replace(first.parent.name, "elsewhere"))
    with pytest.raises(KdlibError, match="elsewhere.*analyse the run again"):
        calibration_table(load_records(tmp_path))


def test_the_front_is_of_those_that_none_as_cheap_surpasses(root, tmp_path):
    names = {"kd": 0.99, "dct_abs": 1.01, "at": 1.05, "dct": 1.1, "release_a": 1.2}
    one = {"memory": {"ratio": 1.5}}
    methods = {
        name: {"time": {"median": time, "low": time - 0.02, "high": time}, **one}
        for name, time in names.items()
    }
    path = tmp_path / "costs.json"
    plan = {"teacher": "scenes_large", "student": "scenes_medium", "image_size": 64}
    path.write_text(json.dumps({"methods": methods, "plan": plan}))
    found = accuracy_cost_table(load_records(root), path)
    assert dict(zip(found["label"], found["front"], strict=True)) == {
        "dct_abs": True, "kd": False, "at": False, "dct": True, "release_a": False,
    }  # fmt: skip
    for one in methods.values():
        one["time"].update(low=None, high=None)
    path.write_text(json.dumps({"methods": methods, "plan": plan}))
    assert accuracy_cost_table(load_records(root), path)["label"].iloc[0] == "kd"
    path.write_text(json.dumps({"methods": methods, "plan": {**plan, "student": "scenes_mobile"}}))
    assert accuracy_cost_table(load_records(root), path).empty  # costs of other networks
    path.write_text("{}")
    with pytest.raises(KdlibError, match=r"benchmarks\.methods"):
        accuracy_cost_table(load_records(root), path)
    assert accuracy_cost_table(load_records(root), tmp_path / "none.json").empty
