"""Is one method better than another? Paired over seeds, by the rule that is written down here.

Methods of one seed share data order, augmentation and initial weights, so their difference is
taken seed by seed. A claim that a method beats a baseline

* **holds** if the 95 % confidence interval of the mean difference lies above 0 and the paired
  t-test's p, Holm-corrected over the claims tested together, is below 0.05;
* **does not hold** if that interval lies wholly below 0, or wholly below the smallest effect
  that matters (0.5 points of accuracy);
* is **undecided at n=...** otherwise, and always with a single seed.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from math import nan, sqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, stats

from kdlib.errors import KdlibError, check_known
from kdlib.runs import RunConfig
from kdlib.tasks import TASKS
from study import records
from study.records import METRICS, OF_DETECTORS, SEEDS, VARIANT

CONFIDENCE, ALPHA, POWER = 0.95, 0.05, 0.8
PAIR = ["data_seed", "init_seed"]


class Claim(NamedTuple):
    """``method`` exceeds ``baseline`` in ``metric``; ``text`` says it in words."""

    text: str
    method: str
    baseline: str
    metric: str = "top1"


# All claims were written down before the runs. A family is what Holm's correction counts, so that
# a question of another kind does not make the paper's own harder to answer.
STUDENT, LONGER = "student", "student, equal compute"
FRSKD, OF_PIXELS, JOINT = "frskd", "frskd_pixels", "frskd_joint"
FAMILIES: dict[str, dict[str, tuple[Claim, ...]]] = {}
"""By task: the families of claims, by their titles."""
_WRITTEN = pd.read_csv(Path(__file__).with_name("claims.csv"))
for (_task, _title), _own in _WRITTEN.groupby(["task", "family"], sort=False):
    _claims = _own[[*Claim._fields]].to_numpy()
    FAMILIES.setdefault(_task, {})[_title] = tuple(map(Claim._make, _claims))
CLAIMS, _, _, SRM_CLAIMS, FRSKD_CLAIMS = FAMILIES["classification"].values()
(PIXEL_CLAIMS,) = FAMILIES["segmentation"].values()
DETECTOR_CLAIMS, ERROR_CLAIMS = FAMILIES["detection"].values()


@dataclass(frozen=True)
class Comparison:
    """A paired comparison: mean difference of ``method`` over ``baseline`` in ``metric``.

    ``low`` and ``high`` bound the 95 % interval; ``p`` is two-sided; ``resolvable`` is the
    smallest true difference that this many seeds would find. All are NaN with one common seed.
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
    """Values of two labels of one setting at the seeds that both have; else a KdlibError."""
    if table["setting"].nunique() > 1:
        raise KdlibError("Only runs of one setting can be compared; choose one by its 'setting'.")
    columns = {}
    for label in (method, baseline):
        check_known("method in these records", label, set(table["label"]))
        columns[label] = table[table["label"] == label].set_index(PAIR)[metric].dropna()
        if columns[label].index.has_duplicates:
            raise KdlibError(f"'{label}' has several runs of one seed (teacher seeds?); keep one.")
    return pd.concat(columns, axis=1, join="inner").sort_index()


def paired_comparison(
    table: pd.DataFrame, method: str, baseline: str, metric: str = "top1"
) -> Comparison:
    """Compare two methods over their common seeds; errors are as of :func:`paired_values`."""
    both = paired_values(table, method, baseline, metric)
    return comparison_of((both[method] - both[baseline]).to_numpy(float), method, baseline, metric)


def comparison_of(
    differences: np.ndarray, method: str, baseline: str, metric: str = "top1"
) -> Comparison:
    """The comparison that differences, one a seed, amount to."""
    count = len(differences)
    mean = float(differences.mean()) if count else nan
    std = p = nan
    if count > 1:
        std = float(differences.std(ddof=1))
        if np.ptp(differences) == 0:  # the t statistic is 0/0 or infinite
            p = 1.0 if mean == 0 else 0.0
        else:
            p = float(stats.ttest_1samp(differences, 0).pvalue)
    ends, least = t_interval(differences), smallest_resolvable_difference(std, count)
    return Comparison(method, baseline, metric, count, mean, std, *ends, p, least)


def t_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """95 % confidence interval of the mean by Student's t; NaN with fewer than two values."""
    if len(values) < 2:
        return nan, nan
    mean, error = np.mean(values), stats.sem(values)
    half = error * stats.t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1)
    return float(mean - half), float(mean + half)


def smallest_resolvable_difference(std: float, n: int) -> float:
    """The smallest true difference that ``n`` pairs find with a probability of 80 %; NaN for one.

    Two-sided paired t-test at 5 %, uncorrected; ``std`` is that of the paired differences.
    """
    return nan if n < 2 else std * _noncentrality(n - 1) / sqrt(n)


@cache
def _noncentrality(freedom: int) -> float:
    """Of the t statistic that the test finds so often; its far tail adds less than 1e-5."""
    bound = stats.t.isf(ALPHA / 2, freedom)
    most = 1.5 * bound + 1
    return optimize.brentq(lambda d: stats.nct.sf(bound, freedom, d) - POWER, 0.0, most)


def seeds_to_resolve(difference: float, std: float, limit: int = 200) -> int | None:
    """The fewest seeds that find a true ``difference`` at this ``std`` of pairs; to ``limit``."""
    counts = range(2, limit + 1)
    return next((n for n in counts if smallest_resolvable_difference(std, n) <= difference), None)


def smallest_effect(metric: str) -> float:
    """The smallest difference in ``metric`` that matters, in its own unit.

    Half a point of accuracy, IoU or AP (the scatter of the paper's own alpha sweep); one hundredth
    of the range of the attention measures.
    """
    return 0.005 if metric in (*METRICS, *OF_DETECTORS) else 0.01


def verdict(comparison: Comparison, p_corrected: float) -> str:
    """``holds``, ``does not hold`` or ``undecided at n=...``, by the rule of this module."""
    if comparison.n > 1:
        if comparison.low > 0 and p_corrected < ALPHA:
            return "holds"
        # An interval wholly below 0 is also wholly below the smallest effect, which is positive.
        if comparison.high < smallest_effect(comparison.metric):
            return "does not hold"
    return f"undecided at n={comparison.n}"


def judge(found: Mapping[str, Comparison]) -> pd.DataFrame:
    """Verdicts on claims (in words -> comparison), a row each; Holm counts those that have a p."""
    rows = [{"claim": claim, **asdict(one)} for claim, one in found.items()]
    table = pd.DataFrame(rows, columns=["claim", *Comparison.__dataclass_fields__])
    tested = table["p"].dropna().sort_values()
    table["p_holm"] = (tested * np.arange(len(tested), 0, -1)).cummax().clip(upper=1)
    pairs = zip(found.values(), table["p_holm"], strict=True)
    return table.assign(verdict=[verdict(*pair) for pair in pairs])


def verdicts(table: pd.DataFrame, claims: Sequence[Claim] = CLAIMS) -> pd.DataFrame:
    """Verdicts on those claims whose methods were run, in every setting of ``table``.

    The claims tested in one setting are one family. As :func:`judge`, with ``setting`` and
    ``description``; may be empty. The dev split is for choosing, not for judging.
    """
    found = []
    for setting in records.student_settings(table) if len(table) else []:
        runs = table[(table["setting"] == setting) & (table["split"] == "train")]
        if runs.duplicated(["label", *PAIR]).any():  # crossed with teachers: study.confirm's
            continue
        metrics = {claim.metric for claim in claims} & set(runs)
        known = {one: set(runs.loc[runs[one].notna(), "label"]) for one in metrics}
        tested = [c for c in claims if {c.method, c.baseline} <= known.get(c.metric, set())]
        if tested:
            judged = judge({claim.text: paired_comparison(runs, *claim[1:]) for claim in tested})
            name = records.describe_setting(table, setting)
            found.append(judged.assign(setting=setting, description=name))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def judged_families(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Title and verdicts of each family that all runs of a task can test."""
    task = table["task"].iloc[0]
    runs = main_runs(table) if task == "detection" else with_controls(table)
    for title, claims in FAMILIES.get(task, {}).items():
        found = verdicts(runs, claims)
        if len(found):
            yield title, found


# Which detectors stand for a method: those of the profile of their main comparison.
PROFILE = "detection"


def main_runs(table: pd.DataFrame) -> pd.DataFrame:
    """One variant of each method of a setting, ``label`` its plain name; ablations are left out.

    That of the profile ``detection``; where that has none of them, the one with the most runs; of
    equals the one with the setting's most common size of crops, then the fewest options.
    """
    kept = []
    for _, setting in table.groupby("setting", sort=False):
        place = partial(_place, crop_sizes=setting["crop_size"])
        for method, rows in setting.groupby("method", sort=False):
            variants = rows.groupby(list(VARIANT), dropna=False, sort=False)
            kept.append(max((one for _, one in variants), key=place).assign(label=method))
    return pd.concat(kept).sort_index() if kept else table


def _place(variant: pd.DataFrame, crop_sizes: pd.Series) -> tuple[int, int, int, int, bool]:
    first, ids = variant.iloc[0], set(variant["run_id"])
    planned = ids & planned_runs(PROFILE, first["dataset"])
    alike = int((crop_sizes == first["crop_size"]).sum())
    return len(planned), len(ids), alike, -len(first["method_options"]), pd.isna(first["weight"])


@cache
def planned_runs(profile: str, dataset: str) -> frozenset[str]:
    """Names of a profile's runs; none where it lacks the data set, or only chooses weights."""
    from study.profiles import expand, read_profile

    try:
        runs = [] if "grid" in read_profile(profile) else expand(profile, dataset)
    except KdlibError:
        runs = []
    return frozenset(run.run_id for run in runs)


# What FRSKD is compared with: its variants, and plain students that cost as much.
def with_controls(table: pd.DataFrame, students: pd.DataFrame | None = None) -> pd.DataFrame:
    """Runs of a task (some ``students``, or all) under the names that claims have for them.

    Each setting gets the plain students too that trained for as many operations as its FRSKD.
    """
    runs = table if students is None else students
    pairs = zip(runs["label"], runs["method_options"], strict=True)
    named = runs.assign(label=[_named(*pair) for pair in pairs])
    longer = [
        longer_students(table, rows).assign(setting=setting, label=LONGER)
        for setting, rows in runs.groupby("setting", sort=False)
    ]
    return pd.concat([named, *longer], ignore_index=True)


def _named(label: str, options: str) -> str:
    """``frskd_options`` by what it changes: both weights 0, or the feature term."""
    if not label.startswith("frskd_options"):
        return label
    changed = json.loads(options)
    if changed.get("alpha") == 0 and changed.get("beta") == 0:
        return JOINT
    return f"frskd_{changed['feature']}" if "feature" in changed else label


def self_taught_runs(table: pd.DataFrame, students: pd.DataFrame) -> pd.DataFrame:
    """FRSKD's runs among those of one setting, its variants, and the plain students beside them."""
    main = students[students["setting"] == students["setting"].iloc[0]]
    return with_controls(table, main[main["method"].str.fullmatch(r"student|kd|frskd.*")])


def longer_students(table: pd.DataFrame, students: pd.DataFrame) -> pd.DataFrame:
    """Plain students of a setting but for the epochs, which FRSKD's operations would pay for."""
    from study.profiles import plain_epochs

    method = OF_PIXELS if students["task"].iloc[0] == "segmentation" else FRSKD
    taught = students[students["method"] == method]
    if taught.empty:
        return table.iloc[:0]
    first = taught.iloc[0]
    config = RunConfig(
        student=first["student"], method=first["method"], image_size=int(first["image_size"]),
        task=first["task"], method_options=json.loads(first["method_options"]),
        epochs=int(first["epochs"]),
    )  # fmt: skip
    alike = akin(table, students, "epochs")
    return alike[(alike["method"] == STUDENT) & (alike["epochs"] == plain_epochs(config))]


def akin(table: pd.DataFrame, students: pd.DataFrame, field: str) -> pd.DataFrame:
    """Runs that differ from those of a setting in ``field``, method and seeds alone."""
    own = {"method", field, *VARIANT, *SEEDS}
    values = table[[name for name in records.config_columns(table) if name not in own]]
    values = values.astype(str).fillna("")  # what is missing in both is alike
    wanted = values[table["run_id"] == students["run_id"].iloc[0]].iloc[0]
    return table[values.eq(wanted).all(axis=1)]


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a label of :func:`self_taught_runs`, plain students first."""
    metric = TASKS[runs["task"].iloc[0]].metric
    found = runs.groupby("label", sort=False).agg(
        n=(metric, "size"), **{metric: (metric, "mean")}, std=(metric, "std"),
        self_teacher=(f"self_teacher_{metric}", "mean"), epochs=("epochs", "first"),
    )  # fmt: skip
    return found.sort_index(key=lambda labels: [(one.startswith(FRSKD), one) for one in labels])


def gains_by(
    field: str, table: pd.DataFrame, students: pd.DataFrame, methods: Sequence[str] = (FRSKD,)
) -> pd.DataFrame:
    """Mean gain in top-1 over the plain student, seed by seed, at each value of a field."""
    runs = akin(table, students, field)
    plain, own = runs[runs["method"] == STUDENT], runs[runs["method"].isin(methods)]
    both = own.merge(plain, on=[field, *SEEDS], suffixes=("", "_plain"))
    found = both.groupby([field, "method"], as_index=False).agg(
        student=("top1_plain", "mean"), distilled=("top1", "mean"),
        self_teacher=("self_teacher_top1", "mean"), n=("top1", "size"),
    )  # fmt: skip
    return found.assign(gain=found["distilled"] - found[STUDENT])
