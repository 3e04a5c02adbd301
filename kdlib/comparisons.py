"""Is one method better than another? Paired over seeds, with the rule written down here.

Methods of one seed share data order, augmentation and initial weights, so their difference is
taken seed by seed. A claim that a method beats a baseline

* **holds** if the 95 % confidence interval of the mean difference lies above 0 and the paired
  t-test's p, Holm-corrected over the claims tested together, is below 0.05;
* **does not hold** if that interval lies wholly below 0, or wholly below the smallest effect
  that matters (0.5 points of accuracy);
* is **undecided at n=...** otherwise, and always with a single seed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, stats
from statsmodels.stats.multitest import multipletests

from kdlib.errors import KdlibError, unknown
from kdlib.run_table import METRICS, OF_DETECTORS, describe_setting, student_settings
from kdlib.style import name_of

CONFIDENCE, ALPHA, POWER = 0.95, 0.05, 0.8
SPREADS = {"ap50_less_ap75": ("map50", "map75"), "ap75_less_ap50": ("map75", "map50")}
"""Of detectors: one metric less another. What a method adds to it is a difference of gains."""
# Half a point of accuracy, IoU or AP (the scatter of the paper's own alpha sweep); one hundredth of
# the range of the attention measures.
SMALLEST_EFFECT = dict.fromkeys((*METRICS, *OF_DETECTORS, *SPREADS), 0.005)
SMALLEST_EFFECT_OF_ATTENTION = 0.01
PAIR = ["data_seed", "init_seed"]


class Claim(NamedTuple):
    """``method`` exceeds ``baseline`` in ``metric``; ``text`` says it in words."""

    text: str
    method: str
    baseline: str
    metric: str = "top1"


CLAIMS = (
    Claim("AT helps a student", "at", "student"),
    Claim("DCT helps a student", "dct", "student"),
    Claim("DCT beats AT", "dct", "at"),
    Claim("DCT as released beats AT", "release_a", "at"),
    Claim("DCT beats KD", "dct", "kd"),
    Claim("DCT + KD beats KD", "dct+kd", "kd"),
    Claim("DCT + KD beats AT + KD", "dct+kd", "at+kd"),
    Claim("DCT maps are nearer the teacher's than AT maps", "dct", "at", "ssim"),
    Claim("DCT maps are nearer the teacher's than KD maps", "dct", "kd", "ssim"),
    Claim("DCT attends to relevant objects more than AT", "dct", "at", "energy_share"),
    Claim("The transform itself helps (against its Parseval twin)", "dct", "parseval_twin"),
    Claim("DCT beats AT with balanced levels", "dct", "at_equal_scale"),
    Claim("Balancing the levels helps AT", "at_equal_scale", "at"),
    Claim("The absolute value helps", "dct_abs", "dct"),
    Claim("An L1 distance of spectra helps", "dct_l1", "dct"),
    Claim("Low frequencies alone do better", "dct_low", "dct"),
    Claim("High frequencies alone do better", "dct_high", "dct"),
    Claim("The gate helps DCT", "dct+gate", "dct"),
    Claim("The gate helps AT", "at+gate", "at"),
    Claim("DCT with the gate beats AT with it", "dct+gate", "at+gate"),
)
SRM_CLAIMS = (
    Claim("SRM helps a student", "srm", "student"),
    Claim("SRM on logits helps a student", "srm_logits", "student"),
    Claim("Logits do better than what the release takes for them", "srm_logits", "srm"),
    Claim("SRM + KD beats KD", "srm+kd", "kd"),
    Claim("SRM on logits + KD beats KD", "srm_logits+kd", "kd"),
    Claim("SRM on logits beats DCT", "srm_logits", "dct"),
    Claim("SRM on logits + KD beats DCT + KD", "srm_logits+kd", "dct+kd"),
)
# What the paper compares with besides AT, and what came before and after it. Each is a family of
# its own, so that a question of another kind does not make the paper's own harder to answer.
RIVALS = ("pkt", "vid", "crd", "semckd")
OTHERS = ("fitnet", "sp", "rkd", "reviewkd", "dkd", "logit_std", "famkd")


def claims_against(rivals: Iterable[str]) -> tuple[Claim, ...]:
    """That DCT beats each of these methods, alone and with KD."""
    pairs = [(f"dct{kd}", f"{rival}{kd}") for kd in ("", "+kd") for rival in rivals]
    return tuple(
        Claim(f"{name_of(one)} beats {name_of(other)}", one, other) for one, other in pairs
    )


FAMILIES: dict[str, tuple[Claim, ...]] = {
    "The paper's claims, and controls": CLAIMS,
    "The paper's other rivals": claims_against(RIVALS),
    "Methods that the paper does not compare with": claims_against(OTHERS),
    "A neighbour: SRM": SRM_CLAIMS,
}


@dataclass(frozen=True)
class Comparison:
    """A paired comparison: mean difference of ``method`` over ``baseline`` in ``metric``.

    ``low`` and ``high`` bound the 95 % interval; ``p`` is two-sided; ``resolvable`` is the
    smallest true difference that this many seeds would find. All are NaN with fewer than two
    common seeds.
    """

    method: str
    baseline: str
    metric: str
    n: int
    difference: float
    std: float
    low: float
    high: float
    p: float
    resolvable: float


def paired_values(table: pd.DataFrame, method: str, baseline: str, metric: str) -> pd.DataFrame:
    """Values of both methods at the seeds that both have, indexed by seeds.

    Args:
        table: runs of one setting, from :func:`kdlib.run_table.load_records`.
        method: a label of the table.
        baseline: another one.
        metric: a numeric column; seeds at which it was not measured are left out.

    Raises:
        KdlibError: a label that the table does not have, several settings, or several runs of
            one seed.
    """
    if table["setting"].nunique() > 1:
        raise KdlibError("Only runs of one setting can be compared; choose one by its 'setting'.")
    columns = {}
    for label in (method, baseline):
        if label not in set(table["label"]):
            raise unknown("method in these records", label, set(table["label"]))
        columns[label] = table[table["label"] == label].set_index(PAIR)[metric].dropna()
        if columns[label].index.has_duplicates:
            raise KdlibError(f"'{label}' has several runs of one seed (teacher seeds?); keep one.")
    return pd.concat(columns, axis=1, join="inner").sort_index()


def paired_comparison(
    table: pd.DataFrame, method: str, baseline: str, metric: str = "top1"
) -> Comparison:
    """Compare two methods over their common seeds; arguments as of :func:`paired_values`."""
    values = paired_values(table, method, baseline, metric)
    differences = (values[method] - values[baseline]).to_numpy(float)
    return comparison_of(differences, method, baseline, metric)


def comparison_of(
    differences: np.ndarray, method: str, baseline: str, metric: str = "top1"
) -> Comparison:
    """The comparison that differences, one a seed, amount to."""
    count = len(differences)
    mean = float(differences.mean()) if count else float("nan")
    std = float(differences.std(ddof=1)) if count > 1 else float("nan")
    low, high = t_interval(differences)
    return Comparison(
        method, baseline, metric, count, mean, std, low, high,
        p=_paired_p(differences), resolvable=smallest_resolvable_difference(std, count),
    )  # fmt: skip


def t_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """95 % confidence interval of the mean by Student's t; NaN with fewer than two values."""
    if len(values) < 2:
        return float("nan"), float("nan")
    mean, error = np.mean(values), stats.sem(values)
    half = error * stats.t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1)
    return float(mean - half), float(mean + half)


def _paired_p(differences: np.ndarray) -> float:
    if len(differences) < 2:
        return float("nan")
    if np.ptp(differences) == 0:  # the t statistic is 0/0 or infinite
        return 1.0 if differences[0] == 0 else 0.0
    return float(stats.ttest_1samp(differences, 0).pvalue)


def smallest_resolvable_difference(std: float, n: int) -> float:
    """The smallest true difference that ``n`` pairs find with a probability of 80 %.

    Two-sided paired t-test at 5 %, uncorrected; ``std`` is that of the paired differences, in
    the unit of the answer. NaN with fewer than two pairs, 0 where ``std`` is 0.
    """
    if n < 2 or np.isnan(std):
        return float("nan")
    return std * _noncentrality(n - 1) / float(np.sqrt(n))


@cache
def _noncentrality(freedom: int) -> float:
    """Of the t statistic, so that a two-sided test at 5 % finds it with a probability of 80 %.

    statsmodels' solver does not converge at some n, 73 and 87 among them. The test's far tail is
    left out: it adds less than 1e-5 to the probability, and scipy has no value for it at n = 2.
    """
    bound = float(stats.t.isf(ALPHA / 2, freedom))

    def missing(shift: float) -> float:
        return float(stats.nct.sf(bound, freedom, shift)) - POWER

    return float(optimize.brentq(missing, 0.0, 1.5 * bound + 1))


def seeds_to_resolve(difference: float, std: float, limit: int = 200) -> int | None:
    """The fewest seeds that find a true ``difference``; ``None`` where ``limit`` is too few.

    Args:
        difference: in the unit of ``std``, above 0.
        std: of the paired differences; a NaN, as one pair has, gives ``None``.
        limit: the most seeds that are considered.
    """
    return next(
        (n for n in range(2, limit + 1) if smallest_resolvable_difference(std, n) <= difference),
        None,
    )


def smallest_effect(metric: str) -> float:
    """The smallest difference in ``metric`` that matters, in its own unit."""
    return SMALLEST_EFFECT.get(metric, SMALLEST_EFFECT_OF_ATTENTION)


def verdict(comparison: Comparison, p_corrected: float) -> str:
    """``holds``, ``does not hold`` or ``undecided at n=...``, by the rule of this module."""
    if comparison.n > 1:
        if comparison.low > 0 and p_corrected < ALPHA:
            return "holds"
        # An interval wholly below 0 is also wholly below the smallest effect, which is positive.
        if comparison.high < smallest_effect(comparison.metric):
            return "does not hold"
    return f"undecided at n={comparison.n}"


def compare(table: pd.DataFrame, claims: Iterable[Claim]) -> pd.DataFrame:
    """Compare pairs of methods as one family: :func:`judge` of each claim.

    Raises:
        KdlibError: as :func:`paired_values`.
    """
    return judge({c.text: paired_comparison(table, c.method, c.baseline, c.metric) for c in claims})


def judge(found: Mapping[str, Comparison]) -> pd.DataFrame:
    """Verdicts on claims that are one family: a row a claim, with ``p_holm`` and ``verdict``.

    Claims of fewer than two common seeds have no p and are not counted in the correction.

    Args:
        found: the claim in words -> the comparison that tests it.
    """
    corrected = _holm([comparison.p for comparison in found.values()])
    rows = [
        {"claim": claim, **asdict(one), "p_holm": p, "verdict": verdict(one, p)}
        for (claim, one), p in zip(found.items(), corrected, strict=True)
    ]
    return pd.DataFrame(rows)


def claims_table(table: pd.DataFrame, claims: Sequence[Claim] = CLAIMS) -> pd.DataFrame:
    """Verdicts on the claims whose methods were run, in every setting of ``table``.

    Runs on the dev split are left out: they are for choosing, not for judging. The claims tested
    in one setting are one family. Columns are those of :func:`compare`, with ``setting`` and
    ``description``.
    """
    found = []
    for setting in student_settings(table):
        runs = table[(table["setting"] == setting) & (table["split"] == "train")]
        known = [c for c in claims if _measured(runs, c)]
        if known:
            name = describe_setting(table, setting)
            found.append(compare(runs, known).assign(setting=setting, description=name))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _measured(runs: pd.DataFrame, claim: Claim) -> bool:
    measured = set(runs.dropna(subset=[claim.metric])["label"])
    return {claim.method, claim.baseline} <= measured


def _holm(values: Sequence[float]) -> np.ndarray:
    """Holm-corrected p values; NaN stays NaN and does not count."""
    corrected = np.array(values, float)
    tested = ~np.isnan(corrected)
    if tested.any():
        corrected[tested] = multipletests(corrected[tested], ALPHA, "holm")[1]
    return corrected
