"""Paired statistics against scipy, and which runs stand for a method."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from synthetic import edit_record, write_detectors, write_grid, write_run

from kdlib import KdlibError, RunConfig
from kdlib.methods import parse_method
from study import statistics
from study.names import OF_DETECTORS
from study.profiles import plain_epochs
from study.records import load_records, runs_of, student_settings
from study.results import differences_of
from study.statistics import comparison_of, differences, paired_comparison

NAN = float("nan")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return load_records(write_grid(tmp_path_factory.mktemp("grid"), seeds=range(4)))


@pytest.fixture(scope="module")
def students(table):
    return table[table["setting"] == student_settings(table)[0]]


def test_a_comparison_equals_the_paired_t_test_of_scipy(students):
    found = paired_comparison(students, "dct", "at")
    values = students.sort_values("init_seed").set_index("label")["top1"]
    dct, at = values["dct"], values["at"]
    test = stats.ttest_rel(dct, at)
    interval = test.confidence_interval(0.95)
    assert found.n == 4 and found.difference == pytest.approx(dct.mean() - at.mean())
    assert (found.p, found.low, found.high) == pytest.approx((test.pvalue, *interval))
    for offset, p in ((0.0, 1.0), (0.25, 0.0)):  # without any scatter
        found = comparison_of(np.full(3, offset), "twin", "at")
        assert (found.p, found.difference, found.low) == (p, offset, offset)


def test_only_common_seeds_of_one_setting_are_paired(table, students):
    fewer = students[(students["label"] != "at") | students["init_seed"].isin([1, 3])]
    values = statistics.paired_values(fewer, "dct", "at", "top1")
    assert [seed for seed, _ in values.index] == [1, 3]
    for runs, says in (
        (students[students["label"] != "at"], "'at'.*Valid: .*dct"),
        (table, "one setting"),
    ):
        with pytest.raises(KdlibError, match=says):
            paired_comparison(runs, "dct", "at")


@pytest.mark.parametrize(("p", "expected"), [
    ([0.01, 0.01, 0.04], [0.03, 0.03, 0.04]), ([0.5, NAN, 0.2], [0.5, NAN, 0.4]),
    ([0.6, 0.9], [1.0, 1.0]), ([0.03, 0.01, 0.02], [0.04, 0.03, 0.04]), ([NAN], [NAN]), ([], []),
])  # fmt: skip
def test_holm_counts_only_what_was_tested(p, expected):
    np.testing.assert_allclose(statistics.holm(pd.Series(p, dtype=float)), expected)


def test_pairs_name_methods_that_exist_once_each(table):
    titles = [one for own in statistics.PAIRS.values() for one in own.values()]
    pairs = [tuple(pair) for title in titles for pair in title]
    for method, baseline, *_ in pairs:
        both = {method, baseline} - {statistics.LONGER, statistics.JOINT}
        assert all(parse_method(name) for name in both)
    assert len({*pairs}) == len(pairs)
    least = statistics.smallest_effect
    assert least("dap_loc") == least("map") == least("top1") == 0.005
    assert least("ssim") == least("energy_share") == 0.01


def test_differences_are_of_pairs_that_were_run_on_common_seeds(students):
    pairs = [("dct", "at"), ("dct", "vid"), ("dct", "at", "ssim")]
    found = differences(students, pairs)
    assert found["metric"].tolist() == ["top1", "ssim"] and found["n"].tolist() == [4, 4]
    other = students[(students["label"] == "at") | (students["init_seed"] == 9)]
    other = pd.concat([other, students[students["label"] == "dct"].assign(init_seed=9)])
    assert differences(other, pairs).empty


def test_a_method_of_several_teachers_is_its_mean_over_those_that_both_have(tmp_path):
    for teacher, gain in ((100, 0.02), (101, 0.06)):
        for sample in (1, 2, 3):
            own = {"sample": sample, "data_seed": sample, "init_seed": sample}
            own |= {"teacher_seed": teacher, "teacher_sample": teacher}
            write_run(tmp_path, RunConfig(method="at", **own), 0.6 + gain + sample / 100)
            if teacher == 100:
                write_run(tmp_path, RunConfig(method="vid", **own), 0.65 + sample / 100)
            plain = RunConfig(data_seed=sample, init_seed=sample, sample=sample)
            write_run(tmp_path, replace(plain, method="student"), 0.6 + sample / 100)
    found = differences(load_records(tmp_path), [("at", "student"), ("vid", "at")])
    assert found["n"].tolist() == [3, 3]
    assert found["difference"].tolist() == pytest.approx([0.04, 0.03])  # vid: of teacher 100


# FRSKD: names of its variants, the control of equal compute.
FRSKD = RunConfig(epochs=5, method="frskd", method_options={"width": 1})
OF_PIXELS = {"task": "segmentation", "method": "frskd_pixels", "student": "scenes_segmenter"}


def write_self_taught(root, frskd, *others):
    """Three seeds of a student, of FRSKD, of longer students, and of other methods."""
    plain = replace(frskd, method="student", method_options={})
    longer = replace(plain, epochs=plain_epochs(frskd))
    for seed in (0, 1, 2):
        for run, value in ((plain, 0.6), (frskd, 0.7), (longer, 0.75), *others):
            own = replace(run, data_seed=seed, init_seed=seed)
            scatter = 0.001 * (seed == 1) * (run.method != "student")
            directory = write_run(root, own, value + seed / 100 + scatter)
            if run.method == "frskd":
                accuracies = {"top1": value + 0.1, "top5": 1.0, "mca": value + 0.1}
                refined = {**accuracies, "relevance": None, "parameters": 9, "flops": 9}
                edit_record(directory, self_teacher=refined)
    return root


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """The table, one setting of it, and FRSKD's runs there; others are mixed or longer."""
    options = replace(FRSKD, method="frskd_options", method_options={"width": 1, "alpha": 0.0})
    joint = replace(options, method_options={**options.method_options, "beta": 0.0})
    others = (replace(FRSKD, method="frskd_dct"), 0.69), (joint, 0.65)
    root = write_self_taught(tmp_path_factory.mktemp("records"), FRSKD, *others)
    other = replace(options, method_options={"width": 1, "feature": "fitnet"})
    mixed = replace(FRSKD, augmentation=("flip", "mixup"))
    long = replace(FRSKD, epochs=20)
    for run, top1 in ((other, 0.66), (mixed, 0.72), (long, 0.9)):
        write_run(root, run, top1)
    write_run(root, replace(mixed, method="student"), 0.61)
    write_run(root, replace(long, method="student"), 0.7)
    table = load_records(root)
    main = runs_of(table, "scenes", 2)
    return table, main, statistics.self_taught_runs(table, main)


def test_variants_are_named_by_what_they_change(taught):
    _, main, runs = taught
    found = statistics.summary(runs)
    frskd = ["frskd", "frskd_dct", "frskd_fitnet", statistics.JOINT]
    assert found.index.tolist() == ["student", statistics.LONGER, *frskd]
    assert found.loc["frskd", ["n", "self_teacher"]].tolist() == pytest.approx([3, 0.8])
    assert found["self_teacher"].isna().sum() == len(found) - 1
    plain = main[main["method"] == "student"]
    alone = statistics.self_taught_runs(plain, plain)
    assert set(alone["label"]) == {"student"}


@pytest.mark.parametrize("frskd", [FRSKD, replace(FRSKD, **OF_PIXELS)], ids=lambda run: run.task)
def test_equal_epochs_and_equal_compute_are_compared_apart(frskd, tmp_path):
    table = load_records(write_self_taught(tmp_path, frskd), task=frskd.task)
    main = runs_of(table, "scenes", 2)
    longer = statistics.longer_students(table, main)
    assert set(longer["epochs"]) == {plain_epochs(frskd)} and len(longer) == 3
    ((title, rows),) = differences_of(table, [main["setting"].iloc[0]])
    assert title.startswith("FRSKD") and f"epochs {frskd.epochs}" in title
    assert rows["baseline"].tolist() == ["student", statistics.LONGER]  # nothing that was not run
    assert rows["low"].iloc[0] > 0 > rows["high"].iloc[1]


# Detectors: which runs stand for a method, and which errors it mends.
def test_detectors_are_compared_without_their_ablations(tmp_path):
    detector = RunConfig(task="detection", student="scenes_ssd", crop_size=24)
    write_detectors(tmp_path, detector)
    ablations = (
        {"method": "kd_cls", "method_options": {"temperature": 1.0}},
        {"method": "kd_loc", "crop_size": 8}, {"method": "loc", "weight": 9.0},
    )  # fmt: skip
    for seed in range(3):
        for fields in ablations:
            write_run(tmp_path, replace(detector, **fields, data_seed=seed, init_seed=seed), 0.2)
    table = load_records(tmp_path, task="detection")
    assert any("temperature" in label for label in table["label"])
    main = statistics.main_runs(table)
    assert set(main["label"]) == {"student", *OF_DETECTORS} and len(main) == 15
    assert main["map"].min() > 0.2
    (_, helps), (_, errors) = differences_of(table, student_settings(table))
    assert len(helps) == 7 and (helps["low"] > 0).all()
    assert len(errors) == 6 and (errors["low"] > 0).tolist()[:4] == [True, True, False, False]
    saved = errors.iloc[1]
    assert (saved["method"], saved["baseline"]) == ("student", "kd_loc")
    assert saved["difference"] == pytest.approx(0.06, abs=1e-3)
    assert not [*differences_of(table[table["method"] == "student"], student_settings(table))]
    loc = main["method"] == "kd_loc"  # gains at two IoUs are compared by their difference
    main.loc[loc, "ap75_less_ap50"] += 0.05 + 0.001 * main.loc[loc, "init_seed"]
    (row,) = differences(main, [("kd_loc", "student", "ap75_less_ap50")]).to_dict("records")
    assert row["difference"] == pytest.approx(0.051, abs=1e-4) and row["low"] > 0
