"""Records on disk: found, checked, published; the table of runs; which runs a reader is given."""

import json
from dataclasses import replace

import numpy as np
import pytest
from synthetic import (
    TEACHER_TOP1,
    edit_record,
    synthetic_record,
    write_detectors,
    write_grid,
    write_run,
)

from kdlib.errors import KdlibError
from kdlib.runs import RunConfig
from study.records import (
    find_records,
    load_histories,
    load_records,
    load_tables,
    publish,
    runs_of,
    stage_table,
    student_settings,
    summary_table,
    sweep_of,
    teacher_runs,
    validate_record,
)

METHODS = ("student", "at", "dct")
DETECTOR = RunConfig(task="detection", student="scenes_ssd", teacher="scenes_medium", crop_size=24)


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Read only: the tests that damage records write their own."""
    return write_grid(tmp_path_factory.mktemp("grid"), seeds=range(4))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A sweep over attentions, a reader's smaller trial, a dev split, another data set."""
    root = tmp_path_factory.mktemp("mixed")
    write_grid(root, METHODS, attentions=(1, 2, 4))
    write_grid(root, METHODS, seeds=[0], train_size=2000)
    write_grid(root, [*METHODS, "kd"], seeds=range(5), split="dev")
    write_grid(root, ["dct"], seeds=[0], dataset="fashion_scenes")
    return load_records(root)


@pytest.fixture(scope="module")
def detectors(tmp_path_factory):
    return write_detectors(tmp_path_factory.mktemp("detectors"), DETECTOR)


def test_every_run_is_a_row_with_its_configuration_and_measures(grid):
    table = load_records(grid)
    assert len(table) == 13 * 4 + 1
    row = table[(table["label"] == "dct") & (table["init_seed"] == 1)].iloc[0]
    record = synthetic_record(RunConfig(method="dct", data_seed=1, init_seed=1), row["top1"])
    assert row["run_id"] == record["run_id"] and row["epochs"] == 15 and row["chance"] == 0.2
    assert row["ssim_2"] == record["ssim"][1]
    assert row["ssim"] == pytest.approx(np.mean(record["ssim"]))


def test_the_summary_has_the_teacher_and_mean_std_and_n_of_each_method(grid):
    table = load_records(grid)
    (setting,) = student_settings(table)
    assert teacher_runs(table, setting)["top1"].tolist() == [TEACHER_TOP1]
    summary = summary_table(table).set_index("label")
    order = list(summary.index)
    assert order[:3] == ["teacher", "student", "kd"]
    assert order.index("dct") < order.index("dct+gate") < order.index("at+kd")
    for label, rows in table[table["setting"] == setting].groupby("label"):
        assert summary.loc[label, "n"] == 4
        assert summary.loc[label, "top1"] == pytest.approx(np.mean(rows["top1"]))
        assert summary.loc[label, "top1_std"] == pytest.approx(np.std(rows["top1"], ddof=1))


def test_stages_are_long_and_histories_have_a_row_an_epoch(grid):
    table = load_records(grid)
    stages = stage_table(table)
    of_dct = stages[(stages["label"] == "dct") & (stages["init_seed"] == 0)]
    theirs = of_dct[(of_dct["network"] == "teacher") & (of_dct["measure"] == "pointing")]
    assert theirs["value"].tolist() == [0.5, 0.6, 0.7] and theirs["stage"].tolist() == [1, 2, 3]
    assert "ssim" not in set(stages[stages["label"] == "student"]["measure"])
    histories = load_histories(table[table["label"] == "dct"])
    assert len(histories) == 4 * 15 and {"accuracy", "ce", "label"} <= set(histories)


def test_settings_are_never_mixed_and_variants_are_told_apart_by_what_differs(tmp_path):
    write_grid(tmp_path, ["student", "dct"], attentions=(1, 2))
    write_grid(tmp_path, ["student", "dct"], epochs=3)
    summary = summary_table(load_records(tmp_path))
    assert set(summary["description"]) == {
        "scenes, attentions 1, scenes_medium",
        "scenes, attentions 2, scenes_medium, epochs 15",
        "scenes, attentions 2, scenes_medium, epochs 3",
    }
    assert set(summary["n"][summary["label"] == "dct"]) == {3}
    for weight in (1.0, 3.0):
        write_run(tmp_path / "two", RunConfig(method="dct", weight=weight))
    labels = load_records(tmp_path / "two")["label"].tolist()
    assert labels == ["dct [weight=1.0]", "dct [weight=3.0]"]


def test_detectors_and_classifiers_of_crops_are_tasks_of_their_own(detectors):
    tables = load_tables(detectors)
    assert list(tables) == ["detection", "crops"] and len(tables["detection"]) == 15
    assert tables["crops"]["top1"].tolist() == [0.9]
    with pytest.raises(KdlibError, match="no record"):
        load_records(detectors)


def test_a_row_has_what_detectors_are_measured_by(detectors):
    table = load_records(detectors, task="detection")
    row = table[(table["label"] == "loc") & (table["init_seed"] == 0)].iloc[0]
    assert (row["map"], row["ap50"], row["ap95"]) == pytest.approx((0.44, 0.62, 0.26), abs=1e-3)
    assert (row["map50"], row["map75"]) == (row["ap50"], row["ap75"])
    assert row["ap50_less_ap75"] == row["map50"] - row["map75"] == -row["ap75_less_ap50"]
    assert row["dap_miss"] == pytest.approx(0.056, abs=1e-3)
    assert row[["map_large", "ssim", "top1"]].isna().all()
    summary = summary_table(table).set_index("label")
    assert summary.loc["student", "map"] == pytest.approx(0.41, abs=1e-3)
    assert summary.loc["loc", "map75_std"] == pytest.approx(0.01, abs=1e-3)


def test_size_of_crops_is_a_setting_of_classifiers_and_not_of_detectors(detectors, tmp_path):
    """The detector alone has no crops, so none of their size either."""
    table = load_records(detectors, task="detection")
    assert table["setting"].nunique() == 1 and set(table["crop_size"]) == {24, 32}
    everything = load_records(detectors, task=None)
    (setting,) = student_settings(everything)
    assert teacher_runs(everything, setting)["task"].tolist() == ["crops"]
    for size in (16, 32):
        taught = replace(DETECTOR, method="kd_cls", crop_size=size)
        write_run(tmp_path, taught.teacher_config(), 0.9)
    assert load_records(tmp_path, task="crops")["setting"].nunique() == 2


def test_the_largest_setting_of_the_test_set_is_taken_with_its_teachers(mixed):
    runs = runs_of(mixed, "scenes", 2)
    students = runs[runs["student"] == "scenes_medium"]
    assert len(students) == 9 and set(students["split"]) == {"train"}
    assert students["train_size"].isna().all() and set(students["attentions"]) == {2}
    assert set(runs["student"]) == {"scenes_medium", "scenes_large"}
    trial = mixed[(mixed["train_size"] == 2000) & (mixed["method"] == "dct")].iloc[0]
    runs = runs_of(mixed, "scenes", 2, trial["setting"])
    assert set(runs["train_size"]) == {2000} and len(runs) == len(METHODS) + 1


@pytest.mark.parametrize(
    ("choose", "says"),
    [
        (lambda table: runs_of(table, "cifar100", 2), "'cifar100'.*fashion_scenes.*make reproduce"),
        (lambda table: runs_of(table, "scenes", 2, "zz"), "setting zz.*scenes, attentions 1"),
        (lambda table: sweep_of(table, "cifar100"), "'cifar100'"),
    ],
)
def test_what_is_missing_is_said_with_what_there_is(mixed, choose, says):
    with pytest.raises(KdlibError, match=says):
        choose(mixed)


def test_a_sweep_differs_in_attentions_alone(mixed, tmp_path):
    runs = sweep_of(mixed, "scenes")
    students = runs[runs["student"] == "scenes_medium"]
    assert sorted(set(students["attentions"])) == [1, 2, 4] and len(students) == 27
    assert students["train_size"].isna().all() and set(runs["split"]) == {"train"}
    assert len(runs) == 27 + 3 and runs["run_id"].is_unique
    write_grid(tmp_path, METHODS, attentions=(2,))
    for number in (1, 3, 4):  # teachers whose students are still to come
        write_run(tmp_path, RunConfig(attentions=number, method="dct").teacher_config(), 0.8)
    runs = sweep_of(load_records(tmp_path), "scenes")
    assert set(runs["attentions"]) == {2} and len(runs) == 9 + 1


# Damaged, missing and half-written records.
@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"results": {"top1": 0.5}}, "results"),
        ({"ssim": [7.0]}, r"ssim\.0"),
        ({"config_hash": "?"}, "config_hash"),
        ({"cost": None}, "cost"),
        ({"run_id": "another-0000000000"}, "is the record of 'another"),
    ],
)
def test_a_record_that_does_not_fit_the_schema_names_file_and_place(tmp_path, changes, where):
    path = edit_record(write_run(tmp_path, RunConfig(method="dct")), **changes)
    with pytest.raises(KdlibError, match=rf"record\.json.*{where}"):
        load_records(tmp_path)
    assert path.exists()


PIXELS = RunConfig(method="student", task="segmentation", student="scenes_segmenter")
BOXES = replace(DETECTOR, method="loc")
CROPS = BOXES.teacher_config()


@pytest.mark.parametrize(
    ("config", "changes", "says"),
    [
        (PIXELS, synthetic_record(RunConfig(method="student"))["results"], "results"),
        (BOXES, {"map": 1.5}, "results.map: 1.5"),
        (BOXES, {"map75": None}, "results.map75"),
        (BOXES, {"ap_by_iou": [0.5] * 9}, "results.ap_by_iou"),
        (BOXES, {"errors": {"cls": {"count": 1, "dap": 0.1}}}, "errors: 'loc' is a required"),
        (BOXES, {"top1": 0.5}, "results"),
        (BOXES, {"map_small": -1}, "results.map_small: -1"),
        (CROPS, {"top5": None}, "results.top5"),
        (RunConfig(method="dct"), {"top1": float("nan")}, "not finite"),
    ],
)
def test_results_that_do_not_fit_their_task_are_named(config, changes, says, tmp_path):
    record = synthetic_record(config, 0.4)
    path = tmp_path / record["run_id"] / "record.json"
    validate_record(record, path)
    record["results"] |= changes
    with pytest.raises(KdlibError, match=rf"record\.json.*{says}"):
        validate_record(record, path)


def test_a_half_written_record_is_an_error_and_an_unfinished_run_is_none(tmp_path):
    directory = write_run(tmp_path, RunConfig(method="dct"))
    (tmp_path / "unfinished").mkdir()
    assert len(find_records(tmp_path)) == 1
    text = (directory / "record.json").read_text()
    (directory / "record.json").write_text(text[: len(text) // 2])
    with pytest.raises(KdlibError, match=r"record\.json is not a readable record"):
        load_records(tmp_path)


@pytest.mark.parametrize("load", [load_records, load_tables])
def test_no_folder_and_no_records_say_what_to_do(load, tmp_path):
    with pytest.raises(KdlibError, match="There is no folder"):
        load(tmp_path / "nowhere")
    with pytest.raises(KdlibError, match="make reproduce"):
        load(tmp_path)


def test_publishing_copies_record_and_history_of_finished_runs_only(grid, tmp_path):
    done = RunConfig(method="dct")
    run = write_run(tmp_path / "runs", done)
    (run / "weights.safetensors").write_bytes(b"large")
    (path,) = publish(tmp_path / "runs", tmp_path / "records")
    assert sorted(p.name for p in path.parent.iterdir()) == ["history.csv", "record.json"]
    assert path.read_text() == (run / "record.json").read_text()
    assert len(load_records(tmp_path / "runs", tmp_path / "records")) == 1  # one run, twice there
    with pytest.raises(KdlibError, match="is not finished"):
        publish(tmp_path / "runs", tmp_path / "records", [replace(done, epochs=99).run_id])


def test_nothing_is_published_when_one_record_is_damaged(tmp_path):
    write_run(tmp_path / "runs", RunConfig(method="at"))
    edit_record(write_run(tmp_path / "runs", RunConfig(method="dct")), cost=None)
    with pytest.raises(KdlibError, match="cost"):
        publish(tmp_path / "runs", tmp_path / "records")
    assert not (tmp_path / "records").exists()


def test_two_results_of_one_run_are_refused(tmp_path):
    run = RunConfig(method="student", teacher_epochs=7)
    directory = write_run(tmp_path, run)
    record = json.loads((directory / "record.json").read_text())
    other = tmp_path / f"another-{record['config_hash'][:10]}"
    other.mkdir()
    (other / "record.json").write_text(json.dumps({**record, "run_id": other.name}))
    with pytest.raises(KdlibError, match="two results of one run"):
        load_records(tmp_path)
