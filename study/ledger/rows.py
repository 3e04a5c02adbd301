"""The ledger's rows: what stands beside each published number, and how it is judged."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from kdlib.errors import KdlibError
from kdlib.methods import parse_method
from kdlib.runs import RunConfig
from kdlib.tasks import MIXING, TASKS
from study import of_clone
from study.names import OF_DETECTORS
from study.profiles import expand, profile_names, read_profile
from study.records import runs_of, student_settings
from study.statistics import (
    FRSKD,
    OF_PIXELS,
    PROFILE,
    Comparison,
    judge,
    main_runs,
    paired_comparison,
    smallest_effect,
    verdict,
)
from study.statistics import STUDENT as statistics_STUDENT

if TYPE_CHECKING:
    from study.ledger.commands import Recipe


# What the published names are called here, and the words in which the ledger judges.
# Points that a published difference must exceed to claim anything: every cell is a single run,
# and the paper's own sweep scatters by about as much.
LEAST = 100 * smallest_effect("top1")

SAME = "same"
AGREES = "stand-in: agrees"
DISAGREES = "stand-in: disagrees"
UNDECIDED = "stand-in: undecided"
SHAPE = "stand-in: shape only"
REFERENCE = "stand-in: reference"
DRAWN = "stand-in: drawn"
NOT_RUN = "not run"
NOT_OFFERED = "not offered"
PLANNED = "planned"

STATUSES = {
    SAME: "the published data set, networks and protocol were run; the difference is given",
    AGREES: "a smaller data set was run, and what the number says of its method holds there",
    DISAGREES: "a smaller data set was run, and what the number says does not hold there",
    UNDECIDED: (
        "a smaller data set was run, and the seeds do not decide; or the number is within "
        f"{LEAST:g} points of its baseline, the scatter of the paper's own sweep: no claim"
    ),
    SHAPE: "the same sweep on a smaller data set; only the shapes of the curves can be compared",
    REFERENCE: "student or teacher alone: what the differences start from, no claim of its own",
    DRAWN: "the figure is drawn, from runs on a smaller data set",
    NOT_RUN: "the command would run it",
    NOT_OFFERED: "kdlib has no such method, network or data set; the reason says which",
    PLANNED: "a figure that is still to be drawn",
}

# The first of them that was run is the one that is judged; the others stand below it. The
# release gates its DCT loss; without gated runs the same loss without the gate is the nearest.
NAMES_METHODS_OF: dict[str, tuple[str, ...]] = {
    "student": ("student",),
    "teacher": ("teacher",),
    "KD": ("kd",),
    "FitNet": ("fitnet",),
    "AT": ("at",),
    "SP": ("sp",),
    "RKD": ("rkd",),
    "PKT": ("pkt",),
    "VID": ("vid",),
    "CRD": ("crd",),
    "CKD": ("semckd",),
    "DKD": ("dkd",),
    "ReviewKD": ("reviewkd",),
    "DCT": ("release_a+gate", "release_a", "dct"),
}
# Of the neighbours' papers; apart, for what the paper's numbers claim is one family of tests.
NEIGHBOURS: dict[str, tuple[str, ...]] = {
    "SRM": ("srm+kd",),
    "FRSKD": ("frskd", "frskd_pixels"),
}
NAMES_NETWORKS = {
    "ResNet-18": "resnet18",
    "ResNet-34": "resnet34",
    "ResNet-50": "resnet50",
    "ResNet-152": "resnet152",
    "MobileNet-V2": "mobilenet_v2",
    "MobileNetV2": "mobilenet_v2_cifar",
    "ShuffleV1": "shuffle_v1",
    "ShuffleV2": "shuffle_v2",
    "ResNet50": "resnet50_cifar",
}
DATASETS_OF = {
    "COCO": "coco",
    "MIT67": "mit67",
    "SUN397": "sun397",
    "ADE20K": "ade20k",
    "CIFAR-100": "cifar100",
    "ImageNet": "imagefolder",
}
# The three data sets that Scenes stands in for.
SCENE_DATASETS = ("ADE20K", "SUN397", "MIT67")
_ALPHA = re.compile(r"DCT alpha=([\d.]+)")


def our_methods(published: str) -> tuple[str, ...]:
    """Method strings of kdlib for a published method; empty if there is none.

    ``X+KD`` becomes each of X's with ``+kd``, and a point of the alpha sweep what DCT becomes.
    """
    if alpha_of(published) is not None:
        return NAMES_METHODS_OF["DCT"]
    base, *added = published.split("+")
    suffix = "".join(f"+{word.lower()}" for word in added)
    return tuple(name + suffix for name in {**NAMES_METHODS_OF, **NEIGHBOURS}.get(base, ()))


def our_network(published: str) -> str:
    """Name of a network here; most of the CIFAR networks are called alike."""
    return NAMES_NETWORKS.get(published, published)


def alpha_of(published: str) -> float | None:
    """The weight of a point of the alpha sweep; ``None`` for all other methods."""
    found = _ALPHA.fullmatch(published)
    return float(found[1]) if found else None


# The published numbers, figures and traps, and what a number says of its method.
PUBLISHED = Path(__file__).parents[2] / "published"
CELL = ["paper", "dataset", "teacher", "student"]
DETECTORS = "classifier-to-detector"
REFERENCES = {"student": "of_student", "KD": "of_kd", "teacher": "of_teacher"}


def published_numbers() -> pd.DataFrame:
    """Every row of ``published.csv``, in its order, with what it says of its method.

    Added are ``printed``, the value with the digits that it was published with; in points,
    ``gain`` (over the student) and ``gain_kd`` (over KD) of the same cell and metric; ``share``,
    how much of the way from student to teacher the method goes (1 is all of it); and ``alpha``,
    of the points of the sweep. What the cell or the method lacks is missing.
    """
    table = pd.read_csv(of_clone(PUBLISHED) / "published.csv", dtype={"value": str})
    table = table.fillna({"teacher": "", "note": ""})
    table = table.assign(printed=table["value"], value=table["value"].astype(float))
    # What a detector alone reaches does not depend on who teaches it in another row.
    alone = table["teacher"].where(table["paper"] != DETECTORS, "")
    cells = table.assign(teacher=alone)
    table = table.join(
        cells[[*CELL, "metric"]].join(_references(cells), on=[*CELL, "metric"])[
            list(REFERENCES.values())
        ]
    )
    table["gain"] = table["value"] - table["of_student"]
    table["gain_kd"] = table["value"] - table["of_kd"]
    table["share"] = table["gain"] / (table["of_teacher"] - table["of_student"])
    table["alpha"] = [alpha_of(method) for method in table["method"]]
    own = table["method"].isin(["student", "teacher"])
    table.loc[own, ["gain", "gain_kd", "share"]] = float("nan")
    table.loc[table["method"] == "KD", "gain_kd"] = float("nan")
    return table


def _references(table: pd.DataFrame) -> pd.DataFrame:
    """Student, KD and teacher of each cell and metric, one column each."""
    rows = table[table["method"].isin(REFERENCES)]
    keys = [*CELL, "metric", "method"]
    wide = rows.drop_duplicates(keys).set_index(keys)["value"].unstack("method")
    return wide.rename(columns=REFERENCES)


def published_figures() -> pd.DataFrame:
    """Every figure of the paper: ``id``, ``shows``, ``panels``, ``source``, and ours."""
    return pd.read_csv(PUBLISHED / "figures.csv").fillna("")


def traps() -> pd.DataFrame:
    """Known differences from the published protocols; whom they concern, in the last columns."""
    return pd.read_csv(PUBLISHED / "traps.csv").fillna("")


def traps_of(row: Mapping[str, Any], known: pd.DataFrame) -> list[str]:
    """Ids of those of the ``known`` traps that concern a published number."""
    method = "DCT alpha" if alpha_of(row["method"]) is not None else row["method"]
    own = {
        "papers": row["paper"], "datasets": row["dataset"], "methods": method,
        "metrics": row["metric"],
    }  # fmt: skip
    return [
        trap["id"]
        for trap in known.to_dict("records")
        if all(not trap[name] or value in trap[name].split(";") for name, value in own.items())
    ]


# What would run a published number of FRSKD: runs of the profile that holds its protocol.
PAPER = "frskd"


class Place(NamedTuple):
    """Where a published data set is run: a profile, our name of the data, and FRSKD's there."""

    profile: str
    dataset: str
    method: str


PLACES = {
    "CIFAR-100": Place("frskd", "cifar100", "frskd"),
    "VOC07 segmentation": Place("segmentation", "voc", "frskd_pixels"),
}
SELF_TAUGHT_NETWORKS = {
    "ResNet-18": "resnet18_cifar",
    "WRN-16-2": "wrn_16_2",
    "EfficientDet-d0": "efficientdet_d0",
    "EfficientDet-d1": "efficientdet_d1",
}


def self_taught_run(row: Mapping[str, Any]) -> tuple[str, RunConfig]:
    """The profile and the first seed of the run that a row of FRSKD's paper is of.

    A row's method is such as ``FRSKD + CutMix``.

    Raises:
        KdlibError: there is no such method here, or no profile with such a run.
    """
    base, _, added = row["method"].partition(" + ")
    if row["dataset"] not in PLACES:
        raise KdlibError(f"no profile has FRSKD's protocol on {row['dataset']}")
    if not our_methods(base):
        raise KdlibError(f"method {row['method']} is not offered")
    place, student = PLACES[row["dataset"]], SELF_TAUGHT_NETWORKS.get(row["student"])
    mixed = {added.lower()} if added else set()
    method = place.method if base == "FRSKD" else our_methods(base)[0]
    for run in expand(place.profile, place.dataset, [method]):
        if run.student == student and set(run.augmentation) & set(MIXING) == mixed:
            return place.profile, run
    wanted = f"{row['method']} of {row['student']} on {row['dataset']}"
    raise KdlibError(f"profile {place.profile} has no {wanted}")


# What a smaller data set says of a published method: its difference and whether that agrees.
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
        table: runs, from :func:`study.records.load_records`.
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
    return any(base in names for names in NAMES_METHODS_OF.values())


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


# The published numbers of detectors: what would run them, and which of ours stand beside them.
DETECTORS_METHODS_OF = {
    "student": statistics_STUDENT,
    "KD_cls": "kd_cls",
    "loc (pixels)": "loc",
    "loc + KD_loc": "kd_loc",
    "KD_cls + loc + KD_loc": "kd_cls_loc",
}
METRICS = {
    "mAP": "map",
    "AP50": "map50",
    "AP75": "map75",
    "APs": "map_small",
    "APm": "map_medium",
    "APl": "map_large",
    **{f"AP{iou}": f"ap{iou}" for iou in (60, 70, 80, 90, 95)},
}
"""Ours, by the published name."""
DETECTORS_NETWORKS = {
    "SSD300-VGG16": "ssd300_vgg16",
    "Faster R-CNN-R50": "fasterrcnn_resnet50_fpn",
    "RetinaNet-R50": "retinanet_resnet50_fpn",
}
TEACHERS = {"ResNet-18 (crops)": "resnet18", "ResNet-50 (crops)": "resnet50", "": "resnet50"}
STANDING_IN = {
    "SSD300-VGG16": "scenes_ssd",
    "SSD512-VGG16": "scenes_ssd",
    "RetinaNet-R50": "scenes_retinanet",
}
"""Small detectors of the same kind. Their teacher is one network, for a ResNet-50's numbers."""
PUBLISHED_TEACHER = "ResNet-50 (crops)"
_SWEPT = re.compile(r"KD_cls lambda ([\d.]+) T (\d+)")
USUAL = "KD_cls lambda .4 T 2"


class Asked(NamedTuple):
    """What a published method is here; ``weight`` and ``temperature`` as far as they are swept."""

    method: str
    weight: float | None = None
    temperature: float | None = None


def asked_of(published: str) -> Asked | None:
    """A method of these papers as it is called here; ``None`` where there is none."""
    if published in DETECTORS_METHODS_OF:
        return Asked(DETECTORS_METHODS_OF[published])
    swept = _SWEPT.fullmatch(published)
    if swept is None:
        return None
    if published == USUAL:
        return Asked("kd_cls")
    return Asked("kd_cls", float(swept[1]), float(swept[2]))


def detector_run(row: Mapping[str, Any]) -> tuple[RunConfig, bool]:
    """The first seed of the run that a row is of, and whether the profile itself has it.

    Raises:
        KdlibError: there is no such method or network here, or no such run in the profile.
    """
    asked, student = asked_of(row["method"]), DETECTORS_NETWORKS.get(row["student"])
    if asked is None:
        raise KdlibError(f"method {row['method']} is not offered")
    for published, ours in ((row["student"], student), (row["teacher"], _teacher(row))):
        if ours is None:
            raise KdlibError(f"network {published} is not offered")
    found = [run for run in expand(PROFILE, "coco", [asked.method]) if run.student == student]
    if not found:
        raise KdlibError(f"profile {PROFILE} has no {student} on coco")
    run = _with(found[0], asked, _teacher(row) or "")
    return run, run == found[0]


def _teacher(row: Mapping[str, Any]) -> str | None:
    return TEACHERS.get(row["teacher"])


def _with(run: RunConfig, asked: Asked, teacher: str) -> RunConfig:
    """The profile's run with what a row changes."""
    if run.teacher != "none":
        run = replace(run, teacher=teacher)
    if asked.temperature is None:
        return run
    options = {**run.method_options, "temperature": asked.temperature}
    return replace(run, weight=asked.weight, method_options=options)


def detector_stand_ins(table: pd.DataFrame, dataset: str = "scenes") -> dict[str, StandIn]:
    """The detectors on ``dataset`` that stand in for published ones, by our metric and network.

    What the methods add to the detector alone is one family a network and metric.

    Args:
        table: all runs, from :func:`study.records.load_records`.
        dataset: the data set that stands in.

    Returns:
        ``"map of scenes_ssd"`` and so on; networks and metrics that were not measured are left out.
    """
    detectors = table[table["task"] == "detection"]
    return {
        _key(student, metric): found
        for student in dict.fromkeys(STANDING_IN.values())
        for runs in [_runs_of(detectors[detectors["student"] == student], dataset)]
        for metric in METRICS.values()
        if (found := _stand_in(runs, dataset, metric)) is not None
    }


def _key(student: str, metric: str) -> str:
    return f"{metric} of {student}"


def _runs_of(detectors: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """One variant of each method in the largest setting; no row where there is none."""
    try:
        runs = runs_of(detectors, dataset, ATTENTIONS)
    except KdlibError:
        return detectors.iloc[:0]
    return main_runs(runs[runs["setting"].isin(student_settings(runs))])


def _stand_in(runs: pd.DataFrame, dataset: str, metric: str) -> StandIn | None:
    if metric not in runs:
        return None
    runs = runs.dropna(subset=[metric])
    effects = judged(runs, [(method, statistics_STUDENT) for method in OF_DETECTORS], metric)
    if not effects:
        return None
    profiles = profiles_of(runs, dataset)
    return StandIn(dataset, runs, float("nan"), effects, profiles, metric)


def stand_in_of(row: Mapping[str, Any], found: Mapping[str, StandIn]) -> StandIn | None:
    """What stands in for a row; ``None`` for sweeps, other teachers, and what was not run."""
    asked = asked_of(row["method"])
    if asked is None or asked.weight is not None or row["teacher"] not in ("", PUBLISHED_TEACHER):
        return None
    return found.get(_key(STANDING_IN.get(row["student"], ""), METRICS[row["metric"]]))


# The published mean class accuracy counts classes without images as 0.
METRIC_OF = {"mca": "mca_all", "mIoU": "miou", **METRICS}
NAN = float("nan")


@dataclass(frozen=True)
class Ours:
    """What stands beside a published number; accuracies and differences in points.

    Attributes:
        method: the method string that was run; empty if nothing was.
        where: data set and profile.
        mean: of the metric over the seeds.
        std: of the metric over the seeds.
        n: number of seeds.
        gain: over the student, paired; ``low`` and ``high`` bound its 95 % interval.
        share: of the way from student to teacher; 1 is all of it.
        gain_kd: over KD, paired; ``low_kd`` and ``high_kd`` bound its 95 % interval.
        difference: to the published value, where the same was run.
        status: one of :data:`study.ledger.rows.STATUSES`.
        status_kd: status of the published difference to KD; empty if there is none.
    """

    method: str = ""
    where: str = ""
    mean: float = NAN
    std: float = NAN
    n: int = 0
    gain: float = NAN
    low: float = NAN
    high: float = NAN
    share: float = NAN
    gain_kd: float = NAN
    low_kd: float = NAN
    high_kd: float = NAN
    difference: float = NAN
    status: str = ""
    status_kd: str = ""


class Sources(NamedTuple):
    """All that rows are made from: every run, the stand-in, the sweep of the weight, neighbours'.

    ``self_taught`` has a stand-in for each published metric of FRSKD, ``detected`` those of
    :func:`study.ledger.rows.detector_stand_ins`.
    """

    table: pd.DataFrame
    scenes: StandIn | None
    sweep: pd.DataFrame
    self_taught: Mapping[str, StandIn]
    detected: Mapping[str, StandIn]


def beside(row: Mapping[str, Any], recipe: "Recipe", sources: Sources) -> list[Ours]:
    """What stands beside a published number, the one that is judged first; empty if nothing."""
    found = same_protocol(row, recipe.run, sources.table)
    if row["alpha"] == row["alpha"]:
        return found + sweep_points(row, sources.sweep)
    if sources.scenes and row["paper"] == "dct" and row["dataset"] in SCENE_DATASETS:
        return found + on_stand_in(row, sources.scenes)
    if row["paper"] == PAPER and row["metric"] in sources.self_taught:
        return found + on_stand_in(row, sources.self_taught[row["metric"]])
    if row["paper"] == DETECTORS:
        small = stand_in_of(row, sources.detected)
        return found + (on_stand_in(row, small) if small else [])
    return found


def status_of(row: Mapping[str, Any], recipe: "Recipe", ours: list[Ours]) -> str:
    """The status of a row: that of what is judged, or why nothing is."""
    if ours:
        return ours[0].status
    return NOT_RUN if recipe.command else NOT_OFFERED


def same_protocol(row: Mapping[str, Any], run: RunConfig | None, table: pd.DataFrame) -> list[Ours]:
    """Runs of the published protocol itself, at whatever seeds."""
    if run is None:
        return []
    seeds = ({"data_seed": seed, "init_seed": seed} for seed in set(table["init_seed"]))
    wanted = {replace(run, **seed).run_id for seed in seeds}
    runs = table[table["run_id"].isin(wanted)]
    if runs.empty:
        return []
    method = "teacher" if row["method"] == "teacher" else run.method
    values = runs[METRIC_OF.get(row["metric"], row["metric"])]
    ours = _measured(method, f"{row['dataset']}, as published", values, SAME)
    return [replace(ours, difference=ours.mean - row["value"])]


def sweep_points(row: Mapping[str, Any], sweep: pd.DataFrame) -> list[Ours]:
    """The same multiple of the default weight in our grid."""
    found = sweep[sweep["alpha"] == row["alpha"]].to_dict("records")
    ordered = sorted(found, key=lambda one: our_methods(row["method"]).index(one["method"]))
    return [
        Ours(
            one["method"], "scenes, dev split", 100 * one[row["metric"]], n=one["n"],
            status=SHAPE,
        )
        for one in ordered
    ]  # fmt: skip


def on_stand_in(row: Mapping[str, Any], scenes: StandIn) -> list[Ours]:
    """Each method that the published one is called here, as far as it was run."""
    metric = METRIC_OF.get(row["metric"], row["metric"])
    if row["method"] == "teacher":
        value = pd.Series([scenes.teacher]).dropna()
        found = {"teacher": value}
    else:
        found = {name: scenes.values(name, metric) for name in _our_methods(row)}
    return [_judged(row, name, values, scenes) for name, values in found.items() if len(values)]


def _our_methods(row: Mapping[str, Any]) -> tuple[str, ...]:
    if row.get("paper") != DETECTORS:
        return our_methods(row["method"])
    asked = asked_of(row["method"])
    return (asked.method,) if asked else ()


def _judged(row: Mapping[str, Any], method: str, values: pd.Series, scenes: StandIn) -> Ours:
    profile = scenes.profiles.get(method, "")
    where = f"{scenes.dataset}, {profile}" if profile else scenes.dataset
    ours = _measured(method, where, values, REFERENCE)
    over, over_kd = scenes.effect(method, STUDENT), scenes.effect(method, KD)
    if METRIC_OF.get(row["metric"], row["metric"]) != scenes.metric or over is None:
        return ours
    gain, low, high = _points(over.comparison)
    ours = replace(ours, gain=gain, low=low, high=high, share=gain / (100 * scenes.gap))
    ours = replace(ours, status=over.agreement(row["gain"]))
    if over_kd is None:
        return ours
    gain_kd, low_kd, high_kd = _points(over_kd.comparison)
    agrees = over_kd.agreement(row["gain_kd"])
    ours = replace(ours, gain_kd=gain_kd, low_kd=low_kd, high_kd=high_kd, status_kd=agrees)
    # Of X + KD the question is what X adds to KD.
    return replace(ours, status=agrees) if method.endswith("+kd") else ours


def _measured(method: str, where: str, values: pd.Series, status: str) -> Ours:
    percent = 100 * values
    return Ours(
        method, where, float(percent.mean()), float(percent.std()), len(percent), status=status
    )


def _points(found: Comparison) -> tuple[float, float, float]:
    return 100 * found.difference, 100 * found.low, 100 * found.high
