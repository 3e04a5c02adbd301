"""The ledger's rows: what stands beside each published number, and how it is judged."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pandas as pd

from kdlib.comparisons import Comparison
from kdlib.ledger import detectors, names
from kdlib.ledger.commands import Recipe
from kdlib.ledger.names import SCENE_DATASETS, our_methods
from kdlib.ledger.self_taught import PAPER
from kdlib.ledger.stand_in import KD, STUDENT, StandIn
from kdlib.runs import RunConfig

# The published mean class accuracy counts classes without images as 0.
METRIC_OF = {"mca": "mca_all", "mIoU": "miou", **detectors.METRICS}
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
        status: one of :data:`kdlib.ledger.names.STATUSES`.
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
    :func:`kdlib.ledger.detectors.detector_stand_ins`.
    """

    table: pd.DataFrame
    scenes: StandIn | None
    sweep: pd.DataFrame
    self_taught: Mapping[str, StandIn]
    detected: Mapping[str, StandIn]


def beside(row: Mapping[str, Any], recipe: Recipe, sources: Sources) -> list[Ours]:
    """What stands beside a published number, the one that is judged first; empty if nothing."""
    found = same_protocol(row, recipe.run, sources.table)
    if row["alpha"] == row["alpha"]:
        return found + sweep_points(row, sources.sweep)
    if sources.scenes and row["paper"] == "dct" and row["dataset"] in SCENE_DATASETS:
        return found + on_stand_in(row, sources.scenes)
    if row["paper"] == PAPER and row["metric"] in sources.self_taught:
        return found + on_stand_in(row, sources.self_taught[row["metric"]])
    if row["paper"] == detectors.PAPER:
        small = detectors.stand_in_of(row, sources.detected)
        return found + (on_stand_in(row, small) if small else [])
    return found


def status_of(row: Mapping[str, Any], recipe: Recipe, ours: list[Ours]) -> str:
    """The status of a row: that of what is judged, or why nothing is."""
    if ours:
        return ours[0].status
    return names.NOT_RUN if recipe.command else names.NOT_OFFERED


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
    ours = _measured(method, f"{row['dataset']}, as published", values, names.SAME)
    return [replace(ours, difference=ours.mean - row["value"])]


def sweep_points(row: Mapping[str, Any], sweep: pd.DataFrame) -> list[Ours]:
    """The same multiple of the default weight in our grid."""
    found = sweep[sweep["alpha"] == row["alpha"]].to_dict("records")
    ordered = sorted(found, key=lambda one: our_methods(row["method"]).index(one["method"]))
    return [
        Ours(
            one["method"], "scenes, dev split", 100 * one[row["metric"]], n=one["n"],
            status=names.SHAPE,
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
    if row.get("paper") != detectors.PAPER:
        return our_methods(row["method"])
    asked = detectors.asked_of(row["method"])
    return (asked.method,) if asked else ()


def _judged(row: Mapping[str, Any], method: str, values: pd.Series, scenes: StandIn) -> Ours:
    profile = scenes.profiles.get(method, "")
    where = f"{scenes.dataset}, {profile}" if profile else scenes.dataset
    ours = _measured(method, where, values, names.REFERENCE)
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
