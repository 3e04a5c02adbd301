"""Methods compared by their accuracy."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from study.figures import style, tables
from study.figures.style import COLUMN, ROW, drawn_from, new_figure
from study.names import NEUTRAL, PALETTE, TEACHER_COLOUR, difference_name, look, name_of
from study.records import load_histories, student_settings
from study.statistics import paired_comparison, paired_values, smallest_effect, verdicts

NOISE_PAIR = ("dct", "parseval_twin")
GAUGED = (NOISE_PAIR, ("dct", "at_equal_scale"), ("dct", "release_a"), ("dct", "at"), ("dct", "kd"))
PAIRS = ((PALETTE[0], "o"), (PALETTE[1], "D"), (PALETTE[2], "s"), (PALETTE[4], "^"))


def method_accuracy_table(table: pd.DataFrame) -> pd.DataFrame:
    """A row a run: ``label``, ``init_seed``, ``top1``, and its method's ``mean, low, high, n``."""
    students = tables.without_variants(tables.students_of(table))
    if students["label"].nunique() < 2:
        return pd.DataFrame()
    runs = tables.with_teacher_label(table, students)
    means = tables.with_interval(runs, ["label"], "top1")
    return runs[["label", "init_seed", "top1"]].merge(means, on="label")


@drawn_from(method_accuracy_table)
def method_accuracy(data: pd.DataFrame) -> Figure:
    """Top-1 of each method: mean with 95 % interval, seeds as small points, best on top.

    A method alone (filled) and with KD (hollow) share a row, by whose method alone rows are sorted.
    """
    students = data[data["label"] != "teacher"].sort_values("label")
    alone = students["label"].str.replace("+kd", "", regex=False)
    order = list(students.groupby(alone)["mean"].first().sort_values().index)
    figure, (axes,) = new_figure(COLUMN, 0.7 + style.rows_height(len(order)))
    for label, colour in (("teacher", TEACHER_COLOUR), ("student", NEUTRAL)):
        for mean in data.loc[data["label"] == label, "mean"].head(1):
            axes.axvline(100 * mean, color=colour, ls="--", lw=0.9)
            axes.annotate(
                label, (100 * mean, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 2),
                textcoords="offset points", ha="center", fontsize=7, color=colour,
            )  # fmt: skip
    for label, runs in students.groupby("label"):
        row = order.index(label.replace("+kd", ""))
        style.seed_points(axes, label, runs["top1"], row)
        style.dot(axes, label, style.percent(runs.iloc[0], "mean"), row)
    style.named_rows(axes, [name_of(label) for label in order])
    axes.set_xlabel(f"top-1 accuracy (%)\nhollow: with KD\n{style.seeds_text(students)}")
    return figure


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
    for row, verdict in enumerate(claims["verdict"]):
        beside = ("axes fraction", "data")
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
    """DCT less its twin (nothing but noise), and less its rivals, seed by seed.

    Columns: ``pair``, ``init_seed``, ``difference``, ``noise``: the mean difference that this
    many seeds can resolve, from the scatter of DCT against its twin.
    """
    runs = tables.students_of(table)
    pairs = [pair for pair in GAUGED if set(pair) <= set(runs["label"])]
    if NOISE_PAIR not in pairs or (noise := paired_comparison(runs, *NOISE_PAIR)).n < 2:
        return pd.DataFrame()
    found = []
    for pair in pairs:
        values = paired_values(runs, *pair, "top1").reset_index()
        difference = values[pair[0]] - values[pair[1]]
        found.append(values[["init_seed"]].assign(pair=" ".join(pair), difference=difference))
    return pd.concat(found, ignore_index=True).assign(noise=noise.resolvable)


@drawn_from(noise_gauge_table)
def noise_gauge(data: pd.DataFrame) -> Figure:
    """DCT against its twin, which differs in nothing but noise, beside DCT against its rivals.

    The band is the mean difference that so many seeds could tell from noise.
    """
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
    """``attentions`` and the gain of DCT over AT and over the student alone, in every setting.

    Empty with fewer than two values of ``attentions``.
    """
    rows: list[dict] = []
    for setting in student_settings(table):
        runs = table[table["setting"] == setting]
        number = int(runs["attentions"].iloc[0])
        rows += tables.gains(runs, (("dct", "at"), ("dct", "student")), attentions=number)
    found = pd.DataFrame(rows)
    if found.empty or found["attentions"].nunique() < 2:
        return pd.DataFrame()
    return found.sort_values(["baseline", "attentions"]).reset_index(drop=True)


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


def architecture_gain_table(table: pd.DataFrame) -> pd.DataFrame:
    """Networks ``student`` and ``teacher``, and the gain of each method over the student alone.

    Methods that one architecture alone has are left out.
    """
    rows: list[dict] = []
    for setting in student_settings(table):
        runs = table[table["setting"] == setting]
        for label, own in runs[runs["label"] != "student"].groupby("label", sort=False):
            networks = own.iloc[0][["student", "teacher"]]
            rows += tables.gains(runs, [(label, "student")], **networks)
    found = pd.DataFrame(rows, columns=None if rows else ["student", "method"])
    networks = found.groupby("method")["student"].transform("nunique")
    return found[networks > 1].reset_index(drop=True)


@drawn_from(architecture_gain_table)
def architecture_gain(data: pd.DataFrame) -> Figure:
    """Gain of each method over the student alone, a colour a pair of teacher and student."""
    order = data.groupby("method")["difference"].mean().rank(method="first") - 1
    figure, (axes,) = new_figure(COLUMN, 1.0 + 1.25 * style.rows_height(len(order)))
    style.no_difference(axes, smallest_effect("top1"))
    pairs = data.groupby(["teacher", "student"], sort=False)
    for number, (pair, own) in enumerate(pairs):
        places = own["method"].map(order) + 0.25 - 0.5 * (number + 0.5) / len(pairs)
        style.forest_series(axes, places, own, PAIRS[number % len(PAIRS)], " → ".join(pair))
    style.named_rows(axes, [name_of(method) for method in order.sort_values().index])
    axes.set_xlabel("gain in top-1 over the student alone (points)")
    figure.legend(loc="outside upper center", ncols=1)
    return figure
