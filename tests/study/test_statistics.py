"""Paired statistics against scipy, the written rule, and the claims of each paper."""

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
from study.statistics import comparison_of, judge, paired_comparison, verdicts

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
        assert (found.p, found.difference, found.std) == (p, offset, 0.0)


def test_only_common_seeds_of_one_setting_are_paired(table, students):
    fewer = students[(students["label"] != "at") | students["init_seed"].isin([1, 3])]
    values = statistics.paired_values(fewer, "dct", "at", "top1")
    assert [seed for seed, _ in values.index] == [1, 3]
    for runs, says in (
        (students[students["label"] != "at"], "'at'.*Valid: .*dct"),
        (table, "one setting"),
        (pd.concat([students, students]), "several runs of one seed"),
    ):
        with pytest.raises(KdlibError, match=says):
            paired_comparison(runs, "dct", "at")


@pytest.mark.parametrize(("p", "expected"), [
    ([0.01, 0.01, 0.04], [0.03, 0.03, 0.04]), ([0.5, NAN, 0.2], [0.5, NAN, 0.4]),
    ([0.6, 0.9], [1.0, 1.0]), ([0.03, 0.01, 0.02], [0.04, 0.03, 0.04]), ([NAN], [NAN]), ([], []),
])  # fmt: skip
def test_holm_counts_only_what_was_tested(p, expected):
    one = comparison_of(np.array([0.1]), "dct", "at")
    found = judge({str(i): replace(one, p=value) for i, value in enumerate(p)})
    np.testing.assert_allclose(found["p_holm"].astype(float), expected)
    assert set(found["verdict"]) <= {"undecided at n=1"}


@pytest.mark.parametrize(("low", "high", "p", "expected"), [
    (0.001, 0.02, 0.01, "holds"), (0.001, 0.02, 0.20, "undecided at n=3"),
    (-0.01, 0.02, 0.01, "undecided at n=3"), (-0.03, -0.01, 0.01, "does not hold"),
    (-0.004, 0.004, 0.90, "does not hold"), (-0.004, 0.006, 0.90, "undecided at n=3"),
    (NAN, NAN, NAN, "undecided at n=3"),
])  # fmt: skip
def test_the_verdict_follows_the_written_rule(low, high, p, expected):
    one = statistics.Comparison("a", "b", "top1", 3, (low + high) / 2, 0.01, low, high, p, 0.02)
    assert statistics.verdict(one, p) == expected
    assert statistics.verdict(replace(one, n=1), p) == "undecided at n=1"


@pytest.mark.parametrize("n", [2, 3, 5, 20, 73])
def test_the_smallest_resolvable_difference_is_found_four_times_in_five(n):
    resolvable = statistics.smallest_resolvable_difference
    noncentrality, bound = resolvable(0.01, n) / 0.01 * np.sqrt(n), stats.t.ppf(0.975, n - 1)
    power = stats.nct.sf(bound, n - 1, noncentrality)  # the far tail adds nothing that counts
    assert power == pytest.approx(0.8, abs=1e-3) and np.isnan(resolvable(0.01, 1))
    needed = statistics.seeds_to_resolve(0.01, 0.02)
    assert resolvable(0.02, needed) <= 0.01 < resolvable(0.02, needed - 1)
    assert statistics.seeds_to_resolve(0.01, NAN) is None


def test_claims_name_methods_that_exist_are_made_once_and_judged_where_both_were_run(table):
    families = [claims for some in statistics.FAMILIES.values() for claims in some.values()]
    for claim in sum(families, ()):
        both = {claim.method, claim.baseline} - {statistics.LONGER, statistics.JOINT}
        assert all(parse_method(name) for name in both)
    assert len({claim[1:] for claim in sum(families, ())}) == sum(map(len, families))
    least = statistics.smallest_effect
    assert least("dap_loc") == least("map") == least("top1") == 0.005
    assert least("ssim") == least("energy_share") == 0.01
    assert verdicts(table).equals(verdicts(table, statistics.CLAIMS))  # the paper's are the usual
    assert verdicts(table.assign(split="dev")).empty and verdicts(table.iloc[:0]).empty


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


def test_variants_are_named_by_what_they_change_and_gains_count_common_seeds(taught):
    table, main, runs = taught
    found = statistics.summary(runs)
    frskd = ["frskd", "frskd_dct", "frskd_fitnet", statistics.JOINT]
    assert found.index.tolist() == ["student", statistics.LONGER, *frskd]
    assert found.loc["frskd", ["n", "self_teacher"]].tolist() == pytest.approx([3, 0.8])
    assert found["self_teacher"].isna().sum() == len(found) - 1
    found = statistics.gains_by("augmentation", table, main).set_index("augmentation")
    mixed, usual = found.loc['["flip", "mixup"]'], found.loc['["flip"]']
    assert (mixed["gain"], mixed["n"]) == (pytest.approx(0.11), 1)
    assert (usual["n"], usual["self_teacher"]) == (3, pytest.approx(0.8))
    found = statistics.gains_by("epochs", table, main, ("frskd", "frskd_dct"))
    assert found["epochs"].tolist() == [5, 5, 20]
    assert found["method"].tolist() == ["frskd", "frskd_dct", "frskd"]
    expected = [0.1 + 0.001 / 3, 0.09 + 0.001 / 3, 0.2]
    assert found["gain"].tolist() == pytest.approx(expected)
    plain = main[main["method"] == "student"]
    alone = statistics.self_taught_runs(plain, plain)
    assert set(alone["label"]) == {"student"} and verdicts(alone, statistics.FRSKD_CLAIMS).empty
    assert statistics.gains_by("augmentation", plain, alone).empty


JUDGED = [(FRSKD, statistics.FRSKD_CLAIMS), (replace(FRSKD, **OF_PIXELS), statistics.PIXEL_CLAIMS)]


@pytest.mark.parametrize(("frskd", "claims"), JUDGED)
def test_equal_epochs_and_equal_compute_are_judged_apart(frskd, claims, tmp_path):
    table = load_records(write_self_taught(tmp_path, frskd), task=frskd.task)
    main = runs_of(table, "scenes", 2)
    longer = statistics.longer_students(table, main)
    assert set(longer["epochs"]) == {plain_epochs(frskd)} and len(longer) == 3
    found = verdicts(statistics.self_taught_runs(table, main), claims)["verdict"].tolist()
    assert found == ["holds", "does not hold"]  # and nothing of what was not run
    judged = dict(statistics.judged_families(table))["A neighbour: FRSKD"]
    assert judged["verdict"].tolist() == found


# Detectors: which runs stand for a method, and which errors it mends.
def test_detectors_are_judged_in_their_families_without_their_ablations(tmp_path):
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
    helps, errors = (found for _, found in statistics.judged_families(table))
    assert helps["claim"].tolist() == [claim.text for claim in statistics.DETECTOR_CLAIMS]
    assert set(helps["verdict"]) == {"holds"}
    assert errors["claim"].tolist() == [claim.text for claim in statistics.ERROR_CLAIMS]
    assert errors["verdict"].tolist()[:4] == ["holds", "holds", "does not hold", "does not hold"]
    saved = errors.set_index("claim").loc["KD_loc leaves fewer localisation errors"]
    assert (saved["method"], saved["baseline"]) == ("student", "kd_loc")
    assert saved["difference"] == pytest.approx(0.06, abs=1e-3)
    assert verdicts(main[main["method"] == "student"], statistics.DETECTOR_CLAIMS).empty
    loc = main["method"] == "kd_loc"  # gains at two IoUs are compared by their difference
    main.loc[loc, "ap75_less_ap50"] += 0.05 + 0.001 * main.loc[loc, "init_seed"]
    row = verdicts(main, statistics.ERROR_CLAIMS).iloc[-1]
    assert row["difference"] == pytest.approx(0.051, abs=1e-4) and row["verdict"] == "holds"
