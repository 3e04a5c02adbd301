"""Paired statistics against scipy, the written rule, and the claims of each paper."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from synthetic import edit_record, write_detectors, write_grid, write_run

from kdlib.errors import KdlibError
from kdlib.methods import parse_method
from kdlib.runs import RunConfig
from study.names import OF_DETECTORS
from study.profiles import plain_epochs
from study.records import load_records, runs_of, student_settings
from study.statistics import (
    CLAIMS,
    DETECTOR_CLAIMS,
    ERROR_CLAIMS,
    FAMILIES,
    FRSKD_CLAIMS,
    JOINT,
    LONGER,
    OF_PIXELS,
    PIXEL_CLAIMS,
    Claim,
    Comparison,
    comparison_of,
    gains_by,
    judge,
    judged_families,
    longer_students,
    main_runs,
    paired_comparison,
    paired_values,
    seeds_to_resolve,
    self_taught_runs,
    smallest_effect,
    smallest_resolvable_difference,
    summary,
    verdict,
    verdicts,
)

EVERY_CLAIM = [c for families in FAMILIES.values() for claims in families.values() for c in claims]
OURS = {LONGER, JOINT}  # labels that no method string has


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return load_records(write_grid(tmp_path_factory.mktemp("grid"), seeds=range(4)))


@pytest.fixture(scope="module")
def students(table):
    return table[table["setting"] == student_settings(table)[0]]


def verdicts_on(runs, claims):
    return verdicts(runs, claims).set_index("claim")["verdict"].to_dict()


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


@pytest.mark.parametrize(("offset", "p"), [(0.0, 1.0), (0.25, 0.0)])
def test_differences_without_any_scatter_have_a_p(offset, p):
    found = comparison_of(np.full(3, offset), "twin", "at")
    assert (found.p, found.difference, found.std) == (p, offset, 0.0)


def test_only_common_seeds_of_one_setting_are_paired(table, students):
    fewer = students[(students["label"] != "at") | students["init_seed"].isin([1, 3])]
    values = paired_values(fewer, "dct", "at", "top1")
    assert [seed for seed, _ in values.index] == [1, 3]
    with pytest.raises(KdlibError, match="'at'.*Valid: .*dct"):
        paired_comparison(students[students["label"] != "at"], "dct", "at")
    with pytest.raises(KdlibError, match="one setting"):
        paired_comparison(table, "dct", "student")
    with pytest.raises(KdlibError, match="several runs of one seed"):
        paired_comparison(pd.concat([students, students]), "dct", "at")


def test_holm_counts_only_what_was_tested(students):
    pairs = [Claim("a", "dct", "at"), Claim("b", "at", "student"), Claim("c", "dct", "kd")]
    found = verdicts(students, pairs)
    order = found["p"].sort_values()
    expected = np.minimum(1, np.maximum.accumulate(order.to_numpy() * [3, 2, 1]))
    assert found["p_holm"].loc[order.index].tolist() == pytest.approx(expected.tolist())
    alone = students[(students["label"] != "kd") | (students["init_seed"] == 0)]
    fewer = verdicts(alone, pairs)
    assert np.isnan(fewer["p_holm"][2]) and fewer["verdict"][2] == "undecided at n=1"
    assert fewer["p_holm"].min() == pytest.approx(2 * fewer["p"].min())


@pytest.mark.parametrize("p", [[0.01, 0.01, 0.04], [0.5, np.nan, 0.2], [np.nan], []])
def test_holm_is_that_of_statsmodels(p):
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    one = comparison_of(np.array([0.1]), "dct", "at")
    found = judge({str(i): replace(one, p=value) for i, value in enumerate(p)})
    known = [value for value in p if value == value]
    expected = multitest.multipletests(known, method="holm")[1].tolist() if known else []
    assert (found["p_holm"].dropna().tolist() if len(found) else []) == expected


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
    assert verdict(replace(one, n=1), p) == "undecided at n=1"


@pytest.mark.parametrize("n", [2, 3, 5, 20, 73])
def test_the_smallest_resolvable_difference_is_found_four_times_in_five(n):
    difference = smallest_resolvable_difference(0.01, n)
    noncentrality, bound = difference / 0.01 * np.sqrt(n), stats.t.ppf(0.975, n - 1)
    power = stats.nct.sf(bound, n - 1, noncentrality)  # the far tail adds nothing that counts
    assert power == pytest.approx(0.8, abs=1e-3)
    assert np.isnan(smallest_resolvable_difference(0.01, 1))


def test_seeds_to_resolve_is_the_first_number_that_suffices():
    n = seeds_to_resolve(0.01, 0.02)
    assert smallest_resolvable_difference(0.02, n) <= 0.01
    assert smallest_resolvable_difference(0.02, n - 1) > 0.01
    assert seeds_to_resolve(0.01, float("nan")) is None


def test_claims_name_methods_that_exist_and_are_made_once():
    for claim in EVERY_CLAIM:
        assert all(name in OURS or parse_method(name) for name in (claim.method, claim.baseline))
    assert len({claim[1:] for claim in EVERY_CLAIM}) == len(EVERY_CLAIM)
    assert smallest_effect("dap_loc") == smallest_effect("map") == smallest_effect("top1") == 0.005
    assert smallest_effect("ssim") == smallest_effect("energy_share") == 0.01


def test_claims_are_judged_wherever_both_methods_were_run(table, tmp_path):
    claims = verdicts(table).set_index(["method", "baseline", "metric"])
    assert claims.loc[("dct", "at", "top1"), "verdict"] == "holds"
    assert ("dct_low", "dct", "top1") not in claims.index
    assert claims.loc[("dct_abs", "dct", "top1"), "verdict"] == "does not hold"
    write_grid(tmp_path, ["student", "at", "dct"], split="dev")
    assert verdicts(load_records(tmp_path)).empty and verdicts(table.iloc[:0]).empty


# FRSKD: names of its variants, the control of equal compute.
SETTING, OPTIONS = RunConfig(epochs=5), {"width": 1}
TAUGHT = {
    "classification": replace(SETTING, method="frskd", method_options=OPTIONS),
    "segmentation": replace(
        SETTING, task="segmentation", student="scenes_segmenter", method=OF_PIXELS,
        method_options=OPTIONS,
    ),
}  # fmt: skip


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
                edit_record(directory, self_teacher=self_teacher(value + 0.1))
    return root


def self_teacher(top1):
    return {"top1": top1, "top5": 1.0, "mca": top1, "relevance": None, "parameters": 9, "flops": 9}


@pytest.fixture(scope="module")
def taught(tmp_path_factory):
    """The table, one setting of it, and FRSKD's runs there; others are mixed or longer."""
    frskd = TAUGHT["classification"]
    options = replace(frskd, method="frskd_options", method_options={"width": 1, "alpha": 0.0})
    joint = replace(options, method_options={**options.method_options, "beta": 0.0})
    others = (replace(frskd, method="frskd_dct"), 0.69), (joint, 0.65)
    root = write_self_taught(tmp_path_factory.mktemp("records"), frskd, *others)
    other = replace(options, method_options={"width": 1, "feature": "fitnet"})
    mixed = replace(frskd, augmentation=("flip", "mixup"))
    long = replace(frskd, epochs=20)
    for run, top1 in ((other, 0.66), (mixed, 0.72), (long, 0.9)):
        write_run(root, run, top1)
    write_run(root, replace(mixed, method="student"), 0.61)
    write_run(root, replace(long, method="student"), 0.7)
    table = load_records(root)
    main = runs_of(table, "scenes", 2)
    return table, main, self_taught_runs(table, main)


def test_variants_are_named_by_what_they_change_and_a_row_has_both_accuracies(taught):
    found = summary(taught[2])
    assert set(found.index) == {"student", "frskd", "frskd_dct", JOINT, "frskd_fitnet", LONGER}
    assert list(found.index[:2]) == ["student", LONGER]
    assert found.loc["frskd", "self_teacher"] == pytest.approx(0.8)
    assert found.loc["frskd", "n"] == 3 and found["self_teacher"].isna().sum() == len(found) - 1


@pytest.mark.parametrize(
    ("task", "claims"), [("classification", FRSKD_CLAIMS), ("segmentation", PIXEL_CLAIMS)]
)
def test_equal_epochs_and_equal_compute_are_judged_apart(task, claims, tmp_path):
    table = load_records(write_self_taught(tmp_path, TAUGHT[task]), task=task)
    main = runs_of(table, "scenes", 2)
    longer = longer_students(table, main)
    assert set(longer["epochs"]) == {plain_epochs(TAUGHT[task])} and len(longer) == 3
    found = verdicts_on(self_taught_runs(table, main), claims)
    assert list(found.values()) == ["holds", "does not hold"]  # and nothing of what was not run
    judged = dict(judged_families(table))["A neighbour: FRSKD"].set_index("claim")["verdict"]
    assert judged.to_dict() == found


def test_gains_count_common_seeds_method_by_method(taught):
    table, main, _ = taught
    found = gains_by("augmentation", table, main).set_index("augmentation")
    mixed, usual = found.loc['["flip", "mixup"]'], found.loc['["flip"]']
    assert mixed["gain"] == pytest.approx(0.11) and mixed["n"] == 1
    assert (usual["n"], usual["self_teacher"]) == (3, pytest.approx(0.8))
    found = gains_by("epochs", table, main, ("frskd", "frskd_dct"))
    assert found["epochs"].tolist() == [5, 5, 20]
    assert found["method"].tolist() == ["frskd", "frskd_dct", "frskd"]
    expected = [0.1 + 0.001 / 3, 0.09 + 0.001 / 3, 0.2]
    assert found["gain"].tolist() == pytest.approx(expected)


def test_without_frskd_there_is_nothing_to_compare(tmp_path):
    write_run(tmp_path, SETTING)
    table = load_records(tmp_path)
    alone = self_taught_runs(table, runs_of(table, "scenes", 2))
    assert set(alone["label"]) == {"student"} and verdicts(alone, FRSKD_CLAIMS).empty
    assert gains_by("augmentation", table, alone).empty


# Detectors: which runs stand for a method, and which errors it mends.
DETECTOR = RunConfig(task="detection", student="scenes_ssd", teacher="scenes_medium", crop_size=24)


@pytest.fixture(scope="module")
def detectors(tmp_path_factory):
    root = write_detectors(tmp_path_factory.mktemp("detectors"), DETECTOR)
    return load_records(root, task="detection")


def test_every_claim_about_detectors_is_judged_in_its_family(detectors):
    helps, errors = (found for _, found in judged_families(detectors))
    assert helps["claim"].tolist() == [claim.text for claim in DETECTOR_CLAIMS]
    assert set(helps["verdict"]) == {"holds"}
    assert errors["claim"].tolist() == [claim.text for claim in ERROR_CLAIMS]
    assert errors["verdict"].tolist()[:4] == ["holds", "holds", "does not hold", "does not hold"]
    saved = errors.set_index("claim").loc["KD_loc leaves fewer localisation errors"]
    assert (saved["method"], saved["baseline"]) == ("student", "kd_loc")
    assert saved["difference"] == pytest.approx(0.06, abs=1e-3)
    assert verdicts(detectors[detectors["method"] == "student"], DETECTOR_CLAIMS).empty


def test_gains_at_two_ious_are_compared_by_their_difference(detectors):
    changed = detectors.copy()
    loc = changed["method"] == "kd_loc"
    changed.loc[loc, "ap75_less_ap50"] += 0.05 + 0.001 * changed.loc[loc, "init_seed"]
    row = verdicts(changed, ERROR_CLAIMS).iloc[-1]
    assert row["difference"] == pytest.approx(0.051, abs=1e-4) and row["verdict"] == "holds"


def test_ablations_do_not_stand_for_their_method(tmp_path):
    write_detectors(tmp_path, DETECTOR)
    ablations = (
        {"method": "kd_cls", "method_options": {"temperature": 1.0}},
        {"method": "kd_loc", "crop_size": 8}, {"method": "loc", "weight": 9.0},
    )  # fmt: skip
    for seed in range(3):
        for fields in ablations:
            write_run(tmp_path, replace(DETECTOR, **fields, data_seed=seed, init_seed=seed), 0.2)
    table = load_records(tmp_path, task="detection")
    assert any("temperature" in label for label in table["label"])
    main = main_runs(table)
    assert set(main["label"]) == {"student", *OF_DETECTORS} and len(main) == 15
    assert main["map"].min() > 0.2
    assert set(verdicts(main, DETECTOR_CLAIMS)["verdict"]) == {"holds"}


def test_the_paper_s_claims_are_the_usual_ones(table):
    assert verdicts(table).equals(verdicts(table, CLAIMS))
