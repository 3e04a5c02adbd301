"""Records on disk: found, checked, published; the table of runs; which runs a reader is given."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from synthetic import edit_record, synthetic_record, write_detectors, write_grid, write_run

from kdlib import KdlibError, RunConfig
from study import records

METHODS = ("student", "at", "dct")
DCT = RunConfig(method="dct")
BOXES = RunConfig(task="detection", student="scenes_ssd", crop_size=24, method="loc")
CROPS = BOXES.teacher_config()
PIXELS = RunConfig(task="segmentation", student="scenes_segmenter")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return records.load_records(write_grid(tmp_path_factory.mktemp("grid"), seeds=range(4)))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A sweep over attentions, a reader's smaller trial, a dev split, another data set."""
    root = tmp_path_factory.mktemp("mixed")
    write_grid(root, METHODS, attentions=(1, 2, 4))
    write_grid(root, METHODS, seeds=[0], train_size=2000)
    write_grid(root, [*METHODS, "kd"], seeds=range(5), split="dev")
    write_grid(root, ["dct"], seeds=[0], dataset="fashion_scenes")
    return records.load_records(root)


@pytest.fixture(scope="module")
def detectors(tmp_path_factory):
    return write_detectors(tmp_path_factory.mktemp("detectors"), BOXES)


def test_every_run_is_a_row_and_the_summary_a_row_a_method(table):
    assert len(table) == 13 * 4 + 1
    row = table[(table["label"] == "dct") & (table["init_seed"] == 1)].iloc[0]
    record = synthetic_record(replace(DCT, data_seed=1, init_seed=1), row["top1"])
    assert row["run_id"] == record["run_id"] and row["epochs"] == 15 and row["chance"] == 0.2
    assert row["ssim_2"] == record["ssim"][1]
    assert row["ssim"] == pytest.approx(np.mean(record["ssim"]))
    (setting,) = records.student_settings(table)
    assert records.teacher_runs(table, setting)["top1"].tolist() == [0.8]
    summary = records.summary_table(table).set_index("label")
    order = list(summary.index)
    assert order[:3] == ["teacher", "student", "kd"]
    assert order.index("dct") < order.index("dct+gate") < order.index("at+kd")
    for label, rows in table[table["setting"] == setting].groupby("label"):
        found = [4, np.mean(rows["top1"]), np.std(rows["top1"], ddof=1)]
        assert summary.loc[label, ["n", "top1", "top1_std"]].tolist() == pytest.approx(found)


def test_stages_are_long_and_histories_have_a_row_an_epoch(table):
    stages = records.stage_table(table)
    of_dct = stages[(stages["label"] == "dct") & (stages["init_seed"] == 0)]
    theirs = of_dct[(of_dct["network"] == "teacher") & (of_dct["measure"] == "pointing")]
    assert theirs["value"].tolist() == [0.5, 0.6, 0.7] and theirs["stage"].tolist() == [1, 2, 3]
    assert "ssim" not in set(stages[stages["label"] == "student"]["measure"])
    histories = records.load_histories(table[table["label"] == "dct"])
    assert len(histories) == 4 * 15 and {"accuracy", "ce", "label"} <= set(histories)
    with pytest.raises(KdlibError, match=r"history\.csv is missing"):
        records.load_histories(table.assign(directory="nowhere"))


def test_settings_are_never_mixed_and_variants_are_told_apart_by_what_differs(tmp_path):
    write_grid(tmp_path, ["student", "dct"], attentions=(1, 2))
    write_grid(tmp_path, ["student", "dct"], epochs=3)
    summary = records.summary_table(records.load_records(tmp_path))
    ends = ("1, scenes_medium", "2, scenes_medium, epochs 15", "2, scenes_medium, epochs 3")
    assert set(summary["description"]) == {f"scenes, attentions {end}" for end in ends}
    assert set(summary["n"][summary["label"] == "dct"]) == {3}
    for weight in (1.0, 3.0):
        write_run(tmp_path / "two", replace(DCT, weight=weight))
    labels = records.load_records(tmp_path / "two")["label"].tolist()
    assert labels == ["dct [weight=1.0]", "dct [weight=3.0]"]


def test_detectors_and_their_classifiers_are_tasks_with_measures_of_their_own(detectors, tmp_path):
    tables = records.load_tables(detectors)
    assert list(tables) == ["detection", "crops"] and tables["crops"]["top1"].tolist() == [0.9]
    table = tables["detection"]
    row = table[(table["label"] == "loc") & (table["init_seed"] == 0)].iloc[0]
    assert (row["map"], row["ap50"], row["ap95"]) == pytest.approx((0.44, 0.62, 0.26), abs=1e-3)
    assert (row["map50"], row["map75"]) == (row["ap50"], row["ap75"])
    assert row["ap50_less_ap75"] == row["map50"] - row["map75"] == -row["ap75_less_ap50"]
    assert row["dap_miss"] == pytest.approx(0.056, abs=1e-3)
    assert row[["map_large", "ssim", "top1"]].isna().all()
    summary = records.summary_table(table).set_index("label")
    found = summary.loc["student", "map"], summary.loc["loc", "map75_std"]
    assert found == pytest.approx((0.41, 0.01), abs=1e-3)
    # Size of crops is a setting of classifiers and not of detectors: one alone has no crops.
    assert len(table) == 15 and table["setting"].nunique() == 1
    assert set(table["crop_size"]) == {24, 32}
    everything = records.load_records(detectors, task=None)
    (setting,) = records.student_settings(everything)
    assert records.teacher_runs(everything, setting)["task"].tolist() == ["crops"]
    for size in (16, 32):
        write_run(tmp_path, replace(BOXES, crop_size=size).teacher_config(), 0.9)
    assert records.load_records(tmp_path, task="crops")["setting"].nunique() == 2


def test_the_largest_setting_or_sweep_of_the_test_set_is_taken_with_its_teachers(mixed, tmp_path):
    runs = records.runs_of(mixed, "scenes", 2)
    students = runs[runs["student"] == "scenes_medium"]
    assert len(students) == 9 and set(students["split"]) == {"train"}
    assert students["train_size"].isna().all() and set(students["attentions"]) == {2}
    assert set(runs["student"]) == {"scenes_medium", "scenes_large"}
    trial = mixed[(mixed["train_size"] == 2000) & (mixed["method"] == "dct")].iloc[0]
    runs = records.runs_of(mixed, "scenes", 2, trial["setting"])
    assert set(runs["train_size"]) == {2000} and len(runs) == len(METHODS) + 1
    # A sweep differs in attentions alone.
    runs = records.sweep_of(mixed, "scenes")
    students = runs[runs["student"] == "scenes_medium"]
    assert sorted(set(students["attentions"])) == [1, 2, 4] and len(students) == 27
    assert students["train_size"].isna().all() and set(runs["split"]) == {"train"}
    assert len(runs) == 27 + 3 and runs["run_id"].is_unique
    write_grid(tmp_path, METHODS, attentions=(2,))
    for number in (1, 3, 4):  # teachers whose students are still to come
        write_run(tmp_path, replace(DCT, attentions=number).teacher_config(), 0.8)
    runs = records.sweep_of(records.load_records(tmp_path), "scenes")
    assert set(runs["attentions"]) == {2} and len(runs) == 9 + 1


# Damaged, missing and half-written records.
def test_what_is_missing_is_said_with_what_there_is(mixed, detectors, tmp_path):
    for choose, says in (
        (lambda: records.runs_of(mixed, "cifar100", 2), "'cifar100'.*fashion_scenes.*make repr"),
        (lambda: records.runs_of(mixed, "scenes", 2, "zz"), "setting zz.*scenes, attentions 1"),
        (lambda: records.sweep_of(mixed, "cifar100"), "'cifar100'"),
        (lambda: records.load_records(detectors), "no record in"),
        (lambda: records.load_records(detectors, task="segmentation"), "PROFILE=segmentation"),
        (lambda: records.load_records(tmp_path / "nowhere"), "There is no folder"),
        (lambda: records.load_tables(tmp_path), "make reproduce"),
    ):
        with pytest.raises(KdlibError, match=says):
            choose()


ANOTHER, IMAGES = "another-0000000000", synthetic_record(RunConfig())["results"]


@pytest.mark.parametrize(("config", "name", "value", "says"), [
    (DCT, "results", {"top1": 0.5}, "results"), (DCT, "ssim", [7.0], r"ssim\[0\]"),
    (DCT, "config_hash", "?", "config_hash"), (DCT, "cost", None, "cost"),
    (DCT, "run_id", ANOTHER, "is the record of 'another"), (PIXELS, "results", IMAGES, "results"),
    (DCT, "results.top1", float("nan"), "not finite"), (BOXES, "results.top1", 0.5, "results"),
    (BOXES, "results.map", 1.5, "map must.* 1.5"), (BOXES, "results.map75", None, "results.map75"),
    (BOXES, "results.ap_by_iou", [0.5] * 9, "results.ap_by_iou"),
    (BOXES, "results.errors", {"cls": {"count": 1, "dap": 0.1}}, "errors lacks loc, both"),
    (BOXES, "results.map_small", -1, "results.map_small must.*-1"),
    (CROPS, "results.top5", None, "results.top5"),
    (DCT, "provenance.versions", {"\x1b[31m\n": 1}, r"\\x1b\[31m\\n.* must be string, and is 1"),
    (DCT, "relevance.student.pointing", [], "relevance"),
])  # fmt: skip
def test_a_record_that_does_not_fit_names_file_and_place(config, name, value, says, tmp_path):
    record = synthetic_record(config, 0.4)
    path = tmp_path / record["run_id"] / "record.json"
    records.validate_record(record, path)
    *place, key = name.split(".")
    (record[place[0]] if place else record)[key] = value
    with pytest.raises(KdlibError, match=rf"record\.json.*{says}"):
        records.validate_record(record, path)


UNKNOWN = (
    "dependentRequired", "dependentSchemas", "maxContains", "minContains", "prefixItems",
    "unevaluatedItems", "unevaluatedProperties", "$dynamicRef",
)  # fmt: skip


def test_a_schema_asks_nothing_that_its_validator_does_not_know():
    for name in ("kdlib/record.schema.json", "study/analyses/analysis.schema.json"):
        text = (Path(__file__).parents[2] / name).read_text()
        assert not [word for word in UNKNOWN if f'"{word}"' in text]
        assert not re.findall(r'"\$ref": "[^"]*",|, "\$ref"', text)  # beside which nothing counts


def test_finished_runs_are_published_and_damaged_or_double_ones_refused(tmp_path):
    runs, committed = tmp_path / "runs", tmp_path / "committed"
    run = write_run(runs, DCT)
    (run / "weights.safetensors").write_bytes(b"large")
    (runs / "unfinished").mkdir()
    assert len(records.find_records(runs)) == 1
    (path,) = records.publish(runs, committed)
    assert sorted(p.name for p in path.parent.iterdir()) == ["history.csv", "record.json"]
    assert path.read_text() == (run / "record.json").read_text()
    assert len(records.load_records(runs, committed)) == 1  # one run, twice there
    with pytest.raises(KdlibError, match="is not finished"):
        records.publish(runs, committed, [replace(DCT, epochs=99).run_id])
    damaged = edit_record(write_run(runs, RunConfig(method="at")), cost=None)
    with pytest.raises(KdlibError, match="cost"):  # then none is published
        records.publish(runs, tmp_path / "others")
    assert not (tmp_path / "others").exists()
    damaged.write_text(damaged.read_text()[:100])
    with pytest.raises(KdlibError, match=r"record\.json is not a readable record"):
        records.load_records(runs)
    for file in runs.rglob("record.json"):
        file.unlink()
    record = synthetic_record(RunConfig(teacher_epochs=7))
    for name in (record["run_id"], f"another-{record['config_hash'][:10]}"):
        (runs / name).mkdir()
        (runs / name / "record.json").write_text(json.dumps({**record, "run_id": name}))
    with pytest.raises(KdlibError, match="two results of one run"):
        records.load_records(runs)
