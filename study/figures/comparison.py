"""What methods gain, beside what a step of them costs."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from kdlib.errors import KdlibError, shown
from study.figures import style, tables
from study.figures.style import PAGE, drawn_from, new_figure
from study.names import NEUTRAL
from study.statistics import differences, main_runs

# Written by `python -m benchmarks methods`.
COSTS = Path(__file__).parents[2] / "benchmarks" / "results" / "methods" / "costs.json"
DETECTOR_COSTS = COSTS.with_name("detectors.json")
FEWEST = 3  # methods, for there to be something to weigh
SAME = ["student", "image_size"]  # of a run and the measurement, beside the teacher if it has one
AXES = {"time": "time of a step over its floor (%)", "memory": "peak memory over its floor (%)"}


def accuracy_cost_table(table: pd.DataFrame) -> pd.DataFrame:
    """Gain over the student alone beside the cost of a step, a row a method without ``+kd``.

    ``time`` and ``memory`` are the step's over those of its floor: a teacher's forward and a plain
    student's step. ``front``: no method gains more in as little time, where one whose interval
    reaches down to the floor takes no longer than it. Empty with fewer than ``FEWEST`` methods,
    and for networks or images of another size than the costs were measured with.
    """
    return _weighed(tables.students_of(table), COSTS, "top1")


def detection_cost_table(table: pd.DataFrame) -> pd.DataFrame:
    """As :func:`accuracy_cost_table`, of detectors without ablations: ``gain`` is of mAP."""
    runs = tables.students_of(table[table["task"] == "detection"])
    return _weighed(main_runs(runs), DETECTOR_COSTS, "map")


@drawn_from(detection_cost_table)
def detection_cost(data: pd.DataFrame) -> Figure:
    """Gain of detectors over the student alone against a step's cost; a line: the front."""
    figure, panels = new_figure(PAGE, 3.1, columns=2, sharey=True)
    for axes, (cost, title) in zip(panels, AXES.items(), strict=True):
        axes.axhline(0, color=NEUTRAL, lw=0.8)
        for row in data.to_dict("records"):
            place, gain = 100 * (row[cost] - 1), style.percent(row, "gain")
            style.dot(axes, row["label"], gain, place, upright=True, lw=0.9, ms=5)
        axes.set_xlabel(title)
    front = data[data["front"]]
    line = 100 * (front["time"] - 1), 100 * front["gain"]
    panels[0].plot(*line, ls=":", c=NEUTRAL, lw=1, zorder=0)
    panels[0].set_ylabel("gain in mAP over the detector alone (points)")
    for axes in panels:
        axes.set_xlim(left=min(0, axes.get_xlim()[0]))
    style.legend(figure, style.methods_of(data))
    return figure


def _weighed(runs: pd.DataFrame, costs: Path, metric: str) -> pd.DataFrame:
    """Gain in a metric beside the cost of a step, of the runs that costs were measured for."""
    if not costs.exists():
        return pd.DataFrame()
    plan, measured = read_costs(costs)
    same = runs[SAME].eq([plan[name] for name in SAME]).all(axis=1)
    runs = runs[same & runs["teacher"].isin([plan["teacher"], "none"])]
    table = differences(runs, [(one, "student") for one in sorted(measured)], metric)
    if len(table) < FEWEST:
        return pd.DataFrame()
    table = table[["method", "difference", "low", "high", "n"]]
    table = table.rename(columns={"method": "label", "difference": "gain"})
    table = table.join(measured.T, on="label")
    # Cheapest methods first, of equally cheap ones those that gain most; of few rounds no bounds.
    low = table["time_low"].fillna(table["time"])
    order = pd.DataFrame({"time": table["time"].where(low > 1, 1.0), "gain": -table["gain"]})
    table = table.loc[order.sort_values(["time", "gain"]).index].reset_index(drop=True)
    best_so_far = table["gain"].cummax().shift(fill_value=float("-inf"))
    return table.assign(front=table["gain"] > best_so_far)


def read_costs(path: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """What costs were measured with; a column a method: its step over its floor, and interval."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        plan = {name: record["plan"][name] for name in ("teacher", *SAME)}
        costs = pd.json_normalize(list(record["methods"].values())).set_axis(record["methods"])
        costs = costs[["time.median", "time.low", "time.high", "memory.ratio"]].astype(float)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        again = "measure them again: python -m benchmarks methods"
        raise KdlibError(f"{path} holds no costs of methods ({shown(error)}); {again}.") from error
    return plan, costs.set_axis(["time", "time_low", "time_high", "memory"], axis=1).T
