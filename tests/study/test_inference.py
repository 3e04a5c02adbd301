"""The mixed model against statsmodels and scipy, the rule of the verdicts, and its error rates."""

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import expit, polygamma
from statsmodels.regression.mixed_linear_model import MixedLM
from statsmodels.stats.weightstats import ttost_paired

from kdlib import KdlibError
from study import inference, simulation
from study.inference import Claim, Contrast, contrast_of, explore, judge
from study.mixed_model import expected_squares, family_shares, fit, mean_squares
from study.pages import page
from study.paired_checks import moderated_variances, prior_variance, sign_flip_p
from study.simulation import World, simulate, simulated_family

CLAIM = Claim("AT helps", "at", "student")
NO_RUNS = {CLAIM: Contrast(np.empty((0, 0)), np.nan, "no common runs")}


def crossed(seed, teacher=0.5, sample=0.8, rest=1.0, mean=0.0, shape=(3, 8)):
    """A table of differences with known components."""
    random = np.random.default_rng(seed)
    effects = teacher * random.normal(size=(shape[0], 1)) + sample * random.normal(size=shape[1])
    return mean + effects + rest * random.normal(size=shape)


RESULTS = {
    ("student", None): (700, 720, 710), ("at", 0): (750, 760, 740), ("at", 1): (755, 770, 750),
    ("kd", 0): (800, 805, 790), ("kd", 1): (795, 810),
}  # fmt: skip
ROWS = [(*key, s, c, 1000) for key, counts in RESULTS.items() for s, c in enumerate(counts)]
TABLE = pd.DataFrame(ROWS, columns=["method", "teacher", "sample", "correct", "images"])


def test_runs_are_paired_by_teacher_and_training_set():
    found = contrast_of(TABLE, CLAIM)
    counts = np.array([RESULTS[key] for key in (("at", 0), ("at", 1), ("student", None))])
    odds = np.log((counts + 0.5) / (1000.5 - counts))
    np.testing.assert_allclose(found.differences, odds[:2] - odds[2])
    middle = (odds[:2].mean() + odds[2].mean()) / 2
    assert found.level == pytest.approx(middle) and found.note == ""
    back = contrast_of(TABLE, CLAIM._replace(method="student", baseline="at"))
    np.testing.assert_allclose(back.differences, -found.differences)
    plain = contrast_of(TABLE, CLAIM._replace(method="student", baseline="student"))
    assert plain.differences.shape == (1, 3)


def test_a_training_set_that_lacks_a_run_is_left_out_and_said():
    found = contrast_of(TABLE, CLAIM._replace(method="kd"))
    assert found.differences.shape == (2, 2) and found.note.startswith("1 training sets left out")


def test_only_runs_of_the_claims_data_set_and_budget_count():
    other = TABLE.assign(dataset="fashion_scenes", budget="equal compute", correct=1)
    both = pd.concat([TABLE.assign(dataset="scenes", budget="equal epochs"), other])
    found = contrast_of(both, CLAIM)
    np.testing.assert_array_equal(found.differences, contrast_of(TABLE, CLAIM).differences)
    with pytest.raises(KdlibError, match="'at' has several runs of one teacher and sample"):
        contrast_of(pd.concat([TABLE, TABLE[TABLE["method"] == "at"]]), CLAIM)


def likelihood(table, teacher, sample, rest):
    one, (teachers, samples) = np.ones(table.size), table.shape
    cov = teacher * np.kron(np.eye(teachers), np.ones((samples, samples)))
    cov += sample * np.kron(np.ones((teachers, teachers)), np.eye(samples)) + rest * np.diag(one)
    inverse, left = np.linalg.inv(cov), table.ravel() - table.mean()
    return -(np.linalg.slogdet(cov)[1] + np.log(one @ inverse @ one) + left @ inverse @ left) / 2


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("shape", [(3, 8), (6, 4)])
def test_components_are_those_of_statsmodels(seed, shape):
    table = crossed(seed, shape=shape, teacher=seed / 2)
    long = pd.DataFrame(table).stack().rename("d").rename_axis(["teacher", "sample"]).reset_index()
    parts = {"teacher": "0 + C(teacher)", "sample": "0 + C(sample)"}
    model = MixedLM.from_formula("d ~ 1", long, groups=np.ones(len(long)), vc_formula=parts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a variance of 0 lies on the boundary
        found = model.fit(reml=True)
    teacher, sample, rest = expected_squares(*mean_squares(table))
    mine = (teacher - rest) / shape[1], (sample - rest) / shape[0], rest
    named = dict(zip(model.exog_vc.names, found.vcomp, strict=True))
    theirs = named["teacher"], named["sample"], found.scale
    assert likelihood(table, *mine) >= likelihood(table, *theirs) - 1e-6
    if min(mine) > 0.1:  # near 0 its optimiser stops early
        np.testing.assert_allclose(mine, theirs, rtol=0.01)
        assert found.bse.iloc[0] == pytest.approx(fit(table).error, rel=0.01)
    assert found.fe_params.iloc[0] == pytest.approx(fit(table).difference)


def test_the_bootstrap_is_that_of_whole_tables():
    table, shares = crossed(5), (0.2, 0.4)
    found = fit(table, shares, draws=2**14)
    teacher, sample, rest = found.squares
    sds = ((teacher - rest) / 8) ** 0.5, ((sample - rest) / 3) ** 0.5, rest**0.5
    again = [fit(crossed(10 + i, *sds), shares, draws=1) for i in range(3000)]
    ratios = np.array([one.difference / one.error for one in again])
    for bound in (1.5, 2.5):
        expected = np.mean(np.abs(ratios) >= bound)
        assert 2 * found.tail(bound) == pytest.approx(expected, abs=4 * (expected / 3000) ** 0.5)


@pytest.mark.parametrize("shape", [(1, 8), (4, 1)])
def test_with_one_teacher_or_training_set_it_is_students_t(shape):
    table = crossed(1, mean=0.4, shape=shape)
    found, test = fit(table), stats.ttest_1samp(table.ravel(), 0)
    assert found.p_difference() == pytest.approx(test.pvalue, rel=0.02)
    assert found.interval(0.05) == pytest.approx(tuple(test.confidence_interval()), rel=0.02)
    tost = ttost_paired(table.ravel(), np.zeros(table.size), -1.0, 1.0)[0]
    assert found.p_equivalence(1.0) == pytest.approx(tost, rel=0.03)


def test_a_run_that_all_teachers_share_is_counted_once():
    once = crossed(2, teacher=0, shape=(1, 8))
    assert fit(np.repeat(once, 3, axis=0)).error == pytest.approx(fit(once).error)


def test_a_family_lends_its_ratios_of_variances():
    tables = [crossed(seed, teacher=0.7) for seed in range(400)]
    assert family_shares(tables) == pytest.approx((0.49, 0.64), abs=0.1)
    assert family_shares([np.zeros((3, 8)), crossed(0, shape=(1, 8))]) == (0, 0)
    quiet = crossed(0, teacher=0, sample=0)
    assert fit(quiet, (0.5, 0.0)).error > fit(quiet).error < fit(quiet, (0.0, 0.5)).error


@pytest.mark.parametrize(("differences", "word", "note"), [
    (np.zeros((3, 8)), "equivalent", "identical runs"),
    (np.full((3, 8), 0.3), "undecided", "no scatter"), ([[0.3]], "undecided", "no scatter"),
    (np.full((1, 8), 0.3), "undecided", "one teacher"), (np.empty((0, 0)), "undecided", ""),
    (np.full((3, 8), 0.3) + crossed(3, 0, 0, 1e-3), "better", ""),
    (-np.full((3, 1), 0.3) + crossed(3, 0, 0, 1e-3, shape=(3, 1)), "worse", "one training set"),
])  # fmt: skip
def test_degenerate_tables_are_judged_or_said_to_be_undecided(differences, word, note):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = judge({CLAIM: Contrast(np.array(differences), 1.4)}).iloc[0]
    assert found["verdict"] == word and note in found["note"]


def test_the_prior_of_variances_is_found():
    variances = 2.0 * stats.f.rvs(7, 10, size=20_000, random_state=0)
    assert prior_variance(variances, np.full(20_000, 7)) == pytest.approx((10, 2.0), rel=0.1)
    few, freedom = np.array([1.0, 2.0, 9.0]), np.array([4, 4, 8])
    more, prior = prior_variance(few, freedom)
    shrunk, total = moderated_variances(few, freedom)
    np.testing.assert_allclose(shrunk, (more * prior + freedom * few) / (more + freedom))
    np.testing.assert_allclose(total, np.minimum(more + freedom, 16))
    logs = np.log(few) - stats.loggamma.mean(freedom / 2) + np.log(freedom / 2)  # E log chi2
    excess = logs.var(ddof=1) - polygamma(1, freedom / 2).mean()
    assert polygamma(1, more / 2) == pytest.approx(excess)
    alike, degrees = moderated_variances(np.array([2.0, 2.0, 0.0]), np.array([7, 7, 7]))
    assert len({*alike}) == 1 and {*degrees} == {14}


@pytest.mark.parametrize("size", [6, 16])
def test_sign_flips_agree_with_scipy(size):
    values = np.random.default_rng(size).normal(0.4, size=size)
    found = stats.permutation_test((values,), np.sum, permutation_type="samples", n_resamples=2**16)
    assert sign_flip_p(values) == pytest.approx(found.pvalue, rel=0.05)
    assert sign_flip_p(np.zeros(5)) == 1


@pytest.mark.parametrize("level", [-1.0, 0.5, 1.4, 3.0])
def test_delta_removes_five_percent_of_the_errors(level):
    delta = inference.margin(level)
    assert inference.error_reduction(delta, level) == pytest.approx(5)
    assert inference.points(delta, level) == -inference.points(-delta, level)
    high, low = 100 * expit(level + delta / 2), 100 * expit(level - delta / 2)
    assert inference.points(delta, level) == pytest.approx(high - low)


@pytest.mark.parametrize(("difference", "p", "p_equivalence", "word"), [
    (0.1, 0.05, 0.9, "better"), (-0.1, 0.05, 0.9, "worse"), (0.1, 0.06, 0.06, "undecided"),
    (0.1, 0.9, 0.05, "equivalent"), (0.1, 0.01, 0.01, "equivalent"),
    (np.nan, np.nan, np.nan, "undecided"),
])  # fmt: skip
def test_the_word_follows_the_written_rule(difference, p, p_equivalence, word):
    assert inference.verdict(difference, p, p_equivalence) == word


FAMILY = simulated_family(World((0, 0, 2, -3, 5, 0, 1, -1)), np.random.default_rng(4))


def test_the_rule_reads_the_same_from_both_sides():
    one = judge(FAMILY)
    other = judge({c: two._replace(differences=-two.differences) for c, two in FAMILY.items()})
    assert {*one["verdict"]} == {"better", "worse", "equivalent", "undecided"}
    swapped = other["verdict"].replace({"better": "worse", "worse": "better"})
    pd.testing.assert_series_equal(one["verdict"], swapped)
    for scale in ("log_odds", "points"):
        np.testing.assert_allclose(one[f"{scale}_low"], -other[f"{scale}_high"])
    less, more = 1 - one["reduction_low"] / 100, 1 - other["reduction_high"] / 100
    np.testing.assert_allclose(less * more, 1)
    kept = ["p_difference", "p_equivalence", "p_moderated", "p_sign_flip", "resolvable", "delta"]
    pd.testing.assert_frame_equal(one[kept], other[kept])


def test_words_and_intervals_of_a_family_say_the_same():
    table = judge(FAMILY | NO_RUNS)
    outside = (table["log_odds_family_low"] > 0) | (table["log_odds_family_high"] < 0)
    assert ((table["p_difference"] * 9 <= 0.05) == outside).all()
    assert (table["points_family_low"] <= table["points_low"]).sum() == 8
    again, p = judge(FAMILY, draws=2**10, seed=1), table["p_difference"][:8]
    np.testing.assert_allclose(again["p_difference"], p, rtol=0.05, atol=1e-6)
    pd.testing.assert_frame_equal(judge(FAMILY), judge(FAMILY))
    assert (again["as_claimed"].isna() == (again["verdict"] == "undecided")).all()


def test_exploratory_contrasts_get_q_and_no_words():
    table = explore(FAMILY | NO_RUNS)
    p = np.sort(table["p_difference"].dropna())
    q = np.minimum.accumulate((p * 8 / np.arange(1, 9))[::-1])[::-1].clip(max=1)
    np.testing.assert_allclose(np.sort(table["q"].dropna()), q)
    assert "verdict" not in table and table["q"].isna().sum() == 1


# Error rates. Bounds are the nominal rate and three standard errors of that many studies.
def most(rate, count):
    return rate + 3 * (rate * (1 - rate) / count) ** 0.5


@pytest.mark.parametrize("effects", [(0.0,) * 8, (1.0, -1.0) * 4, (0.0, 1.0, 0.0, -1.0) * 2])
def test_false_words_are_rare_and_intervals_cover(effects):
    count = 120
    found = simulate(World(effects), count, seed=7, draws=512)
    rates = simulation.rates(found)
    assert rates["any false word"] / 100 <= most(0.05, count)
    assert 1 - rates["family covers"] / 100 <= most(0.05, count)
    assert 1 - rates["95 % covers"] / 100 <= most(0.05, 4 * count)  # neighbours depend


def test_what_is_called_resolvable_is_found_as_often_as_promised():
    world = World()
    planned = simulation.at_resolvable(simulate(world, 40, seed=1, draws=512), world)
    rates = simulation.rates(simulate(planned, 60, seed=2, draws=512))
    assert rates["better"] + rates["worse"] == pytest.approx(80, abs=8)
    close = replace(world, noise=(0.4, 0.4), teacher=0.1)
    assert simulation.rates(simulate(close, 30, draws=512))["equivalent"] > 95


def test_the_table_of_the_documentation_is_measured(tmp_path, monkeypatch):
    given = ["--repeats", "2", "--draws", "64", "--to", str(tmp_path / "verdicts.json")]
    monkeypatch.setattr("sys.argv", ["simulation", *given])
    simulation.main()
    told = page("docs/statistics.md", tmp_path)
    assert "Each row is 2 studies of 3 teachers and 8 training sets" in told
    assert all(f"\n| {name} " in told for name in [*simulation.WORLDS, "resolvable"])
