"""What a method gains, and what it costs."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from kdlib.errors import KdlibError
from study.figures.comparison import students_of, without_variants
from study.figures.style import (
    NEUTRAL,
    PAGE,
    figure_style,
    legend,
    look,
    methods_of,
    name_of,
    new_figure,
    shown,
)
from study.statistics import main_runs, paired_comparison

# What a method gains, and what it costs.
# Written by `python -m benchmarks.methods`.
COSTS = Path(__file__).parents[2] / "benchmarks" / "results" / "methods" / "costs.json"
DETECTOR_COSTS = COSTS.with_name("detectors.json")
FEWEST = 3  # methods, for there to be something to weigh
SAME = ("student", "image_size")
"""What a run and the measurement must have in common, beside the teacher of those that have one."""


def accuracy_cost_table(table: pd.DataFrame, costs: Path = COSTS) -> pd.DataFrame:
    """Gain over the student alone beside the cost of a step, a row a method without ``+kd``.

    Columns: ``label``, ``gain`` with its 95 % interval ``low``, ``high`` and ``n``; ``time`` and
    ``memory``, the step's over those of its floor (a teacher's forward and a plain student's
    step), ``time_low``, ``time_high``; ``front``: no method gains more in as little time, where
    one whose interval reaches down to the floor takes no longer than it. Empty for networks or
    images of another size than the costs were measured with, and with fewer than ``FEWEST``
    methods.
    """
    return _weighed(without_variants(students_of(table)), costs, "top1")


def detection_cost_table(table: pd.DataFrame, costs: Path = DETECTOR_COSTS) -> pd.DataFrame:
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


# Some methods double a step's cost, most add a few percent: beyond LINEAR percent the axis is
# logarithmic where costs reach WIDE.
LINEAR, WIDE = 10, 50
AXES = {"time": "time of a step over its floor (%)", "memory": "peak memory over its floor (%)"}


@figure_style()
def accuracy_cost(table: pd.DataFrame) -> Figure:
    """Gain over the student alone against the cost of a step, a point a method.

    The line joins the methods that none as cheap surpasses. The floor is a teacher's forward and
    a plain student's step.
    """
    data = shown(accuracy_cost_table(table))
    figure = _drawn(data, "top-1 over the student")
    for axes, cost in zip(figure.axes, AXES, strict=True):
        if 100 * (data[cost].max() - 1) > WIDE:
            axes.set_xscale("symlog", linthresh=LINEAR)
            axes.xaxis.set_major_formatter(ScalarFormatter())
    _named_front(figure.axes[0], data)
    return figure


@figure_style()
def detection_cost(table: pd.DataFrame) -> Figure:
    """As :func:`accuracy_cost`, of detectors and their mAP."""
    figure = _drawn(shown(detection_cost_table(table)), "mAP over the detector alone")
    for axes in figure.axes:
        axes.set_xlim(left=min(0, axes.get_xlim()[0]))
    return figure


def _drawn(data: pd.DataFrame, gained: str) -> Figure:
    figure, panels = new_figure(PAGE, 3.1, columns=2, sharey=True)
    for axes, (cost, title) in zip(panels, AXES.items(), strict=True):
        axes.axhline(0, color=NEUTRAL, lw=0.8)
        for row in data.to_dict("records"):
            _point(axes, row, cost)
        axes.set_xlabel(title)
    front = data[data["front"]]
    percent = 100 * (front["time"] - 1)
    panels[0].plot(percent, 100 * front["gain"], ls=":", c=NEUTRAL, lw=1, zorder=0)
    panels[0].set_ylabel(f"gain in {gained} (points)")
    legend(figure, methods_of(data))
    return figure


def _named_front(axes: Axes, data: pd.DataFrame) -> None:
    """Name the methods that none as cheap surpasses."""
    front = data[data["front"]]
    percent = 100 * (front["time"] - 1)
    for place, label, gain in zip(percent, front["label"], 100 * front["gain"], strict=True):
        axes.annotate(
            name_of(label), (place, gain), xytext=(-4, 3), textcoords="offset points",
            ha="right", fontsize=7,
        )  # fmt: skip
    axes.margins(x=0.1)  # labels lie to the left


def _point(axes: Axes, row: dict, cost: str) -> None:
    style, place = look(row["label"]), 100 * (row[cost] - 1)
    axes.plot([place, place], [100 * row["low"], 100 * row["high"]], c=style.colour, lw=0.9)
    axes.plot(place, 100 * row["gain"], style.marker, c=style.colour, mfc=style.face, ms=5)
