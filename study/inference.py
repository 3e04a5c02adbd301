"""From a table of runs to verdicts on claims: better, worse, equivalent or undecided.

**Data.** Runs are paired by teacher and training set. A contrast is the table of differences in
log-odds of accuracy, (teachers, samples). A method without a teacher (the plain student) has one
run a training set; it enters each difference of that training set, and what its run had by chance
becomes part of the sample effect below: it is counted once.

**Model.** ``study.mixed_model``: the mean difference, with teachers and training sets random. All
runs share one test set, so results hold for its images: their sampling is not in the interval.

**Verdicts.** Each claim has two nulls: no difference (two-sided), and a difference of at least
delta (TOST, the larger of two one-sided p). Only one of them can be true, so for n claims (2 n
tests) Holm's first factor is n, not 2 n (Shaffer 1986), and it stays n: a claim found different may
still differ by more than delta, so it never leaves the count. Every p is therefore multiplied by n.
Then the chance of any false word is at most alpha, whatever the dependence between claims: at a
true difference of 0 only better and worse are false (alpha / n together); at one of delta or more,
equivalent and the wrong direction both need the same tail of alpha / n. Where both a difference and
equivalence are shown the word is equivalent, since delta is the smallest difference that matters.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from scipy.special import expit

from kdlib.errors import KdlibError
from study.mixed_model import DRAWS, ROUNDING, Fit, family_shares, fit, mean_squares
from study.paired_checks import moderated_variances, sign_flip_p

ALPHA, DELTA = 0.05, 0.05
NO_TEACHER = "none"


class Claim(NamedTuple):
    """What the plan says of ``method`` and ``baseline``; ``kind``: ``better`` or ``equivalent``."""

    text: str
    method: str
    baseline: str
    kind: str = "better"
    dataset: str = "scenes"
    budget: str = "equal epochs"


class Contrast(NamedTuple):
    """Differences in log-odds, (teachers, samples), at ``level``, the mean of the two methods.

    Any contrast will do, for example a slope over attentions; ``note`` says what was left out.
    """

    differences: np.ndarray
    level: float
    note: str = ""


# From runs to contrasts.
def log_odds(correct: Any, images: Any) -> Any:
    """Empirical logit, log((correct + 1/2) / (wrong + 1/2)); finite at 0 and 100 % (Cox 1970)."""
    return np.log((correct + 0.5) / (images - correct + 0.5))


def contrast_of(table: pd.DataFrame, claim: Claim) -> Contrast:
    """The contrast of a claim; without a pair of runs it is empty.

    Columns of ``table``, a row a run: ``method``, ``teacher`` (missing: has none), ``sample``,
    ``correct``, ``images`` and, if there are several, ``dataset`` and ``budget``. Only training
    sets with a run for every teacher are kept.
    """
    for field in {"dataset", "budget"} & set(table):
        table = table[table[field] == getattr(claim, field)]
    one, other = _grid(table, claim.method), _grid(table, claim.baseline)
    one, other = _for_each_teacher(one, other), _for_each_teacher(other, one)
    pairs = (one - other).dropna(axis=1, how="all")
    complete = pairs.dropna()
    if complete.empty:
        return Contrast(np.empty((0, 0)), np.nan, "no common runs")
    lost = len(one.index.union(other.index)) - len(complete)
    level = ((one + other) / 2).loc[complete.index, complete.columns].to_numpy().mean()
    note = f"{lost} training sets left out: runs are missing" if lost else ""
    return Contrast(complete.to_numpy().T, float(level), note)


def _grid(table: pd.DataFrame, method: str) -> pd.DataFrame:
    own = table[table["method"] == method]
    keys = own.assign(
        teacher=own["teacher"].astype(object).where(own["teacher"].notna(), NO_TEACHER),
        value=log_odds(own["correct"], own["images"]),
    )
    if keys.duplicated(["teacher", "sample"]).any():
        raise KdlibError(f"'{method}' has several runs of one teacher and sample; keep one.")
    return keys.pivot(index="sample", columns="teacher", values="value")


def _for_each_teacher(grid: pd.DataFrame, other: pd.DataFrame) -> pd.DataFrame:
    if [*grid.columns] != [NO_TEACHER]:
        return grid
    return pd.DataFrame({teacher: grid[NO_TEACHER] for teacher in other.columns})


# Scales. Both methods are taken at half the difference from their mean, so nothing depends on
# which of them is called the baseline.
def points(difference: float, level: float) -> float:
    """A difference in log-odds around ``level`` in percentage points of accuracy."""
    return float(100 * (expit(level + difference / 2) - expit(level - difference / 2)))


def error_reduction(difference: float, level: float) -> float:
    """The same as the share of the baseline's errors that are gone, in percent; at most 100."""
    return float(100 * (1 - expit(-level - difference / 2) / expit(-level + difference / 2)))


def margin(level: float, reduction: float = DELTA) -> float:
    """Delta in log-odds: the difference around ``level`` that removes ``reduction`` of errors."""
    left, odds = 1 - reduction, np.exp(level)
    root = reduction + np.sqrt(reduction**2 + 4 * left * odds**2)
    return float(2 * np.log(root / (2 * left * odds)))


SCALES: dict[str, Callable[[float, float], float]] = {
    "log_odds": lambda difference, _: difference, "points": points, "reduction": error_reduction,
}  # fmt: skip


COLUMNS = [
    "teachers", "samples",
    *(f"{s}{end}" for s in SCALES for end in ("", "_low", "_high", "_family_low", "_family_high")),
    "delta", "delta_points", "p_difference", "p_equivalence", "p_moderated", "p_sign_flip",
    "resolvable", "sd_teacher", "sd_sample", "sd_rest", "by_teacher", "note",
]  # fmt: skip


# Verdicts.
def verdict(difference: float, p_difference: float, p_equivalence: float) -> str:
    """The word for a claim, from p values that count the family; NaN supports none."""
    if p_equivalence <= ALPHA:
        return "equivalent"
    if p_difference <= ALPHA:
        return "better" if difference > 0 else "worse"
    return "undecided"


def judge(contrasts: Mapping[Claim, Contrast], draws: int = DRAWS, seed: int = 0) -> pd.DataFrame:
    """Verdicts on the claims of one confirmatory family, also on those without runs yet.

    Columns of :func:`measure`, ``p_family`` (the smaller of the two p, times the number of claims),
    ``verdict`` and ``as_claimed`` (missing while undecided).
    """
    count = len(contrasts)
    table = measure(contrasts, count, draws, seed)
    both = (table[["p_difference", "p_equivalence"]] * count).clip(upper=1)
    words = [verdict(*row) for row in zip(table["log_odds"], *both.to_numpy().T, strict=True)]
    claimed = [None if word == "undecided" else word == kind
               for word, kind in zip(words, table["kind"], strict=True)]  # fmt: skip
    return table.assign(p_family=both.min(axis=1), verdict=words, as_claimed=claimed)


def explore(contrasts: Mapping[Claim, Contrast], draws: int = DRAWS, seed: int = 0) -> pd.DataFrame:
    """Exploratory contrasts: as :func:`measure`, with Benjamini and Hochberg's ``q``; no words."""
    table = measure(contrasts, 1, draws, seed)
    known = table["p_difference"].dropna()
    return table.assign(q=pd.Series(stats.false_discovery_control(known), known.index, float))


def measure(
    contrasts: Mapping[Claim, Contrast], count: int, draws: int = DRAWS, seed: int = 0
) -> pd.DataFrame:
    """A row a claim: effects, intervals, uncorrected p values, checks and components.

    ``log_odds``, ``points`` and ``reduction`` (of errors, percent) with the ends ``_low`` and
    ``_high`` of the 95 % interval, and ``_family_low`` and ``_family_high`` of those that hold for
    ``count`` claims at once; the last two scales are the first one's, converted. ``resolvable``:
    the smallest difference, in points, that a test at alpha / ``count`` finds with power 80 %, with
    the moderated variance. ``sd_*``, ``by_teacher``, ``delta_points``: points; ``delta``: log-odds.
    """
    found = {claim: one for claim, one in contrasts.items() if one.differences.size}
    shares = family_shares([one.differences for one in found.values()])
    fits = {claim: fit(one.differences, shares, draws, seed) for claim, one in found.items()}
    rows = [_row(found[claim], fitted, count) for claim, fitted in fits.items()]
    measures = pd.DataFrame(rows, list(range(len(rows))), COLUMNS)
    measures["p_moderated"], ratios = _moderated(found)
    measures["resolvable"] *= ratios
    measures.index = pd.Index([*contrasts].index(claim) for claim in found)
    plan = pd.DataFrame([*contrasts], columns=[*Claim._fields])
    table = plan.join(measures)
    return table.assign(note=table["note"].fillna(pd.Series([c.note for c in contrasts.values()])))


def _row(contrast: Contrast, fitted: Fit, count: int) -> dict[str, Any]:
    differences, level, note = contrast
    notes = [note, *_caveats(fitted, differences)]
    return {
        **dict(zip(("teachers", "samples"), differences.shape, strict=True)),
        **_effects(fitted, level, count),
        "p_sign_flip": sign_flip_p(differences.mean(0)),
        **_components(fitted, differences.shape, level),
        "by_teacher": tuple(points(one, level) for one in differences.mean(1)),
        "note": "; ".join(filter(None, notes)),
    }


def _effects(fitted: Fit, level: float, count: int) -> dict[str, float]:
    ends = {"": fitted.difference}
    ends["_low"], ends["_high"] = fitted.interval(ALPHA)
    ends["_family_low"], ends["_family_high"] = fitted.interval(ALPHA / count)
    delta = margin(level)
    scaled = {
        f"{scale}{end}": convert(value, level)
        for scale, convert in SCALES.items()
        for end, value in ends.items()
    }
    return scaled | {
        "delta": delta,
        "delta_points": points(delta, level),
        "p_difference": fitted.p_difference(),
        "p_equivalence": fitted.p_equivalence(delta),
        "resolvable": points(fitted.resolvable(ALPHA / count), level),
    }


def _components(fitted: Fit, shape: tuple[int, ...], level: float) -> dict[str, float]:
    teacher, sample, rest = fitted.squares
    variances = (teacher - rest) / shape[1], (sample - rest) / shape[0], rest
    names = ("sd_teacher", "sd_sample", "sd_rest")
    return {n: points(float(np.sqrt(v)), level) for n, v in zip(names, variances, strict=True)}


def _caveats(fitted: Fit, differences: np.ndarray) -> Iterator[str]:
    if fitted.error == 0:
        yield "identical runs" if fitted.difference == 0 else "no scatter: not tested"
    own, rest = mean_squares(differences)[0], fitted.squares[2]
    for i, name in enumerate(("teacher", "training set")):
        if differences.shape[i] == 1:
            yield f"one {name}"
        elif fitted.squares[i] > own[i]:
            seen = "as in the family" if fitted.squares[i] > rest else "not seen"
            yield f"{name} variance {seen}"


def _moderated(found: Mapping[Claim, Contrast]) -> tuple[np.ndarray, np.ndarray]:
    """The p values of the moderated t, and the root of moderated over own variance."""
    values = [one.differences.mean(0) for one in found.values()]
    counts = np.array([len(one) for one in values])
    own = np.array([one.var() * len(one) / max(len(one) - 1, 1) for one in values])
    own[own < ROUNDING] = 0
    shrunk, freedom = moderated_variances(own, counts - 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.abs([one.mean() for one in values]) / np.sqrt(shrunk / counts)
        return 2 * stats.t.sf(ratio, freedom), np.sqrt(shrunk / own)
