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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from math import isnan, nan, sqrt
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import optimize, stats

from kdlib.errors import KdlibError, unknown
from kdlib.runs import RunConfig
from kdlib.tasks import TASKS
from study.names import name_of
from study.records import (
    METRICS,
    OF_DETECTORS,
    SEEDS,
    VARIANT,
    config_columns,
    describe_setting,
    student_settings,
)

CONFIDENCE, ALPHA, POWER = 0.95, 0.05, 0.8
# Half a point of accuracy, IoU or AP (the scatter of the paper's own alpha sweep); one hundredth of
# the range of the attention measures.
SMALLEST_EFFECT, SMALLEST_EFFECT_OF_ATTENTION = 0.005, 0.01
PAIR = ["data_seed", "init_seed"]


class Claim(NamedTuple):
    """``method`` exceeds ``baseline`` in ``metric``; ``text`` says it in words."""

    text: str
    method: str
    baseline: str
    metric: str = "top1"


def claims_against(rivals: Iterable[str]) -> tuple[Claim, ...]:
    """That DCT beats each of these methods, alone and with KD."""
    pairs = [(f"dct{kd}", f"{rival}{kd}") for kd in ("", "+kd") for rival in rivals]
    return tuple(Claim(f"{name_of(a)} beats {name_of(b)}", a, b) for a, b in pairs)


# All claims were written down before the runs. A family is what Holm's correction counts, so that
# a question of another kind does not make the paper's own harder to answer.
STUDENT, LONGER = "student", "student, equal compute"
FRSKD, OF_PIXELS, JOINT = "frskd", "frskd_pixels", "frskd_joint"
OTHERS = ("fitnet", "sp", "rkd", "reviewkd", "dkd", "logit_std", "famkd")
CLAIMS = (
    Claim("AT helps a student", "at", STUDENT),
    Claim("DCT helps a student", "dct", STUDENT),
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
    Claim("SRM helps a student", "srm", STUDENT),
    Claim("SRM on logits helps a student", "srm_logits", STUDENT),
    Claim("Logits do better than what the release takes for them", "srm_logits", "srm"),
    Claim("SRM + KD beats KD", "srm+kd", "kd"),
    Claim("SRM on logits + KD beats KD", "srm_logits+kd", "kd"),
    Claim("SRM on logits beats DCT", "srm_logits", "dct"),
    Claim("SRM on logits + KD beats DCT + KD", "srm_logits+kd", "dct+kd"),
)
FRSKD_CLAIMS = (
    Claim("FRSKD helps a student at equal epochs", FRSKD, STUDENT),
    Claim("FRSKD helps a student at equal compute", FRSKD, LONGER),
    Claim("It helps with the published weights", "frskd_published", STUDENT),
    Claim("Training the two networks together is enough", JOINT, STUDENT),
    Claim("Distilling adds to training together", FRSKD, JOINT),
    Claim("The feature term helps", FRSKD, "frskd_logits"),
    Claim("The labels felt through the self-teacher help", FRSKD, "frskd_detached"),
    Claim("The DCT term does better than the AT term", "frskd_dct", FRSKD),
)
PIXEL_CLAIMS = (
    Claim("FRSKD helps segmentation at equal epochs", OF_PIXELS, STUDENT, "miou"),
    Claim("FRSKD helps segmentation at equal compute", OF_PIXELS, LONGER, "miou"),
)
DETECTOR_CLAIMS = (
    Claim("KD_cls helps a detector", "kd_cls", STUDENT, "map"),
    Claim("Pixels of crops help a detector", "loc", STUDENT, "map"),
    Claim("KD_loc helps a detector", "kd_loc", STUDENT, "map"),
    Claim("KD_cls and KD_loc help a detector", "kd_cls_loc", STUDENT, "map"),
    Claim("The classifier's features add to pixels", "kd_loc", "loc", "map"),
    Claim("KD_loc adds to KD_cls", "kd_cls_loc", "kd_cls", "map"),
    Claim("KD_cls adds to KD_loc", "kd_cls_loc", "kd_loc", "map"),
)
ERROR_CLAIMS = (
    Claim("KD_cls leaves fewer classification errors", STUDENT, "kd_cls", "dap_cls"),
    Claim("KD_loc leaves fewer localisation errors", STUDENT, "kd_loc", "dap_loc"),
    Claim("Cross-check: KD_cls leaves fewer localisation errors", STUDENT, "kd_cls", "dap_loc"),
    Claim("Cross-check: KD_loc leaves fewer classification errors", STUDENT, "kd_loc", "dap_cls"),
    Claim("KD_cls gains more at IoU 0.5 than at 0.75", "kd_cls", STUDENT, "ap50_less_ap75"),
    Claim("KD_loc gains more at IoU 0.75 than at 0.5", "kd_loc", STUDENT, "ap75_less_ap50"),
)
FAMILIES: dict[str, dict[str, tuple[Claim, ...]]] = {
    "classification": {
        "The paper's claims, and controls": CLAIMS,
        "The paper's other rivals": claims_against(("pkt", "vid", "crd", "semckd")),
        "Methods that the paper does not compare with": claims_against(OTHERS),
        "A neighbour: SRM": SRM_CLAIMS,
        "A neighbour: FRSKD": FRSKD_CLAIMS,
    },
    "segmentation": {"A neighbour: FRSKD": PIXEL_CLAIMS},
    "detection": {
        "A neighbour: image classifiers in detectors": DETECTOR_CLAIMS,
        "A neighbour: which errors image classifiers mend": ERROR_CLAIMS,
    },
}
"""By task: the families of claims, by their titles."""


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
        table: runs of one setting, from :func:`study.records.load_records`.
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
    mean = float(differences.mean()) if count else nan
    std = float(differences.std(ddof=1)) if count > 1 else nan
    return Comparison(
        method, baseline, metric, count, mean, std, *t_interval(differences),
        p=_paired_p(differences), resolvable=smallest_resolvable_difference(std, count),
    )  # fmt: skip


def t_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """95 % confidence interval of the mean by Student's t; NaN with fewer than two values."""
    if len(values) < 2:
        return nan, nan
    mean, error = np.mean(values), stats.sem(values)
    half = error * stats.t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1)
    return float(mean - half), float(mean + half)


def _paired_p(differences: np.ndarray) -> float:
    if len(differences) < 2:
        return nan
    if np.ptp(differences) == 0:  # the t statistic is 0/0 or infinite
        return 1.0 if differences[0] == 0 else 0.0
    return float(stats.ttest_1samp(differences, 0).pvalue)


def smallest_resolvable_difference(std: float, n: int) -> float:
    """The smallest true difference that ``n`` pairs find with a probability of 80 %.

    Two-sided paired t-test at 5 %, uncorrected; ``std`` is that of the paired differences, in
    the unit of the answer. NaN with fewer than two pairs, 0 where ``std`` is 0.
    """
    return nan if n < 2 or isnan(std) else std * _noncentrality(n - 1) / sqrt(n)


@cache
def _noncentrality(freedom: int) -> float:
    """Of the t statistic, so that a two-sided test at 5 % finds it with a probability of 80 %.

    The test's far tail is left out: it adds less than 1e-5 to the probability, and scipy has no
    value for it at n = 2.
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
    enough = (smallest_resolvable_difference(std, n) <= difference for n in range(2, limit + 1))
    return next((n for n, found in enumerate(enough, 2) if found), None)


def smallest_effect(metric: str) -> float:
    """The smallest difference in ``metric`` that matters, in its own unit."""
    shares = {*METRICS, *OF_DETECTORS}
    return SMALLEST_EFFECT if metric in shares else SMALLEST_EFFECT_OF_ATTENTION


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


def _holm(values: Sequence[float]) -> np.ndarray:
    """Holm-corrected p values; NaN stays NaN and does not count."""
    corrected = np.array(values, float)
    tested = np.argsort(corrected)[: np.count_nonzero(~np.isnan(corrected))]  # NaN comes last
    factors = np.arange(len(tested), 0, -1)
    corrected[tested] = np.minimum(1, np.maximum.accumulate(corrected[tested] * factors))
    return corrected


def verdicts(table: pd.DataFrame, claims: Iterable[Claim] = CLAIMS) -> pd.DataFrame:
    """Verdicts on those claims whose methods were run, in every setting of ``table``.

    Runs on the dev split are left out: they are for choosing, not for judging. The claims tested
    in one setting are one family.

    Returns:
        As :func:`judge`, with ``setting`` and ``description``; empty if none can be tested.

    Raises:
        KdlibError: as :func:`paired_values`.
    """
    found = []
    for setting in student_settings(table) if len(table) else []:
        runs = table[(table["setting"] == setting) & (table["split"] == "train")]
        tested = {c.text: paired_comparison(runs, *c[1:]) for c in claims if _measured(runs, c)}
        if tested:
            name = describe_setting(table, setting)
            found.append(judge(tested).assign(setting=setting, description=name))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _measured(runs: pd.DataFrame, claim: Claim) -> bool:
    if claim.metric not in runs:
        return False
    return {claim.method, claim.baseline} <= set(runs.dropna(subset=[claim.metric])["label"])


def judged_families(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Title and verdicts of each family of the table's task that its runs can test.

    Args:
        table: all runs of one task, from :func:`study.records.load_records`.
    """
    runs = main_runs(table) if table["task"].iloc[0] == "detection" else with_controls(table)
    for title, claims in FAMILIES.get(table["task"].iloc[0], {}).items():
        found = verdicts(runs, claims)
        if len(found):
            yield title, found


# Which detectors stand for a method.
PROFILE = "detection"
"""The profile of their main comparison."""


def main_runs(table: pd.DataFrame) -> pd.DataFrame:
    """One variant of each method of a setting, ``label`` its plain name; ablations are left out.

    That of the profile ``detection``; where that has none of them, the one with the most runs; of
    equals the one with the setting's most common size of crops, then the fewest options.
    """
    kept = [
        _main(rows, setting["crop_size"])
        for _, setting in table.groupby("setting", sort=False)
        for _, rows in setting.groupby("method", sort=False)
    ]
    return pd.concat(kept).sort_index() if kept else table


def _main(rows: pd.DataFrame, crop_sizes: pd.Series) -> pd.DataFrame:
    def place(variant: pd.DataFrame) -> tuple[int, int, int, int, bool]:
        first, ids = variant.iloc[0], set(variant["run_id"])
        planned, alike = ids & _planned(first["dataset"]), crop_sizes == first["crop_size"]
        plain = -len(first["method_options"]), pd.isna(first["weight"])
        return len(planned), len(ids), int(alike.sum()), *plain

    variants = (one for _, one in rows.groupby(list(VARIANT), dropna=False, sort=False))
    chosen = max(variants, key=place)
    return chosen.assign(label=chosen["method"])


@cache
def _planned(dataset: str) -> frozenset[str]:
    """Names of the profile's runs; none where it lacks the data set."""
    from study.profiles import expand

    try:
        return frozenset(run.run_id for run in expand(PROFILE, dataset))
    except KdlibError:
        return frozenset()


# What FRSKD is compared with: its variants, and plain students that cost as much.
OF_TASK = {"classification": FRSKD, "segmentation": OF_PIXELS}
"""FRSKD, by task."""


def with_controls(table: pd.DataFrame, students: pd.DataFrame | None = None) -> pd.DataFrame:
    """Runs under the names that claims have for them, in each setting with longer students too.

    ``frskd_options`` is called by what it changes; ``student, equal compute`` are the plain
    students that trained for as many operations as the setting's FRSKD.

    Args:
        table: all runs of a task, from :func:`study.records.load_records`.
        students: the runs to compare, if not all.
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
    """FRSKD's runs in a setting, its variants, and the plain students to compare them with.

    Args:
        table: all runs, from :func:`study.records.load_records`.
        students: runs of one setting of them, from :func:`study.records.runs_of`.
    """
    main = students[students["setting"] == students["setting"].iloc[0]]
    own = main[main["method"].str.fullmatch(r"student|kd|frskd.*")]
    return with_controls(table, own)


def longer_students(table: pd.DataFrame, students: pd.DataFrame) -> pd.DataFrame:
    """Plain students of a setting but for the epochs, which FRSKD's operations would pay for."""
    from study.profiles import plain_epochs

    taught = students[students["method"] == OF_TASK.get(students["task"].iloc[0])]
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
    values = table[[name for name in config_columns(table) if name not in own]]
    values = values.astype(str).fillna("")  # what is missing in both is alike
    wanted = values[table["run_id"] == students["run_id"].iloc[0]].iloc[0]
    return table[values.eq(wanted).all(axis=1)]


def summary(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a label, plain students first: ``n``, metric, ``std``, ``self_teacher``, ``epochs``.

    Args:
        runs: from :func:`self_taught_runs`.
    """
    metric = TASKS[runs["task"].iloc[0]].metric
    found = runs.groupby("label", sort=False).agg(
        n=(metric, "size"), **{metric: (metric, "mean")}, std=(metric, "std"),
        self_teacher=(f"self_teacher_{metric}", "mean"), epochs=("epochs", "first"),
    )  # fmt: skip
    return found.sort_index(key=lambda labels: [(one.startswith(FRSKD), one) for one in labels])


def gains_by(
    field: str, table: pd.DataFrame, students: pd.DataFrame, methods: Sequence[str] = (FRSKD,)
) -> pd.DataFrame:
    """What methods gain over the plain student, a row a value of a field of the config.

    Args:
        field: what varies, such as ``augmentation`` or ``epochs``; all else is as in ``students``.
        table: all runs, from :func:`study.records.load_records`.
        students: runs of one setting of them.
        methods: each is compared with the plain student of the same value and seeds.

    Returns:
        Columns ``field``, ``method``, ``student`` and ``distilled`` (mean top-1 of both),
        ``self_teacher``, ``gain`` and ``n``; only seeds that both have are counted.
    """
    rows = [
        {field: value, "method": method, **_means(same, method)}
        for value, same in akin(table, students, field).groupby(field)
        for method in methods
    ]
    found = pd.DataFrame(rows, columns=[field, "method", STUDENT, "distilled", "self_teacher", "n"])
    found = found[found["n"] > 0].reset_index(drop=True)
    return found.assign(gain=found["distilled"] - found[STUDENT])


def _means(runs: pd.DataFrame, method: str) -> dict[str, float]:
    """Means over the seeds that a method and the plain student share."""
    plain, own = (runs[runs["method"] == name].set_index([*SEEDS]) for name in (STUDENT, method))
    both = own.join(plain[["top1"]].add_suffix("_plain"), how="inner")
    means = both[["top1_plain", "top1", "self_teacher_top1"]].mean().tolist()
    return {**dict(zip((STUDENT, "distilled", "self_teacher"), means, strict=True)), "n": len(both)}
