"""What happens when one thing is changed: a method's weight, a switch of the DCT loss."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdlib.methods import method_of, parse_method, tuned_field
from kdlib.runs import RunConfig
from study.figures import style, tables
from study.figures.style import PAGE, drawn_from, new_figure
from study.names import NEUTRAL, method_order, name_of

METRICS = {"top1": "top-1 (%)", "top5": "top-5 (%)", "mca": "class mean (%)"}
ACROSS = 5  # panels in a row of the sensitivities


def weight_sensitivity_table(table: pd.DataFrame) -> pd.DataFrame:
    """Every method by its weight, on the dev split: means over the seeds of the grid.

    ``weight`` (of KD itself: that of its term), ``factor`` of the method's default. Methods without
    a weight are left out, but for the student alone. Empty where no method has two weights.
    """
    runs = tables.students_of(table)
    runs = runs[(runs["split"] == "dev") & (runs["method"] != "dct_options")]
    tuned = runs["method"].map(tuned_field)
    weight = runs["weight"].where(tuned != "kd_weight", runs["kd_weight"]).astype(float)
    runs = runs.assign(weight=weight.where(tuned.notna(), float("nan")))
    runs = runs[runs["weight"].notna() | (runs["method"] == "student")]
    groups = runs.groupby(["method", "weight"], dropna=False)
    grid = groups[list(METRICS)].mean().assign(n=groups.size()).reset_index()
    if grid.empty or grid["method"].value_counts().max() < 2:
        return pd.DataFrame()
    defaults = {
        one: RunConfig().kd_weight if tuned_field(one) == "kd_weight" else method_of(one).weight
        for one in grid["method"]
    }
    grid.insert(2, "factor", grid["weight"] / grid["method"].map(defaults))
    return tables.in_order(grid, "method", sorted(set(grid["method"]), key=method_order), "factor")


@drawn_from(weight_sensitivity_table)
def weight_sensitivity(data: pd.DataFrame) -> Figure:
    """Every method by its weight on the dev split, alone (filled) and with KD added (open)."""
    taught = data.loc[data["method"] != "student", "method"]
    bases = sorted({parse_method(method).base for method in taught}, key=method_order)
    across = min(ACROSS, len(bases))
    rows = -(-len(bases) // across)
    figure, panels = new_figure(PAGE, 0.95 + 1.15 * rows, across, rows, sharex=True, sharey=True)
    for axes, base in zip(panels, bases, strict=False):
        weight_curves(axes, data, "top1", [base, f"{base}+kd"])
        axes.set_title(name_of(base), pad=3)
    for axes in panels[len(bases) :]:
        axes.set_axis_off()
    for axes in panels[max(0, len(bases) - across) : len(bases)]:
        axes.tick_params(labelbottom=True)  # the lowest of each column, which sharing may hide
    # What filled, open and dashed mean, as far as the grid has them.
    student, with_kd = data["method"] == "student", data["method"].str.endswith("+kd")
    entries = [
        (~student & ~with_kd, Line2D([], [], c=NEUTRAL, marker="o", label="alone")),
        (with_kd, Line2D([], [], c=NEUTRAL, marker="o", mfc="white", label="with KD")),
        (student, Line2D([], [], c=NEUTRAL, ls="--", label="student alone")),
    ]
    found = [entry for rows, entry in entries if rows.any()]
    figure.legend(handles=found, loc="outside upper center", ncols=3)
    figure.supxlabel("weight / default weight of the method", fontsize=8)
    figure.supylabel("top-1 on the dev split (%)", fontsize=8)
    return figure


def weight_curves(axes: Axes, data: pd.DataFrame, metric: str, methods: list[str]) -> None:
    """A metric over the weight in multiples of the default; dashed: the student alone."""
    for method in methods:
        own = data[data["method"] == method].sort_values("factor")
        axes.plot(own["factor"], 100 * own[metric], **style.marks(method))
    for value in data.loc[data["method"] == "student", metric]:
        axes.axhline(100 * value, color=NEUTRAL, ls="--", lw=0.9)
    axes.set_xscale("log")


def weight_ablation_table(table: pd.DataFrame) -> pd.DataFrame:
    """As :func:`weight_sensitivity_table`, of the methods ``dct`` and ``student`` alone."""
    grid = weight_sensitivity_table(table)
    if grid.empty or "dct" not in set(grid["method"]):
        return pd.DataFrame()
    return grid[grid["method"].isin(("student", "dct"))].reset_index(drop=True)


@drawn_from(weight_ablation_table)
def weight_ablation(data: pd.DataFrame) -> Figure:
    """DCT by its weight on the dev split, a panel a metric; dashed: the student alone."""
    figure, panels = new_figure(PAGE, 2.1, columns=len(METRICS))
    for axes, (metric, title) in zip(panels, METRICS.items(), strict=True):
        weight_curves(axes, data, metric, ["dct"])
        axes.set(title=title, xlabel="weight / default")
    panels[0].set_ylabel("accuracy on the dev split")
    return figure
