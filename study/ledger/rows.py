"""The ledger's rows: what is shown next to each published number, and how it is judged."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from math import nan
from pathlib import Path
from typing import Any

import pandas as pd

from kdlib.errors import KdlibError
from kdlib.methods import parse_method
from kdlib.runs import RunConfig
from kdlib.tasks import TASKS
from study import named, of_clone, statistics
from study.confirm import PLAN
from study.names import OF_DETECTORS
from study.profiles import profile_names
from study.records import runs_of, student_settings, teacher_runs
from study.statistics import (
    FRSKD,
    OF_PIXELS,
    STUDENT,
    Comparison,
    main_runs,
    of_plan,
    paired_comparison,
    planned_runs,
)

PUBLISHED = Path(__file__).parents[2] / "published"
LEAST = 100 * statistics.smallest_effect("top1")
"""Points that a published difference must exceed to claim anything: every cell is a single run, and
the paper's own sweep scatters by about as much."""

NAMED = named("ledger/ours.yaml")
"""What published names are called here, each with its reason where it stands."""
STATUSES = {name: text.format(least=LEAST) for name, text in NAMED["statuses"].items()}
SAME, AGREES, DISAGREES, UNDECIDED, SHAPE, REFERENCE, DRAWN, NOT_RUN, NOT_OFFERED, PLANNED = (
    STATUSES
)
METHODS_OF, NEIGHBOURS = NAMED["methods"], NAMED["neighbours"]
NETWORKS, METRICS_OF = NAMED["networks"], NAMED["metrics"]
KD, DETECTORS = "kd", "classifier-to-detector"
_ALPHA = re.compile(r"DCT alpha=([\d.]+)")
_SWEPT = re.compile(r"KD_cls lambda ([\d.]+) T (\d+)")
USUAL = "KD_cls lambda .4 T 2"


def our_methods(published: str) -> tuple[str, ...]:
    """Method strings of kdlib for a published method, ``+kd`` and all; empty if there is none."""
    if alpha_of(published) is not None:
        return tuple(METHODS_OF["DCT"])
    name, known = _SWEPT.sub("KD_cls", published), {**METHODS_OF, **NEIGHBOURS}
    base, *added = [name] if name in known else name.split("+")
    suffix = "".join(f"+{word.lower()}" for word in added)
    return tuple(one + suffix for one in known.get(base, ()))


def our_metric(published: str) -> str:
    """A metric's column in the table of runs."""
    return METRICS_OF.get(published, published)


def alpha_of(published: str) -> float | None:
    """The weight of a point of the alpha sweep; ``None`` for all other methods."""
    found = _ALPHA.fullmatch(published)
    return float(found[1]) if found else None


def swept_detector(published: str) -> tuple[float, float] | None:
    """Weight and temperature of a point of KD_cls's sweep; ``None`` for all else."""
    found = _SWEPT.fullmatch(published)
    return (float(found[1]), float(found[2])) if found and published != USUAL else None


# The published numbers, figures and traps, and what a number says of its method.
CELL = ["paper", "dataset", "teacher", "student", "metric"]


def published_numbers() -> pd.DataFrame:
    """Every row of ``published.csv``, in its order, with what it says of its method.

    ``printed`` has the published digits; ``gain`` (over the student) and ``gain_kd`` are points,
    ``share`` is of the way from student to teacher, ``alpha`` that of a sweep.
    """
    table = pd.read_csv(of_clone(PUBLISHED) / "published.csv", dtype={"value": str})
    table = table.fillna({"teacher": "", "note": ""})
    table = table.assign(printed=table["value"], value=table["value"].astype(float))
    # What a detector alone reaches does not depend on who teaches it in another row.
    cells = table.assign(teacher=table["teacher"].where(table["paper"] != DETECTORS, ""))
    for method in ("student", "KD", "teacher"):
        own = cells[cells["method"] == method].drop_duplicates(CELL).set_index(CELL)["value"]
        column = f"of_{method.lower()}"
        table[column] = cells.join(own.rename(column), on=CELL)[column]
    table["gain"] = table["value"] - table["of_student"]
    table["gain_kd"] = table["value"] - table["of_kd"]
    table["share"] = table["gain"] / (table["of_teacher"] - table["of_student"])
    table["alpha"] = [alpha_of(method) for method in table["method"]]
    table.loc[table["method"].isin(["student", "teacher"]), ["gain", "gain_kd", "share"]] = nan
    table.loc[table["method"] == "KD", "gain_kd"] = nan
    return table


def listed(name: str) -> pd.DataFrame:
    """The paper's ``figures``, or the ``traps``: known differences from published protocols."""
    return pd.read_csv(PUBLISHED / f"{name}.csv").fillna("")


def traps_of(row: Mapping[str, Any], known: pd.DataFrame) -> list[str]:
    """Ids of those of the ``known`` traps that concern a published number."""
    method = "DCT alpha" if alpha_of(row["method"]) is not None else row["method"]
    own = {f"{name}s": row[name] for name in ("paper", "dataset", "metric")} | {"methods": method}
    return [
        trap["id"]
        for trap in known.to_dict("records")
        if all(not trap[name] or value in trap[name].split(";") for name, value in own.items())
    ]


# What a smaller data set says of a published method: its difference and whether that agrees.
ATTENTIONS, ALPHA = 2, 0.05
OF_STUDY = {"scenes": ("study_confirm", "study_methods"), "fashion_scenes": ("study_fashion",)}
"""By the data set that stands in: the profiles whose runs do, each when all of them are there."""
SCENE_DATASETS = ("ADE20K", "SUN397", "MIT67")
"""The data sets of the paper that Scenes stands in for."""
SELF_TAUGHT = {"top1": (FRSKD, "classification"), "mIoU": (OF_PIXELS, "segmentation")}
"""By the metric of its published numbers: FRSKD here, and its task."""
SMALL_DETECTORS = {
    "SSD300-VGG16": "scenes_ssd", "SSD512-VGG16": "scenes_ssd", "RetinaNet-R50": "scenes_retinanet",
}  # fmt: skip
"""Of the same kind. Their teacher is one network, for a ResNet-50's numbers."""


@dataclass(frozen=True)
class Effect:
    """A paired difference (fractions of 1), with its p corrected over its family."""

    comparison: Comparison
    p_holm: float = nan  # missing where the difference is in no family, so is not judged

    def agreement(self, published: float, least: float = LEAST) -> str:
        """Status of a published difference (points), of which the sign alone counts.

        It agrees if the interval lies on its side of 0 and the corrected p is below 5 %; it
        disagrees if that lies wholly below the smallest effect on its side. One that does not
        exceed ``least``, or none at all, claims nothing, so nothing is decided.
        """
        one = self.comparison
        if not abs(published) > least or one.n < 2:
            return UNDECIDED
        low, high = (one.low, one.high) if published > 0 else (-one.high, -one.low)
        if low > 0 and self.p_holm < ALPHA:
            return AGREES
        return DISAGREES if high < statistics.smallest_effect(one.metric) else UNDECIDED

    def columns(self, name: str) -> dict[str, float]:
        """Difference and interval in points, as columns of ours."""
        found, end = self.comparison, name.removeprefix("gain")
        ends = {f"ours_low{end}": 100 * found.low, f"ours_high{end}": 100 * found.high}
        return {f"ours_{name}": 100 * found.difference, **ends}


@dataclass(frozen=True)
class StandIn:
    """Runs of one setting of a smaller data set, and what they say of each method."""

    dataset: str
    students: pd.DataFrame
    effects: dict[tuple[str, str], Effect]  # by method and baseline, which is student or KD
    metric: str = "top1"  # of the effects
    teacher: float = nan  # its top-1, 0 to 1

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


def stand_ins(table: pd.DataFrame, dataset: str) -> dict[str, StandIn]:
    """What stands in for published numbers on ``dataset``, by :func:`place_of` of their rows.

    Of classes they are the study's students, FRSKD's at a rate of its own. What FRSKD adds is a
    family of its own, and what the methods add to a detector one a network and metric.
    """
    tasks = {task: table[table["task"] == task] for task in TASKS}
    images, found = _of_study(tasks["classification"], dataset), {}
    setting = images["setting"].mode().get(0)
    students = images[images["setting"] == setting]
    if STUDENT in set(students["label"]):
        teacher = teacher_runs(tasks["classification"], setting)["top1"].mean()
        found["dct"] = StandIn(dataset, students, _paper_effects(students), teacher=teacher)
    of_frskd = images[images["label"] == FRSKD].nsmallest(1, "learning_rate")["setting"]
    tested = {"classification": images[images["setting"].isin(of_frskd)]}
    tested["segmentation"] = _main_runs(tasks["segmentation"], dataset)
    wanted = []
    for published, (method, task) in SELF_TAUGHT.items():
        pairs = [(method, STUDENT)]
        wanted.append((f"frskd {published}", tested[task], pairs, TASKS[task].metric))
    for network in dict.fromkeys(SMALL_DETECTORS.values()):
        detectors = tasks["detection"]
        runs = main_runs(_main_runs(detectors[detectors["student"] == network], dataset))
        pairs = [(method, STUDENT) for method in OF_DETECTORS]
        wanted += [(f"{one} of {network}", runs, pairs, one) for one in METRICS_OF.values()]
    for place, runs, pairs, metric in wanted:
        measured = runs.dropna(subset=[metric]) if metric in runs else runs.iloc[:0]
        if effects := judged(measured, pairs, metric):
            found[place] = StandIn(dataset, measured, effects, metric)
    return found


def place_of(row: Mapping[str, Any]) -> str:
    """Where :func:`stand_ins` has what stands in for a row; nothing does for sweeps and others."""
    method, metric = row["method"], row["metric"]
    if row["paper"] == "dct" and row["dataset"] in SCENE_DATASETS:
        return "dct"
    if row["paper"] == "frskd":
        return f"frskd {metric}"
    usual = row["teacher"] in ("", "ResNet-50 (crops)") and swept_detector(method) is None
    network = SMALL_DETECTORS.get(row["student"]) if row["paper"] == DETECTORS and usual else None
    return f"{our_metric(metric)} of {network}"


def _of_study(table: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Students of those of the study's profiles whose runs are all there."""
    there = {*table["run_id"], *PLAN["left_out"]}
    whole = [one for one in OF_STUDY.get(dataset, ()) if planned_runs(one, dataset) <= there]
    return of_plan(table, *whole, dataset=dataset)


def _main_runs(table: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Students of the largest setting; no row if there are none."""
    try:
        runs = runs_of(table, dataset, ATTENTIONS)
    except KdlibError:
        return table.iloc[:0]
    return runs[runs["setting"].isin(student_settings(runs))]


def _paper_effects(students: pd.DataFrame) -> dict[tuple[str, str], Effect]:
    """The paper's methods less the student alone, X + KD less KD, X less KD: a family each."""
    published = {name for names in METHODS_OF.values() for name in names} - {STUDENT}
    taught = [m for m in dict.fromkeys(students["label"]) if m.removesuffix("+kd") in published]
    added = [method for method in taught if method != KD and parse_method(method).kd]
    alone = [method for method in taught if method not in added]
    found = {}
    if STUDENT in set(students["label"]):
        # Of X + KD the question is what X adds to KD, so its gain over the student is not judged.
        found = {(m, STUDENT): Effect(paired_comparison(students, m, STUDENT)) for m in added}
    for methods, baseline in ((alone, STUDENT), (added, KD), (set(alone) - {KD}, KD)):
        found |= judged(students, [(method, baseline) for method in taught if method in methods])
    return found


def judged(
    students: pd.DataFrame, pairs: Iterable[tuple[str, str]], metric: str = "top1"
) -> dict[tuple[str, str], Effect]:
    """Differences of pairs of methods that are one family; those not run are left out."""
    known = set(students["label"])
    run = {pair: paired_comparison(students, *pair, metric) for pair in pairs if {*pair} <= known}
    corrected = statistics.holm(pd.Series([one.p for one in run.values()], dtype=float))
    return {pair: Effect(run[pair], p) for pair, p in zip(run, corrected, strict=True)}


@cache
def _smallest_profile(runs: frozenset[str], dataset: str) -> str:
    """The smallest profile that has all these runs; empty if none has."""
    planned = {name: statistics.planned_runs(name, dataset) for name in profile_names()}
    holding = [(len(ids), name) for name, ids in planned.items() if runs <= ids]
    return min(holding, default=(0, ""))[1]


# What stands beside a published number, as the columns of its row.
OURS: dict[str, Any] = {
    "ours_method": "", "ours_where": "", "ours_mean": nan, "ours_std": nan, "ours_n": 0,
    "ours_gain": nan, "ours_low": nan, "ours_high": nan, "ours_share": nan, "ours_gain_kd": nan,
    "ours_low_kd": nan, "ours_high_kd": nan, "ours_difference": nan, "ours_status": "",
    "ours_status_kd": "",
}  # fmt: skip
"""Where nothing was run. Accuracies in percent, differences in points: ``gain`` over the student,
``gain_kd`` over KD, paired, with the bounds of their 95 % intervals; ``difference`` to the
published value, where the same was run. ``share`` is of the way from student to teacher."""
Ours = dict[str, Any]


def beside(
    row: Mapping[str, Any], run: RunConfig | None, table: pd.DataFrame,
    found: Mapping[str, StandIn], sweep: pd.DataFrame,
) -> list[Ours]:  # fmt: skip
    """What stands beside a number (of whose protocol is ``run``), the one that is judged first."""
    same = same_protocol(row, run, table) if run else []
    if row["alpha"] == row["alpha"]:
        return same + sweep_points(row, sweep)
    small = found.get(place_of(row))
    return same + (on_stand_in(row, small) if small else [])


def same_protocol(row: Mapping[str, Any], run: RunConfig, table: pd.DataFrame) -> list[Ours]:
    """Runs of the published protocol itself, at whatever seeds."""
    seeds = ({"data_seed": seed, "init_seed": seed} for seed in set(table["init_seed"]))
    runs = table[table["run_id"].isin({replace(run, **seed).run_id for seed in seeds})]
    if runs.empty:
        return []
    method = "teacher" if row["method"] == "teacher" else run.method
    values = runs[our_metric(row["metric"])]
    ours = _measured(method, f"{row['dataset']}, as published", values, SAME)
    return [{**ours, "ours_difference": ours["ours_mean"] - row["value"]}]


def sweep_points(row: Mapping[str, Any], sweep: pd.DataFrame) -> list[Ours]:
    """The same multiple of the default weight in our grid."""
    own = sweep[sweep["alpha"] == row["alpha"]].set_index("method")
    return [
        {
            **_measured(method, "scenes, dev split", own.loc[[method], row["metric"]], SHAPE),
            "ours_n": own.loc[method, "n"],
        }
        for method in our_methods(row["method"])
        if method in own.index
    ]


def on_stand_in(row: Mapping[str, Any], scenes: StandIn) -> list[Ours]:
    """Each method that the published one is called here, as far as it was run."""
    metric = our_metric(row["metric"])
    found = {name: scenes.values(name, metric) for name in our_methods(row["method"])}
    if row["method"] == "teacher":
        found = {"teacher": pd.Series([scenes.teacher]).dropna()}
    return [_judged(row, name, values, scenes) for name, values in found.items() if len(values)]


def _judged(row: Mapping[str, Any], method: str, values: pd.Series, scenes: StandIn) -> Ours:
    runs = scenes.students.loc[scenes.students["label"] == method, "run_id"]
    profile = _smallest_profile(frozenset(runs), scenes.dataset) if len(runs) else ""
    where = f"{scenes.dataset}, {profile}" if profile else scenes.dataset
    ours = _measured(method, where, values, REFERENCE)
    over, over_kd = scenes.effect(method, STUDENT), scenes.effect(method, KD)
    if our_metric(row["metric"]) != scenes.metric or over is None:
        return ours
    ours |= {**over.columns("gain"), "ours_status": over.agreement(row["gain"])}
    ours["ours_share"] = ours["ours_gain"] / (100 * scenes.gap)
    if over_kd is not None:
        agrees = over_kd.agreement(row["gain_kd"])
        ours |= {**over_kd.columns("gain_kd"), "ours_status_kd": agrees}
        if method.endswith("+kd"):  # of X + KD the question is what X adds to KD
            ours["ours_status"] = agrees
    return ours


def _measured(method: str, where: str, values: pd.Series, status: str) -> Ours:
    percent = 100 * values
    return {
        **OURS, "ours_method": method, "ours_where": where, "ours_mean": float(percent.mean()),
        "ours_std": float(percent.std()), "ours_n": len(percent), "ours_status": status,
    }  # fmt: skip
