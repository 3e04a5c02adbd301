"""Paired differences with their intervals, and which runs stand for a method.

Methods of one seed share data order, augmentation and initial weights, so their difference is
taken seed by seed; of several teachers it is the mean over those that both have. What is compared
here is exploratory and gets no word: the claims of the study are judged by :mod:`study.confirm`.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from math import nan

import numpy as np
import pandas as pd
from scipy import stats

from kdlib.errors import KdlibError, check_known
from kdlib.runs import RunConfig
from kdlib.tasks import TASKS
from study import named, records
from study.records import METRICS, OF_DETECTORS, SEEDS, VARIANT

CONFIDENCE = 0.95
PAIR = ["data_seed", "init_seed"]
STUDENT, LONGER = "student", "student, equal compute"
FRSKD, OF_PIXELS, JOINT = "frskd", "frskd_pixels", "frskd_joint"
PAIRS: Mapping[str, Mapping[str, Sequence[Sequence[str]]]] = named("pairs.yaml")
"""By task and title: what is compared with what, and in which metric if it is not the task's."""


@dataclass(frozen=True)
class Comparison:
    """A paired comparison: mean difference of ``method`` over ``baseline`` in ``metric``.

    ``low`` and ``high`` bound the 95 % interval; ``p`` is two-sided. NaN with one common seed.
    """

    method: str
    baseline: str
    metric: str
    n: int
    difference: float
    low: float
    high: float
    p: float


def paired_values(table: pd.DataFrame, method: str, baseline: str, metric: str) -> pd.DataFrame:
    """Values of two labels of one setting at the seeds that both have; else a KdlibError."""
    if table["setting"].nunique() > 1:
        raise KdlibError("Only runs of one setting can be compared; choose one by its 'setting'.")
    by_teacher = {}
    for label in (method, baseline):
        check_known("method in these records", label, set(table["label"]))
        own = table[table["label"] == label].astype({metric: float})
        by_teacher[label] = own.pivot_table(metric, PAIR, "teacher_seed")
    shared = by_teacher[method].columns.intersection(by_teacher[baseline].columns)
    columns = {
        label: (own[shared] if len(shared) else own).mean(axis=1)
        for label, own in by_teacher.items()
    }
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
    count, p = len(differences), nan
    mean = float(differences.mean()) if count else nan
    if count > 1:
        if np.ptp(differences) == 0:  # the t statistic is 0/0 or infinite
            p = 1.0 if mean == 0 else 0.0
        else:
            p = float(stats.ttest_1samp(differences, 0).pvalue)
    return Comparison(method, baseline, metric, count, mean, *t_interval(differences), p)


def differences(
    runs: pd.DataFrame, pairs: Iterable[Sequence[str]], metric: str = "top1"
) -> pd.DataFrame:
    """A row a pair with common seeds, as a :class:`Comparison`; a pair may have its own metric."""
    known, found = set(runs["label"]), []
    for method, baseline, *own in pairs:
        if {method, baseline} <= known:
            found.append(paired_comparison(runs, method, baseline, *(own or [metric])))
    rows = [vars(one) for one in found if one.n]
    return pd.DataFrame(rows, columns=[*Comparison.__dataclass_fields__])


def t_interval(values: Sequence[float] | np.ndarray) -> tuple[float, float]:
    """95 % confidence interval of the mean by Student's t; NaN with fewer than two values."""
    if len(values) < 2:
        return nan, nan
    mean, error = np.mean(values), stats.sem(values)
    half = error * stats.t.ppf(0.5 + CONFIDENCE / 2, len(values) - 1)
    return float(mean - half), float(mean + half)


def holm(p: pd.Series) -> pd.Series:
    """Holm's correction of the p values that are not missing."""
    tested = p.dropna().sort_values()
    corrected = tested * np.arange(len(tested), 0, -1)
    return corrected.cummax().clip(upper=1).reindex(p.index)


def smallest_effect(metric: str) -> float:
    """The smallest difference in ``metric`` that matters, in its own unit.

    Half a point of accuracy, IoU or AP (the scatter of the paper's own alpha sweep); one hundredth
    of the range of the attention measures.
    """
    return 0.005 if metric in (*METRICS, *OF_DETECTORS) else 0.01


def of_plan(table: pd.DataFrame, *profiles: str, dataset: str = "scenes") -> pd.DataFrame:
    """The runs of some profiles on a data set, under the plain names of their methods."""
    planned = frozenset[str]().union(*(planned_runs(name, dataset) for name in profiles))
    own = table[table["run_id"].isin(planned)]
    return own.assign(label=own["method"])


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
def self_taught_runs(table: pd.DataFrame, students: pd.DataFrame) -> pd.DataFrame:
    """FRSKD's runs among those of one setting, its variants, and the plain students beside them.

    These are also those that trained for as many operations as FRSKD, wherever in ``table``.
    """
    main = students[students["setting"] == students["setting"].iloc[0]]
    own = main[main["method"].str.fullmatch(r"student|kd|frskd.*")]
    labels = [_named(*pair) for pair in zip(own["label"], own["method_options"], strict=True)]
    longer = longer_students(table, own)
    longer = longer.assign(setting=main["setting"].iloc[0], label=LONGER)
    return pd.concat([own.assign(label=labels), longer], ignore_index=True)


def _named(label: str, options: str) -> str:
    """``frskd_options`` by what it changes: both weights 0, or the feature term."""
    if not label.startswith("frskd_options"):
        return label
    changed = json.loads(options)
    if changed.get("alpha") == 0 and changed.get("beta") == 0:
        return JOINT
    return f"frskd_{changed['feature']}" if "feature" in changed else label


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
