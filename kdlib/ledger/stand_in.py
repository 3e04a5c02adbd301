"""What a smaller data set says of a published method: its difference and whether that agrees.

Three questions are asked of it, each a family of its own in the correction for many tests: what
a method adds to the student, what ``X + KD`` adds to KD, and whether a method beats KD. What the
published number claims is tested by the rule of :mod:`kdlib.comparisons`: a published gain says
that the method exceeds its baseline, a published loss that the baseline exceeds the method, and
one within the scatter of the paper's own sweep says nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache

import pandas as pd

from kdlib.comparisons import Comparison, judge, paired_comparison, verdict
from kdlib.distillers import parse_method
from kdlib.errors import KdlibError
from kdlib.ledger.names import AGREES, DISAGREES, LEAST, METHODS_OF, UNDECIDED
from kdlib.profiles import expand, profile_names, read_profile
from kdlib.refinement import FRSKD, OF_PIXELS
from kdlib.run_table import student_settings
from kdlib.selection import runs_of
from kdlib.tasks import TASKS

ATTENTIONS = 2
STUDENT, KD = "student", "kd"
# By the metric of its published numbers: FRSKD here, and what it is asked to do.
SELF_TAUGHT = {"top1": (FRSKD, "classification"), "mIoU": (OF_PIXELS, "segmentation")}


@dataclass(frozen=True)
class Effect:
    """A paired difference (fractions of 1), with its p corrected over its family.

    ``p_holm`` is missing where the difference is in no family, so is not judged.
    """

    comparison: Comparison
    p_holm: float = float("nan")

    def agreement(self, published: float, least: float = LEAST) -> str:
        """Status of a published difference (points), by the rule; its sign alone counts.

        A difference that does not exceed ``least``, or none at all, claims nothing, so nothing
        is decided.
        """
        if not abs(published) > least:
            return UNDECIDED
        claim = self.comparison if published > 0 else reversed_comparison(self.comparison)
        words = {"holds": AGREES, "does not hold": DISAGREES}
        return words.get(verdict(claim, self.p_holm), UNDECIDED)


def reversed_comparison(found: Comparison) -> Comparison:
    """The same seeds, with the baseline in the method's place."""
    return replace(
        found, method=found.baseline, baseline=found.method, difference=-found.difference,
        low=-found.high, high=-found.low,
    )  # fmt: skip


@dataclass(frozen=True)
class StandIn:
    """Runs of a smaller data set, and what they say of each method.

    Attributes:
        dataset: its name.
        students: its runs, of one setting.
        teacher: top-1 of the teacher, 0 to 1; NaN if its run is not there.
        effects: (method, baseline) -> the difference; the baseline is student or KD.
        profiles: method -> the profile that its runs are of; empty if of none.
        metric: what the effects are of.
    """

    dataset: str
    students: pd.DataFrame
    teacher: float
    effects: dict[tuple[str, str], Effect]
    profiles: dict[str, str]
    metric: str = "top1"

    @property
    def gap(self) -> float:
        """Top-1 of the teacher less that of the student alone, 0 to 1; NaN without a teacher."""
        return self.teacher - float(self.values(STUDENT).mean())

    def values(self, method: str, metric: str = "top1") -> pd.Series:
        """A metric at each seed, 0 to 1; empty if the method was not run."""
        return self.students.loc[self.students["label"] == method, metric]

    def effect(self, method: str, baseline: str) -> Effect | None:
        """The difference of a method to student or KD; ``None`` if one of them was not run."""
        return self.effects.get((method, baseline))


def stand_in(table: pd.DataFrame, dataset: str = "scenes") -> StandIn | None:
    """The runs of the data set's main comparison; ``None`` if there are none.

    Args:
        table: runs, from :func:`kdlib.run_table.load_records`.
        dataset: the data set that stands in.
    """
    try:
        runs = runs_of(table, dataset, ATTENTIONS)
    except KdlibError:
        return None
    chosen = runs["setting"].isin(student_settings(runs))
    students, teachers = runs[chosen], runs[~chosen]
    methods = [m for m in dict.fromkeys(students["label"]) if _is_published(m)]
    return StandIn(
        dataset, students, float(teachers["top1"].mean()), _effects(students, methods),
        profiles_of(students, dataset),
    )  # fmt: skip


def self_taught_stand_ins(table: pd.DataFrame, dataset: str = "scenes") -> dict[str, StandIn]:
    """FRSKD and the plain student on the data set, by published metric; those that were run."""
    found = {
        metric: _self_taught(table[table["task"] == task], dataset, method, TASKS[task].metric)
        for metric, (method, task) in SELF_TAUGHT.items()
    }
    return {metric: one for metric, one in found.items() if one is not None}


def _self_taught(table: pd.DataFrame, dataset: str, method: str, metric: str) -> StandIn | None:
    """What one claim, a family of its own, is judged from; there is no teacher to be near to."""
    try:
        runs = runs_of(table, dataset, ATTENTIONS)
    except KdlibError:
        return None
    own = runs["setting"].isin(student_settings(runs)) & runs["label"].isin((method, STUDENT))
    effects = judged(runs[own], [(method, STUDENT)], metric)
    profiles = profiles_of(runs[own], dataset)
    return StandIn(dataset, runs[own], float("nan"), effects, profiles, metric) if effects else None


def _is_published(label: str) -> bool:
    """Whether a label is what some published method is called here; variants are not."""
    base = label.removesuffix("+kd")
    return any(base in names for names in METHODS_OF.values())


def _effects(students: pd.DataFrame, methods: Iterable[str]) -> dict[tuple[str, str], Effect]:
    taught = [method for method in methods if method != STUDENT]
    alone = [method for method in taught if not parse_method(method).kd]
    added = [method for method in taught if method not in (KD, *alone)]
    families = (
        [(method, STUDENT) for method in taught if method not in added],
        [(method, KD) for method in added],
        [(method, KD) for method in alone],
    )
    labels = set(students["label"])
    # Of X + KD the question is what X adds to KD, so its gain over the student is not judged.
    found = {
        (method, STUDENT): Effect(paired_comparison(students, method, STUDENT))
        for method in added
        if STUDENT in labels
    }
    for family in families:
        found |= judged(students, family)
    return found


def judged(
    students: pd.DataFrame, pairs: Iterable[tuple[str, str]], metric: str = "top1"
) -> dict[tuple[str, str], Effect]:
    """Differences of pairs of methods that are one family; those not run are left out."""
    run = [pair for pair in pairs if set(pair) <= set(students["label"])]
    compared = {pair: paired_comparison(students, *pair, metric) for pair in run}
    table = judge({" − ".join(pair): one for pair, one in compared.items()})
    return {
        pair: Effect(one, float(table["p_holm"].iloc[place]))
        for place, (pair, one) in enumerate(compared.items())
    }


def profiles_of(students: pd.DataFrame, dataset: str) -> dict[str, str]:
    """The smallest profile that holds all runs of a method, by method."""
    runs = {name: _run_ids(name, dataset) for name in profile_names()}
    found = {}
    for method, ids in students.groupby("label")["run_id"]:
        holding = [name for name, own in runs.items() if set(ids) <= own]
        found[str(method)] = min(holding, key=lambda name: (len(runs[name]), name), default="")
    return found


@cache
def _run_ids(profile: str, dataset: str) -> frozenset[str]:
    """Runs of a profile; none of one that only chooses weights or that lacks the data set."""
    if "grid" in read_profile(profile):
        return frozenset()
    try:
        return frozenset(run.run_id for run in expand(profile, dataset))
    except KdlibError:
        return frozenset()
