"""Methods compared by their accuracy, and by what they cost."""

import json
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdlib.errors import KdlibError, shown
from study.figures import style, tables
from study.figures.style import COLUMN, PAGE, ROW, drawn_from, new_figure
from study.names import NEUTRAL, difference_name, look, name_of
from study.records import load_histories
from study.statistics import main_runs, paired_comparison, paired_values, smallest_effect, verdicts

NOISE_PAIR = ("dct", "parseval_twin")
GAUGED = (NOISE_PAIR, ("dct", "at_equal_scale"), ("dct", "release_a"), ("dct", "at"), ("dct", "kd"))
# Written by `python -m benchmarks methods`.
COSTS = Path(__file__).parents[2] / "benchmarks" / "results" / "methods" / "costs.json"
DETECTOR_COSTS = COSTS.with_name("detectors.json")
FEWEST = 3  # methods, for there to be something to weigh
SAME = ["student", "image_size"]  # of a run and the measurement, beside the teacher if it has one
AXES = {"time": "time of a step over its floor (%)", "memory": "peak memory over its floor (%)"}


def paired_differences_table(table: pd.DataFrame) -> pd.DataFrame:
    """A row a claim about top-1, as :func:`study.statistics.verdicts` judges it."""
    claims = verdicts(table)
    if claims.empty:
        return claims
    return claims[(claims["metric"] == "top1") & (claims["n"] > 1)].reset_index(drop=True)


@drawn_from(paired_differences_table)
def paired_differences(data: pd.DataFrame) -> Figure:
    """Forest plot of the claims: paired difference with 95 % interval, and the verdict."""
    claims = data[::-1].assign(label=data["method"])
    figure, (axes,) = new_figure(COLUMN, 0.75 + style.rows_height(len(claims)))
    style.no_difference(axes, smallest_effect("top1"))
    beside = ("axes fraction", "data")
    for row, verdict in enumerate(claims["verdict"]):
        axes.annotate(verdict, (1.02, row), xycoords=beside, va="center", fontsize=6.5)
    style.forest(axes, claims, map(difference_name, claims["method"], claims["baseline"]))
    axes.set_xlabel("difference in top-1 (points)")
    return figure


def training_curves_table(table: pd.DataFrame) -> pd.DataFrame:
    """``label``, ``epoch``; ``mean``, ``low`` and ``high`` (extremes) of monitored accuracy."""
    students = tables.students_of(table)
    chosen = students[students["label"].isin(tables.KEY_METHODS)]
    if chosen.empty:
        return pd.DataFrame()
    groups = load_histories(chosen).groupby(["label", "epoch"])["accuracy"]
    return groups.agg(mean="mean", low="min", high="max", n="size").reset_index()


@drawn_from(training_curves_table)
def training_curves(data: pd.DataFrame) -> Figure:
    """Monitored accuracy over epochs: mean of the seeds, and their extremes as a band."""
    figure, (axes,) = new_figure(COLUMN, 2.7)
    style.curves(axes, data, "epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel="top-1 accuracy (%)")
    style.legend(figure, style.methods_of(data))
    return figure


def noise_gauge_table(table: pd.DataFrame) -> pd.DataFrame:
    """DCT less its twin and its rivals; ``noise``: what the seeds resolve, from the twin."""
    runs = tables.students_of(table)
    pairs = [pair for pair in GAUGED if set(pair) <= set(runs["label"])]
    if NOISE_PAIR not in pairs or (noise := paired_comparison(runs, *NOISE_PAIR)).n < 2:
        return pd.DataFrame()
    found = []
    for dct, other in pairs:
        values = paired_values(runs, dct, other, "top1").reset_index()
        difference = values[dct] - values[other]
        found.append(values[["init_seed"]].assign(pair=f"{dct} {other}", difference=difference))
    return pd.concat(found, ignore_index=True).assign(noise=noise.resolvable)


@drawn_from(noise_gauge_table)
def noise_gauge(data: pd.DataFrame) -> Figure:
    """DCT against its twin and its rivals; the band: what so many seeds cannot tell from noise."""
    pairs = list(dict.fromkeys(data["pair"]))[::-1]
    figure, (axes,) = new_figure(COLUMN, 0.75 + 1.3 * ROW * len(pairs))
    style.no_difference(axes, data["noise"].iloc[0])
    for row, pair in enumerate(pairs):
        values, own = 100 * data.loc[data["pair"] == pair, "difference"], look(pair.split()[1])
        axes.plot(values, [row] * len(values), own.marker, c=own.colour, ms=4, alpha=0.7)
        axes.plot([values.mean()] * 2, [row - 0.3, row + 0.3], c=own.colour, lw=1.8)
    style.named_rows(axes, [difference_name(*pair.split()) for pair in pairs])
    axes.set_xlabel("difference in top-1 (points), each seed")
    return figure


def attentions_gain_table(table: pd.DataFrame) -> pd.DataFrame:
    """The gain of DCT over AT and over the student alone, by ``attentions`` (two at least)."""
    rows: list[dict] = []
    for runs in tables.by_setting(table):
        number = int(runs["attentions"].iloc[0])
        rows += tables.gains(runs, (("dct", "at"), ("dct", "student")), attentions=number)
    if len({row["attentions"] for row in rows}) < 2:
        return pd.DataFrame()
    return pd.DataFrame(rows).sort_values(["baseline", "attentions"], ignore_index=True)


@drawn_from(attentions_gain_table)
def attentions_gain(data: pd.DataFrame) -> Figure:
    """Gain of DCT over AT and over the student alone, by ``attentions``, with 95 % bands."""
    figure, (axes,) = new_figure(COLUMN, 2.5)
    axes.axhline(0, color=NEUTRAL, lw=0.8)
    for baseline, gain in data.groupby("baseline"):
        own, number, (mean, low, high) = look(baseline), gain["attentions"], style.percent(gain)
        name = f"DCT − {name_of(baseline)}"
        axes.plot(number, mean, "-", marker=own.marker, c=own.colour, label=name)
        axes.fill_between(number, low, high, color=own.colour, alpha=0.15, lw=0)
    axes.set_xticks(sorted(set(data["attentions"])))
    axes.set(xlabel="attentions (objects that define a class)", ylabel="gain in top-1 (points)")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


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
    found = list(tables.gains(runs, [(one, "student") for one in sorted(measured)], metric))
    if len(found) < FEWEST:
        return pd.DataFrame()
    table = pd.DataFrame(found)[["method", "difference", "low", "high", "n"]]
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
