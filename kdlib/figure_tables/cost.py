"""What a method gains, and what it costs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from kdlib.comparisons import paired_comparison
from kdlib.detection.claims import main_runs
from kdlib.errors import KdlibError
from kdlib.figure_tables.common import students_of, without_variants

# Written by `python -m benchmarks.methods`.
COSTS = Path(__file__).parents[2] / "benchmarks" / "results" / "methods" / "costs.json"
DETECTOR_COSTS = COSTS.with_name("detectors.json")
FEWEST = 3  # methods, for there to be something to weigh
SAME = ("student", "image_size")
"""What a run and the measurement must have in common, beside the teacher of those that have one."""


def accuracy_cost(table: pd.DataFrame, costs: Path = COSTS) -> pd.DataFrame:
    """Gain over the student alone beside the cost of a step, a row a method without ``+kd``.

    Columns: ``label``, ``gain`` with its 95 % interval ``low``, ``high`` and ``n``; ``time`` and
    ``memory``, the step's over those of its floor (a teacher's forward and a plain student's
    step), ``time_low``, ``time_high``; ``front``: no method gains more in as little time, where
    one whose interval reaches down to the floor takes no longer than it. Empty for networks or
    images of another size than the costs were measured with, and with fewer than ``FEWEST``
    methods.
    """
    return _weighed(without_variants(students_of(table)), costs, "top1")


def detection_cost(table: pd.DataFrame, costs: Path = DETECTOR_COSTS) -> pd.DataFrame:
    """As :func:`accuracy_cost`, of detectors: ``gain`` is of mAP.

    The floor of a method without a classifier is a plain step. Ablations are left out.
    """
    if table.empty or set(table["task"]) != {"detection"}:
        return pd.DataFrame()
    return _weighed(main_runs(students_of(table)), costs, "map")


def _weighed(runs: pd.DataFrame, costs: Path, metric: str) -> pd.DataFrame:
    """Gain in a metric beside the cost of a step, of the runs that costs were measured for."""
    if not Path(costs).exists():
        return pd.DataFrame()
    plan, measured = read_costs(costs)
    students = _measured(runs, plan)
    if "student" not in set(students["label"]):
        return pd.DataFrame()
    rows = []
    for method in sorted(set(measured) & set(students["label"])):
        found = paired_comparison(students, method, "student", metric)
        gain = {"gain": found.difference, "low": found.low, "high": found.high, "n": found.n}
        rows += [{"label": method, **gain, **measured[method]}] if found.n else []
    return _with_front(pd.DataFrame(rows)) if len(rows) >= FEWEST else pd.DataFrame()


def _with_front(table: pd.DataFrame) -> pd.DataFrame:
    """Cheapest methods first, of equally cheap ones those that gain most."""
    low = table["time_low"].astype(float).fillna(table["time"])  # of few rounds there is no bound
    told = table["time"].where(low > 1, 1.0)
    order = pd.DataFrame({"time": told, "gain": -table["gain"]}).sort_values(["time", "gain"])
    table = table.loc[order.index].reset_index(drop=True)
    best_so_far = table["gain"].cummax().shift(fill_value=float("-inf"))
    return table.assign(front=table["gain"] > best_so_far)


def _measured(students: pd.DataFrame, plan: Mapping[str, Any]) -> pd.DataFrame:
    """The runs of the networks and the size of images that costs were measured with."""
    same = students[list(SAME)].eq([plan[name] for name in SAME]).all(axis=1)
    return students[same & students["teacher"].isin([plan["teacher"], "none"])]


def read_costs(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, float]]]:
    """With what costs were measured, and each method's step over its floor.

    Returns:
        ``teacher``, ``student`` and ``image_size``; of each method ``time`` with its interval
        ``time_low``, ``time_high``, and ``memory``.

    Raises:
        KdlibError: the file is damaged.
    """
    try:
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        costs = {
            name: {
                "time": one["time"]["median"],
                "time_low": one["time"]["low"],
                "time_high": one["time"]["high"],
                "memory": one["memory"]["ratio"],
            }
            for name, one in record["methods"].items()
        }
        return {name: record["plan"][name] for name in ("teacher", *SAME)}, costs
    except (ValueError, KeyError, TypeError) as error:
        raise KdlibError(
            f"{path} holds no costs ({error!r}); make it anew: python -m benchmarks.methods"
        ) from error
