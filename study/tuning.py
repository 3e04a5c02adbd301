"""From the dev-split records of the tuning grid to the weight of each method."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import yaml

from kdlib.errors import KdlibError
from kdlib.files import write_text
from kdlib.methods import STAGES, tuned_field
from kdlib.runs import RunConfig
from kdlib.tasks import TASKS
from study.profiles import PROFILES
from study.records import find_records

NEAR = 4.0
Scores = Mapping[str, Mapping[float, float]]


def dev_records(root: Path, dataset: str, task: str | None = None) -> list[dict[str, Any]]:
    """Records on the dev split of a data set (and task) that have a weight to choose."""
    own = [r for r in find_records(root).values() if r["config"]["split"] == "dev"]
    own = [r for r in own if r["config"]["dataset"] == dataset and task in (None, _task(r))]
    return [r for r in own if _chosen_field(r["config"]["method"])]


def grid_scores(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[float, float]]:
    """Mean dev top-1, mIoU of masks or mAP of boxes (0 to 1), a method and weight of its grid."""
    scores: dict[str, dict[float, list[float]]] = {}
    for record in records:
        method, score = record["config"]["method"], record["results"][TASKS[_task(record)].metric]
        weight = record["config"][_chosen_field(method)]
        scores.setdefault(method, {}).setdefault(weight, []).append(score)
    return {
        method: {weight: mean(grid[weight]) for weight in sorted(grid)}
        for method, grid in scores.items()
    }


def choose(scores: Scores) -> dict[str, dict[str, float]]:
    """The weight of each method on top of its :func:`smoothed` scores; refuses unequal grids."""
    sizes = {method: len(grid) for method, grid in scores.items()}
    if len(set(sizes.values())) > 1:
        raise KdlibError(f"The methods' grids differ in size ({sizes}); make all of their runs.")
    return {name: {_chosen_field(name): smoothed(grid)} for name, grid in sorted(scores.items())}


def smoothed(grid: Mapping[float, float]) -> float:
    """The weight where a parabola over its logarithm, through scores near the best, is highest.

    Near are those within a factor of ``NEAR``, and the top is sought among them. Where the best is
    at an end of the grid, or they make no hill, it is the best itself, the smaller one on a tie.
    """
    best = max(sorted(grid), key=grid.__getitem__)
    near = [weight for weight in grid if best / NEAR < weight < best * NEAR]
    if best in (min(grid), max(grid)):
        return float(f"{best:g}")
    square, slope, _ = np.polyfit(np.log(near), [grid[weight] for weight in near], 2)
    if square >= 0:
        return float(f"{best:g}")
    return float(f"{np.clip(np.exp(-slope / (2 * square)), min(near), max(near)):.2g}")


def write_tuned(root: Path, dataset: str) -> Path:
    """Write ``profiles/tuned/<dataset>.yaml`` from the dev-split records under ``root``."""
    records = dev_records(root, dataset)
    if not records:
        raise KdlibError(
            f"There are no dev-split records of '{dataset}' in {root}; make them by a profile with "
            f"a grid, as study_tune is one of Scenes: make reproduce PROFILE=... DATASET={dataset}"
        )
    path, scores = PROFILES / "tuned" / f"{dataset}.yaml", grid_scores(records)
    head = (
        f"# Chosen on the dev split from {len(records)} runs; written by `kdlib results --tune`.\n"
        f"# At an edge of the grid: {', '.join(at_edge(scores)) or 'none'}.\n"
    )
    write_text(path, head + yaml.safe_dump(choose(scores)))
    return path


def at_edge(scores: Scores) -> list[str]:
    """Methods whose best weight is the smallest or largest tried: another might be better yet."""
    best = sorted(_best(scores).items())
    return [one for one, weight in best if weight in (min(scores[one]), max(scores[one]))]


def _best(scores: Scores) -> dict[str, float]:
    return {method: max(sorted(grid), key=grid.__getitem__) for method, grid in scores.items()}


def _task(record: Mapping[str, Any]) -> str:
    """Of a record; the first ones do not name it."""
    return record["config"].get("task", RunConfig.task)


def _chosen_field(method: str) -> str:
    """The weight that is chosen; empty where there is none, and for runs others start from."""
    return "" if method in STAGES else tuned_field(method) or ""
