"""From records to table, statistics and text: numbers against scipy, and the degenerate cases."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from synthetic import TEACHER_TOP1, edit_record, synthetic_record, write_grid, write_run

from kdlib.errors import KdlibError
from kdlib.files import write_text
from kdlib.methods import parse_method
from kdlib.runs import RunConfig
from study.profiles import expand
from study.records import (
    find_records,
    load_histories,
    load_records,
    publish,
    stage_table,
    student_settings,
    summary_table,
    teacher_runs,
    validate_record,
)
from study.results import (
    check_block,
    claims_markdown,
    of_profile,
    print_results,
    summary_markdown,
    update_block,
)
from study.statistics import (
    COMPARISONS_FAMILIES,
    Claim,
    Comparison,
    claims_table,
    compare,
    paired_comparison,
    paired_values,
    smallest_resolvable_difference,
    verdict,
)

EVERY_CLAIM = [claim for claims in COMPARISONS_FAMILIES.values() for claim in claims]
README = "Title\n<!-- results:main -->\nold\n<!-- /results:main -->\nend\n"


@pytest.fixture(scope="module")
def grid(tmp_path_factory):
    """Read only: the tests that damage records write their own."""
    return write_grid(tmp_path_factory.mktemp("grid"), seeds=range(4))


@pytest.fixture(scope="module")
def students(grid):
    table = load_records(grid)
    return table[table["setting"] == student_settings(table)[0]]


def test_every_run_is_a_row_with_its_configuration_and_measures(grid):
    table = load_records(grid)
    assert len(table) == 13 * 4 + 1
    row = table[(table["label"] == "dct") & (table["init_seed"] == 1)].iloc[0]
    record = synthetic_record(RunConfig(method="dct", data_seed=1, init_seed=1), row["top1"])
    assert row["run_id"] == record["run_id"] and row["epochs"] == 15
    assert row["ssim_2"] == record["ssim"][1]
    assert row["ssim"] == pytest.approx(np.mean(record["ssim"]))
    assert row["chance"] == 0.2


def test_the_teacher_is_found_and_is_not_taken_for_a_student(grid):
    table = load_records(grid)
    (setting,) = student_settings(table)
    assert teacher_runs(table, setting)["top1"].tolist() == [TEACHER_TOP1]
    assert summary_table(table)["label"].iloc[0] == "teacher"


def test_the_summary_has_mean_std_and_n_of_each_method(grid, students):
    summary = summary_table(load_records(grid)).set_index("label")
    for label, rows in students.groupby("label"):
        assert summary.loc[label, "n"] == 4
        assert summary.loc[label, "top1"] == pytest.approx(np.mean(rows["top1"]))
        assert summary.loc[label, "top1_std"] == pytest.approx(np.std(rows["top1"], ddof=1))
    order = list(summary.index)
    assert order[:3] == ["teacher", "student", "kd"]
    assert order.index("dct") < order.index("dct+gate") < order.index("at+kd")


def test_a_record_in_two_folders_counts_once(grid, tmp_path):
    publish(grid, tmp_path / "records")
    assert len(load_records(grid, tmp_path / "records")) == len(load_records(grid))


def test_settings_are_never_mixed(tmp_path):
    write_grid(tmp_path, ["student", "dct"], attentions=(1, 2))
    write_grid(tmp_path, ["student", "dct"], epochs=3)
    table = load_records(tmp_path)
    summary = summary_table(table)
    assert set(summary["description"]) == {
        "scenes, attentions 1, scenes_medium",
        "scenes, attentions 2, scenes_medium, epochs 15",
        "scenes, attentions 2, scenes_medium, epochs 3",
    }
    assert set(summary["n"][summary["label"] == "dct"]) == {3}
    with pytest.raises(KdlibError, match="one setting"):
        paired_comparison(table, "dct", "student")


def test_variants_of_a_method_are_told_apart_by_what_differs(tmp_path):
    for weight in (1.0, 3.0):
        write_run(tmp_path, RunConfig(method="dct", weight=weight))
    assert load_records(tmp_path)["label"].tolist() == ["dct [weight=1.0]", "dct [weight=3.0]"]


def test_stages_are_long_and_know_their_network(grid):
    stages = stage_table(load_records(grid))
    of_dct = stages[(stages["label"] == "dct") & (stages["init_seed"] == 0)]
    theirs = of_dct[(of_dct["network"] == "teacher") & (of_dct["measure"] == "pointing")]
    assert theirs["value"].tolist() == [0.5, 0.6, 0.7] and theirs["stage"].tolist() == [1, 2, 3]
    assert "ssim" not in set(stages[stages["label"] == "student"]["measure"])


def test_histories_have_a_row_an_epoch(students):
    histories = load_histories(students[students["label"] == "dct"])
    assert len(histories) == 4 * 15 and {"accuracy", "ce", "label"} <= set(histories)


def test_a_comparison_equals_the_paired_t_test_of_scipy(students):
    found = paired_comparison(students, "dct", "at")
    dct, at = (
        students[students["label"] == m].sort_values("init_seed")["top1"] for m in ("dct", "at")
    )
    test = stats.ttest_rel(dct, at)
    interval = test.confidence_interval(0.95)
    assert found.n == 4 and found.difference == pytest.approx(dct.mean() - at.mean())
    assert found.p == pytest.approx(test.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_holm_counts_only_what_was_tested(students, tmp_path):
    pairs = [Claim("a", "dct", "at"), Claim("b", "at", "student"), Claim("c", "dct", "kd")]
    found = compare(students, pairs)
    order = found["p"].sort_values()
    expected = np.minimum(1, np.maximum.accumulate(order.to_numpy() * [3, 2, 1]))
    assert found["p_holm"].loc[order.index].tolist() == pytest.approx(expected.tolist())
    alone = students[(students["label"] != "kd") | (students["init_seed"] == 0)]
    fewer = compare(alone, pairs)
    assert np.isnan(fewer["p_holm"][2]) and fewer["verdict"][2] == "undecided at n=1"
    assert fewer["p_holm"].min() == pytest.approx(2 * fewer["p"].min())


def test_only_common_seeds_are_paired(students):
    fewer = students[(students["label"] != "at") | students["init_seed"].isin([1, 3])]
    values = paired_values(fewer, "dct", "at", "top1")
    assert [seed for seed, _ in values.index] == [1, 3]
    none = students[(students["label"] != "at") | (students["init_seed"] == 9)]
    with pytest.raises(KdlibError, match="'at'.*Valid: .*dct"):
        paired_comparison(none, "dct", "at")


def test_one_seed_decides_nothing(tmp_path):
    table = load_records(write_grid(tmp_path, ["dct", "at"], seeds=[0]))
    students = table[table["method"] != "student"]
    found = paired_comparison(students, "dct", "at")
    assert found.n == 1 and found.difference > 0
    assert np.isnan([found.std, found.low, found.high, found.p, found.resolvable]).all()
    assert verdict(found, found.p) == "undecided at n=1"
    assert "undecided at n=1" in claims_markdown(claims_table(table))
    assert "nan" not in claims_markdown(claims_table(table)) + summary_markdown(
        summary_table(table)
    )


@pytest.mark.parametrize(("offset", "p"), [(0.0, 1.0), (0.25, 0.0)])
def test_differences_without_any_scatter_have_a_p(students, offset, p):
    at = students[students["label"] == "at"]
    twin = at.assign(label="twin", top1=at["top1"].round(2) + offset)
    found = paired_comparison(pd.concat([at.assign(top1=at["top1"].round(2)), twin]), "twin", "at")
    assert found.p == pytest.approx(p, abs=1e-6) and found.difference == pytest.approx(offset)


@pytest.mark.parametrize(
    ("low", "high", "p", "expected"),
    [
        (0.001, 0.02, 0.01, "holds"),
        (0.001, 0.02, 0.20, "undecided at n=3"),
        (-0.01, 0.02, 0.01, "undecided at n=3"),
        (-0.03, -0.01, 0.01, "does not hold"),
        (-0.004, 0.004, 0.90, "does not hold"),
        (-0.004, 0.006, 0.90, "undecided at n=3"),
        (float("nan"), float("nan"), float("nan"), "undecided at n=3"),
    ],
)
def test_the_verdict_follows_the_written_rule(low, high, p, expected):
    one = Comparison("a", "b", "top1", 3, (low + high) / 2, 0.01, low, high, p, 0.02)
    assert verdict(one, p) == expected


@pytest.mark.parametrize("n", [2, 3, 5, 20, 73])
def test_the_smallest_resolvable_difference_is_found_four_times_in_five(n):
    difference = smallest_resolvable_difference(0.01, n)
    noncentrality, bound = difference / 0.01 * np.sqrt(n), stats.t.ppf(0.975, n - 1)
    power = stats.nct.sf(bound, n - 1, noncentrality)  # the far tail adds nothing that counts
    assert power == pytest.approx(0.8, abs=1e-3)
    assert np.isnan(smallest_resolvable_difference(0.01, 1))


def test_claims_name_methods_that_exist():
    for claim in EVERY_CLAIM:
        assert parse_method(claim.method) and parse_method(claim.baseline)
    assert len({(c.method, c.baseline, c.metric) for c in EVERY_CLAIM}) == len(EVERY_CLAIM)


def test_claims_are_judged_wherever_both_methods_were_run(grid):
    claims = claims_table(load_records(grid)).set_index(["method", "baseline", "metric"])
    assert claims.loc[("dct", "at", "top1"), "verdict"] == "holds"
    assert ("dct_low", "dct", "top1") not in claims.index
    assert claims.loc[("dct_abs", "dct", "top1"), "verdict"] == "does not hold"


def test_tables_show_percent_and_dashes(grid):
    text = summary_markdown(summary_table(load_records(grid)))
    teacher = next(line for line in text.splitlines() if line.startswith("| teacher"))
    assert "80.0" in teacher and "–" in teacher and "| 1 " in teacher
    assert len({len(line) for line in text.splitlines() if line.startswith("|")}) == 1


def test_results_are_printed_for_a_reader(grid, capsys):
    print_results([grid])
    printed = capsys.readouterr().out
    assert "top-1 %" in printed and "dct − at" in printed


def test_tasks_have_tables_of_their_own(tmp_path, capsys):
    pixels = {"task": "segmentation", "student": "scenes_segmenter"}
    for seed in range(3):
        seeds = {"data_seed": seed, "init_seed": seed}
        for method, value in (("student", 0.5), ("frskd_pixels", 0.6)):
            write_run(tmp_path, RunConfig(method=method, **pixels, **seeds), value + seed / 1000)
        write_run(tmp_path, RunConfig(method="student", **seeds), 0.7)
    print_results([tmp_path])
    images, masks = capsys.readouterr().out.split("scenes_segmenter, segmentation", 1)
    assert "top-1 %" in images and "mIoU" not in images
    assert "mIoU %" in masks and "top-1" not in masks.split("claim")[0]
    assert "frskd_pixels − student" in masks and "+10.00" in masks
    assert set(load_records(tmp_path)["task"]) == {"classification"}


def test_a_record_of_one_task_with_results_of_the_other_is_refused(tmp_path):
    config = RunConfig(method="student", task="segmentation", student="scenes_segmenter")
    directory = write_run(tmp_path, config, 0.5)
    edit_record(directory, results=synthetic_record(RunConfig(method="student"))["results"])
    with pytest.raises(KdlibError, match="results"):
        find_records(tmp_path)


def test_a_profile_has_its_runs_whichever_seeds_were_asked_for(tmp_path):
    runs = expand("quick", methods=["student", "dct"], seeds=[7])
    for run in [*runs, runs[1].teacher_config(), RunConfig(method="dct", epochs=2)]:
        write_run(tmp_path, run)
    table = load_records(tmp_path)
    assert len(table) == 4 and len(of_profile(table, "quick")) == 3
    with pytest.raises(KdlibError, match="No run of profile 'paper'"):
        of_profile(table, "paper")


def test_a_block_is_made_and_checked(tmp_path):
    path = tmp_path / "README.md"
    write_text(path, README)
    assert update_block(path, "main", "a\nb\n") is True
    assert path.read_text() == README.replace("old", "a\nb")
    assert update_block(path, "main", "a\nb") is False
    check_block(path, "main", "a\nb")
    with pytest.raises(KdlibError, match=r"line 2:\n  file:    b\n  records: c"):
        check_block(path, "main", "a\nc")


@pytest.mark.parametrize("text", ["no markers", README + README, "<!-- results:main -->"])
def test_a_file_without_its_block_is_refused(tmp_path, text):
    path = tmp_path / "README.md"
    write_text(path, text)
    with pytest.raises(KdlibError, match=r"README\.md has [02] blocks"):
        update_block(path, "main", "x")
    assert path.read_text() == text


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


def test_a_number_that_is_not_finite_is_refused(tmp_path):
    directory = write_run(tmp_path, RunConfig(method="dct"))
    path = edit_record(directory, ssim=[float("nan")])
    with pytest.raises(KdlibError, match=r"record\.json.*not finite"):
        validate_record(json.loads(path.read_text()), path)


def test_a_half_written_record_is_an_error_and_an_unfinished_run_is_none(tmp_path):
    directory = write_run(tmp_path, RunConfig(method="dct"))
    (tmp_path / "unfinished").mkdir()
    assert len(find_records(tmp_path)) == 1
    text = (directory / "record.json").read_text()
    (directory / "record.json").write_text(text[: len(text) // 2])
    with pytest.raises(KdlibError, match=r"record\.json is not a readable record"):
        load_records(tmp_path)


def test_no_folder_and_no_records_say_what_to_do(tmp_path):
    with pytest.raises(KdlibError, match="There is no folder"):
        load_records(tmp_path / "nowhere")
    with pytest.raises(KdlibError, match="make reproduce"):
        load_records(tmp_path)


def test_publishing_copies_record_and_history_of_finished_runs_only(tmp_path):
    done = RunConfig(method="dct")
    run = write_run(tmp_path / "runs", done)
    (run / "weights.safetensors").write_bytes(b"large")
    (path,) = publish(tmp_path / "runs", tmp_path / "records")
    assert sorted(p.name for p in path.parent.iterdir()) == ["history.csv", "record.json"]
    assert path.read_text() == (run / "record.json").read_text()
    with pytest.raises(KdlibError, match="is not finished"):
        publish(tmp_path / "runs", tmp_path / "records", [replace(done, epochs=99).run_id])


def test_nothing_is_published_when_one_record_is_damaged(tmp_path):
    write_run(tmp_path / "runs", RunConfig(method="at"))
    edit_record(write_run(tmp_path / "runs", RunConfig(method="dct")), cost=None)
    with pytest.raises(KdlibError, match="cost"):
        publish(tmp_path / "runs", tmp_path / "records")
    assert not (tmp_path / "records").exists()
