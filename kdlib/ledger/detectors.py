"""The published numbers of detectors: what would run them, and which of ours stand beside them."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import pandas as pd

from kdlib.detection.claims import METHODS, PROFILE, STUDENT, main_runs
from kdlib.errors import KdlibError
from kdlib.ledger.published import DETECTORS as PAPER
from kdlib.ledger.stand_in import ATTENTIONS, StandIn, judged, profiles_of
from kdlib.profiles import expand
from kdlib.run_table import student_settings
from kdlib.runs import RunConfig
from kdlib.selection import runs_of

__all__ = ["METRICS", "PAPER", "asked_of", "detector_run", "detector_stand_ins", "stand_in_of"]

METHODS_OF = {
    "student": STUDENT,
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
NETWORKS = {
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
    if published in METHODS_OF:
        return Asked(METHODS_OF[published])
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
    asked, student = asked_of(row["method"]), NETWORKS.get(row["student"])
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
        table: all runs, from :func:`kdlib.run_table.load_records`.
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
    effects = judged(runs, [(method, STUDENT) for method in METHODS], metric)
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
