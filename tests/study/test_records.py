"""Records on disk: found, checked, published; the table of runs; which runs a reader is given."""

import json
import random
import re
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from synthetic import (
    edit_record,
    synthetic_record,
    write_analyses,
    write_detectors,
    write_grid,
    write_run,
)  # fmt: skip

from kdlib import KdlibError, RunConfig
from kdlib.methods import METHODS as METHODS_OF
from kdlib.runs import write_record
from study import records, sealed
from study.analyses.files import analyses_of, load_maps

COMMITTED = Path(__file__).parents[2] / "records"
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


def test_every_run_is_a_row_and_the_summary_its_mean_and_deviation(table):
    assert len(table) == 14 * 4 + 1
    row = table[(table["label"] == "dct") & (table["init_seed"] == 1)].iloc[0]
    record = synthetic_record(replace(DCT, data_seed=1, init_seed=1), row["top1"])
    assert row["run_id"] == record["run_id"] and row["epochs"] == 15 and row["chance"] == 0.2
    assert row["ssim_2"] == record["ssim"][1]
    assert row["ssim"] == pytest.approx(np.mean(record["ssim"]))
    (setting,) = records.student_settings(table)
    assert records.teacher_runs(table, setting)["top1"].tolist() == [0.8]
    dct = table[table["label"] == "dct"]["top1"]
    summary = records.summary_table(table).set_index("label").loc["dct", ["n", "top1", "top1_std"]]
    assert summary.tolist() == pytest.approx([4, np.mean(dct), np.std(dct, ddof=1)])


def test_settings_are_never_mixed_and_variants_are_told_apart_by_what_differs(tmp_path):
    write_grid(tmp_path, ["student", "dct"], attentions=(1, 2))
    write_grid(tmp_path, ["student", "dct"], epochs=3)
    summary = records.summary_table(records.load_records(tmp_path))
    ends = ("1, scenes_medium", "2, scenes_medium, epochs 15", "2, scenes_medium, epochs 3")
    assert set(summary["description"]) == {f"scenes, attentions {end}" for end in ends}
    assert set(summary["n"][summary["label"] == "dct"]) == {3}
    write_grid(tmp_path / "cut", ["student", "dct"], train_size=2000)
    both = records.summary_table(records.load_records(tmp_path, tmp_path / "cut"))["description"]
    assert any(text.endswith("train_size 2000") for text in both)
    for weight in (1.0, 3.0):
        write_run(tmp_path / "two", replace(DCT, weight=weight))
    labels = records.load_records(tmp_path / "two")["label"].tolist()
    assert labels == ["dct [weight=1.0]", "dct [weight=3.0]"]
    record = synthetic_record(replace(DCT, init_seed=5))
    record["provenance"]["device"] = "cuda"
    (directory := tmp_path / "gpu" / record["run_id"]).mkdir(parents=True)
    write_record(directory, record)
    apart = records.load_records(tmp_path / "two", tmp_path / "gpu")
    assert apart["setting"].nunique() == 2 and set(apart["device"]) == {"cpu", "cuda"}
    assert records.describe_setting(apart, apart["setting"].iloc[0]).count("device") == 1


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


def test_the_largest_setting_of_the_test_set_is_taken_with_its_teachers(mixed):
    runs = records.runs_of(mixed, "scenes", 2)
    students = runs[runs["student"] == "scenes_medium"]
    assert len(students) == 9 and set(students["split"]) == {"train"}
    assert students["train_size"].isna().all() and set(students["attentions"]) == {2}
    assert set(runs["student"]) == {"scenes_medium", "scenes_large"}
    trial = mixed[(mixed["train_size"] == 2000) & (mixed["method"] == "dct")].iloc[0]
    runs = records.runs_of(mixed, "scenes", 2, trial["setting"])
    assert set(runs["train_size"]) == {2000} and len(runs) == len(METHODS) + 1


# Damaged, missing and half-written records.
def test_what_is_missing_is_said_with_what_there_is(mixed, detectors, tmp_path):
    for choose, says in (
        (lambda: records.runs_of(mixed, "cifar100", 2), "'cifar100'.*fashion_scenes.*make repr"),
        (lambda: records.runs_of(mixed, "scenes", 2, "zz"), "setting zz.*scenes, attentions 1"),
        (lambda: records.load_records(detectors), "no record in"),
        (lambda: records.load_records(detectors, task="segmentation"), "PROFILE=segmentation"),
        (lambda: records.load_records(tmp_path / "nowhere"), "There is no folder"),
        (lambda: records.load_tables(tmp_path), "make reproduce"),
        (
            lambda: records.load_histories(mixed.assign(directory="nowhere")),
            r"history\.csv is miss",
        ),
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
    (CROPS, "results.top5", None, "results.top5"), (BOXES, "results.map_small", -1, "small must"),
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


def test_finished_runs_are_sealed_and_damaged_or_double_ones_refused(tmp_path):
    runs, committed = tmp_path / "runs", tmp_path / "committed"
    run = write_run(runs, DCT)
    (run / "weights.safetensors").write_bytes(b"large")
    (runs / "unfinished").mkdir()
    assert len(records.find_records(runs)) == 1
    records.publish(runs, committed)
    assert {path.name for path in committed.iterdir()} == {".lock", "SHA256SUMS", FILE}
    assert len(records.load_records(runs, committed)) == 1  # one run, twice there
    with pytest.raises(KdlibError, match="is not finished"):
        records.publish(runs, committed, [replace(DCT, epochs=99).run_id])
    with pytest.raises(KdlibError, match="folder of runs"):
        records.publish(committed, runs)
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
        write_record(runs / name, {**record, "run_id": name})
    with pytest.raises(KdlibError, match="two results of one run"):
        records.load_records(runs)


FILE = "scenes-classification.jsonl"


@pytest.fixture
def committed(tmp_path):
    """Sealed runs with their analyses; one of detectors beside them."""
    write_analyses(write_grid(tmp_path / "runs", METHODS))
    write_run(tmp_path / "runs", BOXES)
    records.publish(tmp_path / "runs", tmp_path / "committed")
    return tmp_path / "committed"


def everything(root):
    """All that can be read of a folder, as text."""
    sealed.check_sealed(root)
    table = records.load_records(root, task=None)
    analyses = [(row["run_id"], found) for row, found in analyses_of(table)]
    return f"{table.to_csv()}{records.load_histories(table).to_csv()}{analyses}"


def test_sealed_records_say_what_the_runs_say_a_line_each_in_order(committed):
    runs = committed.with_name("runs")
    table, theirs = (records.load_records(root, task=None) for root in (committed, runs))
    assert table.drop(columns="directory").equals(theirs.drop(columns="directory"))
    assert records.load_histories(table).equals(records.load_histories(theirs))
    for (_, found), (row, ours) in zip(analyses_of(table), analyses_of(theirs), strict=True):
        assert found == ours
        if row["init_seed"] == 0:
            maps = (load_maps(root / row["run_id"]) for root in (committed, runs))
            assert str(next(maps)) == str(next(maps))
    lines = (committed / FILE).read_text().splitlines()
    assert len(lines) == 10 and lines == sorted(lines)
    before = {path: path.read_bytes() for path in committed.rglob("[!.]*") if path.is_file()}
    records.publish(committed, committed)  # as it is: nothing changes
    assert before == {
        path: path.read_bytes() for path in committed.rglob("[!.]*") if path.is_file()
    }


def test_a_bit_that_turned_anywhere_is_refused_with_file_and_run(committed):
    whole, stream = everything(committed), random.Random(0)
    for path in sorted(path for path in committed.rglob("[!.]*") if path.is_file()):
        content = path.read_bytes()
        for _ in range(8):
            place, damaged = stream.randrange(8 * len(content)), bytearray(content)
            damaged[place // 8] ^= 1 << place % 8
            path.write_bytes(damaged)
            with pytest.raises(KdlibError) as error:
                everything(committed)
            line = content[: place // 8].count(b"\n")
            run = content.split(b"\n")[line].partition(b'"run_id":"')[2].partition(b'"')[0].decode()
            on_name = place // 8 - content[: place // 8].rfind(b"\n") < 200
            assert path.name == "SHA256SUMS" or path.name in str(error.value)
            assert path.suffix != ".jsonl" or on_name or run in str(error.value)
        path.unlink()
        with pytest.raises(KdlibError, match=r"missing|is not in|There is no"):
            everything(committed)
        path.write_bytes(content)
    (committed / "more-classification.jsonl").write_text("")
    with pytest.raises(KdlibError, match="more-classification.jsonl is not what SHA256SUMS"):
        records.find_records(committed)
    (committed / "more-classification.jsonl").unlink()
    assert everything(committed) == whole


def test_a_record_is_replaced_with_what_was_measured_of_it_and_a_killed_publication_goes_on(
    committed, monkeypatch
):
    runs, name = committed.with_name("runs"), replace(DCT, data_seed=0, init_seed=0).run_id
    table = records.load_records(committed)
    (runs / name / "analysis.json").unlink()
    records.publish(runs, committed, [name])
    assert "analysis" in sealed.entry_of(committed / name), "of the same results"
    (runs / name / "attention_maps.safetensors").unlink()
    write_run(runs, replace(DCT, data_seed=0, init_seed=0), 0.5)
    monkeypatch.setattr(sealed, "_files", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        records.publish(runs, committed, [name])
    monkeypatch.undo()
    with pytest.raises(KdlibError, match="is not what SHA256SUMS says"):
        records.find_records(committed)
    records.publish(runs, committed, [name])
    sealed.check_sealed(committed)
    assert "analysis" not in sealed.entry_of(committed / name)
    assert [path.name for path in (committed / name).iterdir()] == ["answers.safetensors"]
    again = records.load_records(committed)
    assert (again["top1"] != table["top1"]).sum() == 1 and 0.5 in again["top1"].tolist()


def test_superseded_records_leave_all_tables_and_stay_with_the_reason(committed, monkeypatch):
    runs, marked = committed.with_name("runs"), replace(DCT, data_seed=1, init_seed=1).run_id
    records.supersede(committed, [marked], "a defect")
    for _ in range(2):
        assert records.superseded(committed) == {"a defect": [marked]}
        assert marked not in set(records.load_records(committed)["run_id"])
        assert "analysis" in sealed.entry_of(committed / marked)
        records.publish(runs, committed)  # as it was: it does not come back
    write_run(runs, replace(DCT, data_seed=1, init_seed=1), 0.5)
    records.publish(runs, committed, [marked])
    assert records.superseded(committed) == {}, "made again"
    # A method whose numbers have changed: its runs of before, wherever they lie.
    monkeypatch.setitem(METHODS_OF, "dct", replace(METHODS_OF["dct"], revision=2))
    for root in (committed, runs):
        ((_, found),) = records.superseded(root).items()
        assert len(found) == 3 and all("-dct-" in name for name in found)
        assert set(records.load_records(root)["method"]) == {"student", "at"}
    again = write_run(runs, replace(DCT))
    assert DCT.run_id != again.name
    records.publish(runs, committed, [again.name])
    assert records.load_records(committed)["method"].tolist().count("dct") == 1


@pytest.mark.parametrize(("change", "says"), [
    ({"epochs": 3}, "config_hash .* is not that of its config"),
    ({"epoch": 3}, "Unknown run parameter 'epoch'"), ({"epochs": "x"}, "epochs is 'x'"),
])  # fmt: skip
def test_a_config_that_is_not_that_of_the_hash_is_refused_with_the_run(change, says, committed):
    runs = committed.with_name("runs")
    config = json.loads((runs / DCT.run_id / "record.json").read_text())["config"]
    edit_record(runs / DCT.run_id, config={**config, **change})
    entry = sealed.entry_of(committed / DCT.run_id)
    entry["record"]["config"] |= change
    del entry["record"]["checksum"]
    sealed.seal(committed, [(entry, [])])
    for root in (runs, committed):
        with pytest.raises(KdlibError, match=rf"{DCT.run_id}.*{says}"):
            records.find_records(root)


def test_the_committed_records_are_as_sealed_and_say_what_does_not_count():
    sealed.check_sealed(COMMITTED)
    runs = records.find_runs(COMMITTED)
    assert len(runs) > 90 and sum(map(len, records.superseded(COMMITTED).values())) < len(runs)
