"""Methods compared by their accuracy."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from kdlib import figure_tables
from kdlib.comparisons import smallest_effect
from kdlib.figures.drawing import (
    ROW,
    curve,
    dot,
    legend,
    methods_of,
    named_rows,
    new_figure,
    no_difference,
    reference,
    rows_height,
    seeds_text,
    shown,
)
from kdlib.style import (
    COLUMN,
    NEUTRAL,
    PALETTE,
    TEACHER_COLOUR,
    difference_name,
    figure_style,
    look,
    name_of,
)

WITH_KD = "+kd"
PAIRS = ((PALETTE[0], "o"), (PALETTE[1], "D"), (PALETTE[2], "s"), (PALETTE[4], "^"))


@figure_style()
def method_accuracy(table: pd.DataFrame) -> Figure:
    """Top-1 of each method: mean with 95 % interval, seeds as small points, best on top.

    A method alone (filled) and with KD (hollow) share a row, by whose method alone rows are sorted.
    """
    data = shown(figure_tables.method_accuracy(table))
    students = data[data["label"] != "teacher"].sort_values("label")
    alone = students["label"].str.replace(WITH_KD, "", regex=False)
    order = list(students.groupby(alone)["mean"].first().sort_values().index)
    figure, (axes,) = new_figure(COLUMN, 0.7 + rows_height(len(order)))
    reference(axes, data, "teacher", TEACHER_COLOUR)
    reference(axes, data, "student", NEUTRAL)
    for label, runs in students.groupby("label"):
        row = order.index(str(label).replace(WITH_KD, ""))
        seeds = 100 * runs["top1"], [row - 0.27] * len(runs)
        axes.plot(*seeds, "o", c=look(str(label)).colour, ms=2, alpha=0.6, mew=0)
        dot(axes, str(label), 100 * runs.iloc[0][["mean", "low", "high"]], row)
    named_rows(axes, [name_of(label) for label in order])
    intervals = f"95 % intervals of {seeds_text(students)}"
    axes.set_xlabel(f"top-1 accuracy (%)\nhollow: with KD\n{intervals}")
    return figure


@figure_style()
def paired_differences(table: pd.DataFrame) -> Figure:
    """Forest plot of the claims: paired difference with 95 % interval, and the verdict."""
    data = shown(figure_tables.paired_differences(table))[::-1]
    figure, (axes,) = new_figure(COLUMN, 0.75 + rows_height(len(data)))
    no_difference(axes, 100 * smallest_effect("top1"))
    for row, claim in enumerate(data.to_dict("records")):
        values = pd.Series(claim)[["difference", "low", "high"]].astype(float)
        dot(axes, claim["method"], 100 * values, row)
        axes.annotate(
            claim["verdict"], (1.02, row), xycoords=("axes fraction", "data"),
            va="center", fontsize=6.5,
        )  # fmt: skip
    names = [difference_name(*pair) for pair in data[["method", "baseline"]].to_numpy()]
    named_rows(axes, names)
    axes.set_xlabel("difference in top-1 (points)")
    return figure


@figure_style()
def training_curves(table: pd.DataFrame) -> Figure:
    """Monitored accuracy over epochs: mean of the seeds, and their extremes as a band."""
    data = shown(figure_tables.training_curves(table))
    figure, (axes,) = new_figure(COLUMN, 2.7)
    for label in methods_of(data):
        curve(axes, label, data[data["label"] == label], "epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="epoch", ylabel="top-1 accuracy (%)")
    legend(figure, methods_of(data))
    return figure


@figure_style()
def noise_gauge(table: pd.DataFrame) -> Figure:
    """DCT against its twin, which differs in nothing but noise, beside DCT against its rivals.

    The band is the mean difference that so many seeds could tell from noise.
    """
    data = shown(figure_tables.noise_gauge(table))
    pairs = list(dict.fromkeys(data["pair"]))[::-1]
    figure, (axes,) = new_figure(COLUMN, 0.75 + 1.3 * ROW * len(pairs))
    no_difference(axes, 100 * data["noise"].iloc[0])
    for row, pair in enumerate(pairs):
        values, style = 100 * data.loc[data["pair"] == pair, "difference"], look(pair.split()[1])
        axes.plot(values, [row] * len(values), style.marker, c=style.colour, ms=4, alpha=0.7)
        axes.plot([values.mean()] * 2, [row - 0.3, row + 0.3], c=style.colour, lw=1.8)
    named_rows(axes, [difference_name(*pair.split()) for pair in pairs])
    axes.set_xlabel("difference in top-1 (points), each seed")
    return figure


@figure_style()
def attentions_gain(table: pd.DataFrame) -> Figure:
    """Gain of DCT over AT and over the student alone, by ``attentions``, with 95 % bands."""
    data = shown(figure_tables.attentions_gain(table))
    figure, (axes,) = new_figure(COLUMN, 2.5)
    axes.axhline(0, color=NEUTRAL, lw=0.8)
    for baseline, gain in data.groupby("baseline"):
        style, number = look(str(baseline)), gain["attentions"]
        label = f"DCT − {name_of(str(baseline))}"
        axes.plot(
            number, 100 * gain["difference"], "-", marker=style.marker, c=style.colour, label=label
        )
        band = 100 * gain["low"], 100 * gain["high"]
        axes.fill_between(number, *band, color=style.colour, alpha=0.15, lw=0)
    axes.set_xticks(sorted(set(data["attentions"])))
    axes.set(xlabel="attentions (objects that define a class)", ylabel="gain in top-1 (points)")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


@figure_style()
def architecture_gain(table: pd.DataFrame) -> Figure:
    """Gain of each method over the student alone, a colour a pair of teacher and student."""
    data = shown(figure_tables.architecture_gain(table))
    pairs = list(dict.fromkeys(zip(data["teacher"], data["student"], strict=True)))
    order = list(data.groupby("method")["difference"].mean().sort_values().index)
    figure, (axes,) = new_figure(COLUMN, 1.0 + 1.25 * rows_height(len(order)))
    no_difference(axes, 100 * smallest_effect("top1"))
    for number, (teacher, student) in enumerate(pairs):
        (colour, marker), shift = PAIRS[number % len(PAIRS)], 0.5 * (number + 0.5) / len(pairs)
        own = data[data["student"] == student].set_index("method")
        for row, method in enumerate(order):
            if method in own.index:
                mean, low, high = 100 * own.loc[method, ["difference", "low", "high"]].astype(float)
                place = row + 0.25 - shift
                axes.plot([low, high], [place, place], c=colour, lw=1.2)
                axes.plot(mean, place, marker, c=colour, ms=4)
        axes.add_line(Line2D([], [], c=colour, marker=marker, label=f"{teacher} → {student}"))
    named_rows(axes, [name_of(method) for method in order])
    axes.set_xlabel("gain in top-1 over the student alone (points)")
    figure.legend(loc="outside upper center", ncols=1)
    return figure
