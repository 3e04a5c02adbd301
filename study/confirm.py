"""The study: from its plan and the records of its runs to a verdict on each claim.

Runs are those of the profiles that ``plan.yaml`` names, whatever else lies among the records.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from kdlib.runs import RunConfig
from study import named, profiles
from study.inference import Claim, Contrast, contrast_of, explore, judge
from study.parts import PREFIX, parts
from study.profiles import expand, profile_names, read_profile
from study.records import (
    find_records,
    load_records,
    longer_beside,
    summary_table,
    with_teachers,
)

PLAN = named("plan.yaml")
OVER = {Claim(**{k: v for k, v in one.items() if k in Claim._fields}): one.get("over", "")
        for one in PLAN["claims"]}  # fmt: skip
"""The claims of the plan, and the field of those on a slope."""
CLAIMS = [*OVER]
BUDGETS = ("equal epochs", "equal compute")
NEAR = 0.02  # budgets that differ by no more are equal
VIEWS = 2  # of an image, itself and mirrored, to which a teacher's answers are kept
MOST_LOST = 1  # training sets, to runs that diverged
OPEN = "open"  # the word of a claim whose runs are not all there


# What is planned: runs and budgets.
def flops_of_training(run: RunConfig) -> int:
    """Operations of one training image in all epochs, and of its teacher's answers, once a view."""
    own = {name: value for name, value in run.to_dict().items() if name in profiles.DECISIVE}
    step, teacher = _flops(json.dumps(own))
    return run.epochs * (step - teacher) + VIEWS * teacher


@cache
def _flops(fields: str) -> tuple[int, int]:
    """Of a step with a live teacher, and of the teacher's part in it."""
    from kdlib.models import create_model
    from kdlib.models.output import flops

    run = RunConfig(**json.loads(fields))
    taught = run.teacher != "none"
    answer = flops(create_model(run.teacher, profiles.CLASSES), run.image_size) if taught else 0
    return profiles.training_flops(run), answer


def planned_runs(profile: str, dataset: str = "scenes") -> pd.DataFrame:
    """A row a run and budget that it keeps to; no row if there is no such profile yet."""
    runs = expand(profile, dataset) if profile in profile_names() else []
    rows = [(run.run_id, run.method, None if run.teacher == "none" else run.teacher_seed,
             run.sample, run.attentions, run.test_size, run.epochs, flops_of_training(run))
            for run in runs]  # fmt: skip
    names = ["run_id", "method", "teacher", "sample", "attentions", "images", "epochs", "flops"]
    table = pd.DataFrame(rows, columns=names)
    usual = read_profile(profile)["config"]["epochs"] if runs else 0
    equal = table["epochs"] == usual
    most = table.loc[equal, "flops"].max()
    kept = dict(zip(BUDGETS, (equal, (table["flops"] / most - 1).abs() <= NEAR), strict=True))
    return pd.concat([table[own].assign(budget=name) for name, own in kept.items()])


# From runs to contrasts.
def contrast(runs: pd.DataFrame, claim: Claim, over: str = "") -> Contrast:
    """A claim's contrast; ``over`` a field, its slope: from the field's first value to its last.

    ``runs``: of :func:`planned_runs`, with ``correct``, missing in those that diverged.
    """
    own = runs[(runs["budget"] == claim.budget) & runs["method"].isin(claim[1:3])]
    lost = set(own.loc[own["correct"].isna(), "sample"])
    if len(lost) > MOST_LOST:
        return _nothing(f"{len(lost)} training sets are lost to runs that diverged")
    own = own[~own["sample"].isin(lost)].drop(columns="budget")
    steps, parts = zip(*own.groupby(over), strict=True) if over else ([1], [own])
    found = [contrast_of(part, claim) for part in parts]
    x = np.array(steps, float) - (np.mean(steps) if over else 0)
    weights = x * np.ptp(steps) / (x @ x) if over else x
    differences = np.tensordot(weights, [one.differences for one in found], 1)
    note = "a training set is left out: a run diverged" if lost else ""
    return Contrast(differences, float(np.mean([one.level for one in found])), note)


def _nothing(note: str) -> Contrast:
    return Contrast(np.empty((0, 0)), nan, note)


class Study:
    """What the plan asks, and what the records under some folders answer."""

    def __init__(self, roots: Sequence[Path]) -> None:
        self.roots = roots

    @cached_property
    def records(self) -> dict[str, dict[str, Any]]:
        """The records that count, by run id."""
        return {one["run_id"]: one for one in find_records(*self.roots).values()}

    def runs(self, profile: str, dataset: str = "scenes") -> pd.DataFrame:
        """:func:`planned_runs`, with how many images each finished run has ``correct``."""
        runs = planned_runs(profile, dataset)
        top1 = runs["run_id"].map(lambda name: self.records.get(name, {"results": {}})["results"])
        share = top1.map(lambda results: results.get("top1", nan)).astype(float)
        return runs.assign(correct=(share * runs["images"].astype(float)).round())

    @cached_property
    def tables(self) -> dict[str, pd.DataFrame]:
        """The runs of each profile of the plan."""
        return {profile: self.runs(profile) for profile in PLAN["profiles"]}

    def progress(self, profile: str) -> tuple[int, int]:
        """How many runs of a profile of the plan are finished, of how many."""
        runs = self.tables[profile].drop_duplicates("run_id")
        runs = runs[~runs["run_id"].isin(PLAN["left_out"])]
        return int(runs["correct"].notna().sum()), len(runs)

    @property
    def begun(self) -> bool:
        """Whether there is a run of the plan's first profile."""
        return any(run.run_id in self.records for run in expand(PLAN["profiles"][0]))

    def complete(self, profile: str = PLAN["profiles"][0]) -> bool:
        """Whether the runs of a profile of the plan are all there."""
        finished, planned = self.progress(profile)
        return finished == planned > 0

    @cached_property
    def verdicts(self) -> pd.DataFrame:
        """A row a claim: as ``inference.judge``, its line of the plan, the word in each budget.

        A profile's claims are judged when its runs are all there, apart from the other's, so that
        what comes later moves no number; all claims of the plan are counted.
        """
        judged = pd.concat(self._judged(profile) for profile in PLAN["profiles"]).sort_index()
        judged = judged.assign(name=[one["name"] for one in PLAN["claims"]], over=OVER.values())
        rows = [*judged.itertuples(index=False)]
        words = {budget: [self._word(judged, row, budget) for row in rows] for budget in BUDGETS}
        return judged.assign(**words)

    def _judged(self, profile: str) -> pd.DataFrame:
        finished, planned = self.progress(profile)
        found = dict.fromkeys(CLAIMS, _nothing(f"{finished} of {planned or '?'} runs"))
        own = {c: over for c, over in OVER.items() if PLAN["profiles"][bool(over)] == profile}
        if not self.complete(profile):
            return judge(found).assign(verdict=OPEN)[[claim in own for claim in CLAIMS]]
        found |= {claim: contrast(self.tables[profile], claim, own[claim]) for claim in own}
        return judge(found)[[claim in own for claim in CLAIMS]]

    def _word(self, judged: pd.DataFrame, row: Any, budget: str) -> str:
        """The word of the claim's sibling in a budget, or its own where its runs are the same."""
        key = [row.method, row.baseline, row.over, budget]
        there = (judged[["method", "baseline", "over", "budget"]] == key).all(axis=1)
        if row.verdict == OPEN or there.any():
            return judged.loc[there, "verdict"].max() if there.any() else OPEN
        runs = self.tables[PLAN["profiles"][bool(row.over)]]
        own = runs[runs["method"].isin(key[:2])].groupby("budget")["run_id"].agg(frozenset)
        same = own.reindex(BUDGETS).nunique(dropna=False) == 1
        return f"{row.verdict}, the same runs" if same else "not measured"

    def explored(self, profile: str, dataset: str) -> pd.DataFrame:
        """The same differences of another profile's runs, where they are all there; no words."""
        runs = self.runs(profile, dataset)
        if runs.empty or runs["correct"].isna().any():
            return pd.DataFrame()
        return explore({claim: contrast(runs, claim) for claim in CLAIMS if not OVER[claim]})

    # What the pages tell beside the verdicts.
    def summary(self, *profiles: str) -> pd.DataFrame:
        """``summary_table`` of the finished runs of some profiles, and of their teachers."""
        wanted = {run.run_id for one in profiles for run in expand(one)}
        table = load_records(*self.roots)
        own = with_teachers(table, table[table["run_id"].isin(wanted)])
        return summary_table(longer_beside(own))

    def compute(self) -> Iterator[Mapping[str, Any]]:
        """Of each profile of the study, and of all teachers: finished and planned runs, hours."""
        planned, counted = _parts(), set[str]()
        taught = profiles.teachers(run for _, runs in planned for run in runs)
        for part, runs in [*planned, ("teachers", taught)]:
            names = {run.run_id for run in runs} - counted
            counted |= names
            done = [self.records[name] for name in names if name in self.records]
            hours = sum(one["cost"]["train_seconds"] for one in done) / 3600
            places = {one["provenance"].get("processor", "?") for one in done}
            yield {"part": part, "finished": len(done), "planned": len(names), "hours": hours,
                   "places": places}  # fmt: skip


def _parts() -> list[tuple[str, list[RunConfig]]]:
    """The profiles of the study, in their order, and the runs of each."""
    names = [PREFIX + part for part in parts()]
    places = {name: [*read_profile(name).get("datasets", {"scenes": {}})] for name in names}
    return [(name, [run for one in places[name] for run in expand(name, one)]) for name in names]
