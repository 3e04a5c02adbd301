"""Sentences say what their table says, and its opposite when that is turned round."""

import pandas as pd
import pytest
from synthetic import write_grid

from study.figures.attention import ssim_by_stage_table
from study.figures.comparison import method_accuracy_table
from study.records import load_records
from study.results import (
    amount,
    read_accuracy,
    read_claims,
    read_comparison,
    read_noise,
    read_stages,
)
from study.statistics import (
    COMPARISONS_CLAIMS,
    claims_table,
    comparison_of,
    judge,
    seeds_to_resolve,
    smallest_resolvable_difference,
)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return load_records(write_grid(tmp_path_factory.mktemp("runs"), seeds=range(4)))


def sentence(*differences, metric="top1"):
    found = judge({"It helps": comparison_of(pd.Series(differences), "dct+kd", "at", metric)})
    return read_comparison(found.iloc[0])


def test_every_verdict_has_its_reason():
    assert "It helps: holds" in sentence(0.02, 0.021, 0.022)
    assert "above 0 and the corrected p" in sentence(0.02, 0.021, 0.022)
    assert "the reverse is what was seen" in sentence(-0.02, -0.021, -0.022)
    assert "wholly below 0.50 points" in sentence(0.001, 0.0, -0.001)
    assert "undecided at n=3" in sentence(0.03, -0.02, 0.01)
    assert "room for no gain and for one that matters" in sentence(0.03, -0.02, 0.01)


def test_a_gain_that_the_correction_takes_away_is_said_to_be_one():
    one = comparison_of(pd.Series([0.02, 0.03, 0.045]), "dct", "at")
    found = judge({str(number): one for number in range(5)})
    assert found["low"].min() > 0 and set(found["verdict"]) == {"undecided at n=3"}
    assert "above 0, but the corrected p is not below" in read_comparison(found.iloc[0])


def test_numbers_are_those_of_the_comparison_in_their_unit():
    assert "(DCT + KD) − AT is +2.00 points (95 % interval +1.75 to +2.25" in sentence(
        0.019, 0.02, 0.021
    )
    assert "is +0.200 (95 % interval" in sentence(0.19, 0.2, 0.21, metric="ssim")
    assert amount(-0.0123, "energy_share") == "-1.23 points"
    assert amount(0.0123, "ssim", sign="") == "0.012"


def test_one_seed_or_none_in_common_is_said():
    assert "one seed decides nothing" in sentence(0.1)
    assert "no seed in common" in sentence()


def test_claims_without_their_methods_say_what_they_need(runs):
    few = runs[runs["label"].isin(["student", "at", "dct", "teacher"])]
    text = read_claims(claims_table(few), COMPARISONS_CLAIMS)
    lines = text.splitlines()
    assert len(lines) == len(COMPARISONS_CLAIMS)
    assert "**DCT beats AT: holds.**" in text
    assert (
        "**DCT beats KD: not tested here.** It needs `dct` and `kd`, with their accuracy." in text
    )
    assert read_claims(pd.DataFrame(), COMPARISONS_CLAIMS).count("not tested here") == len(
        COMPARISONS_CLAIMS
    )


def test_the_best_method_and_its_share_of_the_gap(runs):
    text = read_accuracy(method_accuracy_table(runs))
    means = runs[runs["student"] == "scenes_medium"].groupby("label")["top1"].mean()
    assert "that of DCT + KD" in text and f"{means['dct+kd']:.1%}" in text
    share = (means["dct+kd"] - means["student"]) / (0.80 - means["student"])
    assert f"closes {share:.0%} of the gap" in text
    alone = method_accuracy_table(runs[runs["label"].isin(["kd", "dct"])])
    assert "gap" not in read_accuracy(alone)


def test_the_noise_says_how_many_seeds_it_takes():
    noise = comparison_of(pd.Series([0.004, -0.004, 0.001]), "dct", "parseval_twin")
    text = read_noise(noise)
    assert amount(noise.resolvable, "top1", sign="") in text and "DCT and Parseval twin" in text
    assert f"it would take {seeds_to_resolve(0.005, noise.std)} seeds" in text
    loud = comparison_of(pd.Series([0.4, -0.4, 0.1]), "dct", "parseval_twin")
    assert "more than 200 seeds" in read_noise(loud)
    assert "two seeds" in read_noise(comparison_of(pd.Series([0.01]), "dct", "parseval_twin"))


def test_seeds_to_resolve_is_the_first_number_that_suffices():
    n = seeds_to_resolve(0.01, 0.02)
    assert smallest_resolvable_difference(0.02, n) <= 0.01
    assert smallest_resolvable_difference(0.02, n - 1) > 0.01
    assert seeds_to_resolve(0.01, float("nan")) is None


def test_each_stage_names_its_leaders(runs):
    lines = read_stages(ssim_by_stage_table(runs)).splitlines()
    assert len(lines) == 3 and all("the highest is DCT + KD" in line for line in lines)
    assert "overlap" in lines[0] and "Stage 1" in lines[0]
    single = ssim_by_stage_table(runs[(runs["init_seed"] == 0)])
    assert "One seed has no interval" in read_stages(single)
    only = ssim_by_stage_table(runs[runs["label"] == "dct"])
    assert "the only one" in read_stages(only)
