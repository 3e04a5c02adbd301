"""What a method gains, and what it costs."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from kdlib.errors import KdlibError
from study.figures import style, tables
from study.figures.style import PAGE, drawn_from, new_figure
from study.names import NEUTRAL, look, name_of
from study.statistics import main_runs

# Written by `python -m benchmarks methods`.
COSTS = Path(__file__).parents[2] / "benchmarks" / "results" / "methods" / "costs.json"
DETECTOR_COSTS = COSTS.with_name("detectors.json")
FEWEST = 3  # methods, for there to be something to weigh
SAME = ["student", "image_size"]  # of a run and the measurement, beside the teacher if it has one
# Some methods double a step's cost, most add a few percent: beyond LINEAR percent the axis is
# logarithmic where costs reach WIDE.
LINEAR, WIDE = 10, 50
AXES = {"time": "time of a step over its floor (%)", "memory": "peak memory over its floor (%)"}


def accuracy_cost_table(table: pd.DataFrame) -> pd.DataFrame:
    """Gain over the student alone beside the cost of a step, a row a method without ``+kd``.

    ``time`` and ``memory`` are the step's over those of its floor: a teacher's forward and a plain
    student's step. ``front``: no method gains more in as little time, where one whose interval
    reaches down to the floor takes no longer than it. Empty with fewer than ``FEWEST`` methods,
    and for networks or images of another size than the costs were measured with.
    """
    return _weighed(tables.without_variants(tables.students_of(table)), COSTS, "top1")


@drawn_from(accuracy_cost_table)
def accuracy_cost(data: pd.DataFrame) -> Figure:
    """Gain over the student alone against the cost of a step, a point a method.

    The line joins the methods that none as cheap surpasses.
    """
    figure = _drawn(data, "top-1 over the student")
    for axes, cost in zip(figure.axes, AXES, strict=True):
        if 100 * (data[cost].max() - 1) > WIDE:
            axes.set_xscale("symlog", linthresh=LINEAR)
            axes.xaxis.set_major_formatter(ScalarFormatter())
    for row in data[data["front"]].to_dict("records"):
        figure.axes[0].annotate(
            name_of(row["label"]), (100 * (row["time"] - 1), 100 * row["gain"]), xytext=(-4, 3),
            textcoords="offset points", ha="right", fontsize=7,
        )  # fmt: skip
    figure.axes[0].margins(x=0.1)  # labels lie to the left
    return figure


def detection_cost_table(table: pd.DataFrame) -> pd.DataFrame:
    """As :func:`accuracy_cost_table`, of detectors without ablations: ``gain`` is of mAP.

    The floor of a method without a classifier is a plain step.
    """
    if table.empty or set(table["task"]) != {"detection"}:
        return pd.DataFrame()
    return _weighed(main_runs(tables.students_of(table)), DETECTOR_COSTS, "map")


@drawn_from(detection_cost_table)
def detection_cost(data: pd.DataFrame) -> Figure:
    """As :data:`accuracy_cost`, of detectors and their mAP."""
    figure = _drawn(data, "mAP over the detector alone")
    for axes in figure.axes:
        axes.set_xlim(left=min(0, axes.get_xlim()[0]))
    return figure


def _weighed(runs: pd.DataFrame, costs: Path, metric: str) -> pd.DataFrame:
    """Gain in a metric beside the cost of a step, of the runs that costs were measured for."""
    if not costs.exists():
        return pd.DataFrame()
    plan, measured = read_costs(costs)
    same = runs[SAME].eq([plan[name] for name in SAME]).all(axis=1)
    runs = runs[same & runs["teacher"].isin([plan["teacher"], "none"])]
    found = list(tables.gains(runs, [(method, "student") for method in sorted(measured)], metric))
    if len(found) < FEWEST:
        return pd.DataFrame()
    table = pd.DataFrame(found)[["method", "difference", "low", "high", "n"]]
    table = table.rename(columns={"method": "label", "difference": "gain"})
    return _with_front(table.join(measured.T, on="label"))


def _with_front(table: pd.DataFrame) -> pd.DataFrame:
    """Cheapest methods first, of equally cheap ones those that gain most."""
    low = table["time_low"].fillna(table["time"])  # of few rounds there is no bound
    order = pd.DataFrame({"time": table["time"].where(low > 1, 1.0), "gain": -table["gain"]})
    table = table.loc[order.sort_values(["time", "gain"]).index].reset_index(drop=True)
    best_so_far = table["gain"].cummax().shift(fill_value=float("-inf"))
    return table.assign(front=table["gain"] > best_so_far)


def read_costs(path: Path) -> tuple[dict[str, Any], pd.DataFrame]:
    """With what costs were measured, and each method's step over its floor.

    Returns:
        ``teacher``, ``student`` and ``image_size``; a column a method with ``time``, its interval
        ``time_low``, ``time_high`` (missing of few rounds), and ``memory``.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        plan = {name: record["plan"][name] for name in ("teacher", *SAME)}
        costs = {method: _over_floor(**one) for method, one in record["methods"].items()}
    except (ValueError, KeyError, TypeError) as error:
        raise KdlibError(
            f"{path} holds no costs ({error!r}); make it anew: python -m benchmarks methods"
        ) from error
    return plan, pd.DataFrame(costs, dtype=float)


def _over_floor(time: dict[str, Any], memory: dict[str, Any], **_: Any) -> dict[str, Any]:
    bounds = {f"time_{bound}": time[bound] for bound in ("low", "high")}
    return {"time": time["median"], **bounds, "memory": memory["ratio"]}


def _drawn(data: pd.DataFrame, gained: str) -> Figure:
    figure, panels = new_figure(PAGE, 3.1, columns=2, sharey=True)
    for axes, (cost, title) in zip(panels, AXES.items(), strict=True):
        axes.axhline(0, color=NEUTRAL, lw=0.8)
        for row in data.to_dict("records"):
            how, place = look(row["label"]), 100 * (row[cost] - 1)
            gain, *ends = style.percent(row, "gain")
            axes.plot([place, place], ends, c=how.colour, lw=0.9)
            axes.plot(place, gain, how.marker, c=how.colour, mfc=how.face, ms=5)
        axes.set_xlabel(title)
    front = data[data["front"]]
    line = 100 * (front["time"] - 1), 100 * front["gain"]
    panels[0].plot(*line, ls=":", c=NEUTRAL, lw=1, zorder=0)
    panels[0].set_ylabel(f"gain in {gained} (points)")
    style.legend(figure, style.methods_of(data))
    return figure
