"""Methods compared by their accuracy."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from kdlib.errors import KdlibError
from study.figures.style import (
    COLUMN,
    NEUTRAL,
    PALETTE,
    ROW,
    TEACHER_COLOUR,
    curve,
    dot,
    figure_style,
    legend,
    look,
    methods_of,
    name_of,
    named_rows,
    new_figure,
    no_difference,
    reference,
    rows_height,
    seeds_text,
    shown,
)
from study.names import difference_name
from study.records import load_histories, student_settings, teacher_runs
from study.statistics import (
    claims_table,
    paired_comparison,
    paired_values,
    smallest_effect,
    t_interval,
)

# What the tables of the figures have in common.
# What a reader can tell apart in one panel; the other methods are in the tables.
KEY_METHODS = (
    "student", "kd", "at", "at_equal_scale", "release_a", "parseval_twin", "dct", "dct+kd",
)  # fmt: skip


def students_of(table: pd.DataFrame) -> pd.DataFrame:
    """The runs of the table's one student setting.

    Raises:
        KdlibError: there are several settings.
    """
    settings = student_settings(table)
    if len(settings) > 1:
        raise KdlibError("The runs have several settings; choose one by its 'setting'.")
    return table[table["setting"].isin(settings)]


def without_variants(students: pd.DataFrame) -> pd.DataFrame:
    """Runs without FRSKD's variants, for which it stands itself.

    They are notebook 10's, and what the published weights do to so short a training would leave
    the other methods no room on an axis.
    """
    return students[~students["method"].str.startswith("frskd_")]


def with_teacher_label(table: pd.DataFrame, methods: Sequence[str], file: str) -> pd.DataFrame:
    """The chosen methods' runs that have a file, and their teachers' labelled ``teacher``.

    Of the table's one setting; empty without such a student, for a teacher alone, which other
    students may have had too, is no comparison.
    """
    students = students_of(table)
    kept = students["directory"].map(lambda directory: (Path(directory) / file).exists())
    chosen = students[students["label"].isin(methods) & kept.astype(bool)]
    if chosen.empty:
        return chosen
    teachers = teacher_runs(table, chosen["setting"].iloc[0]).assign(label="teacher")
    return pd.concat([teachers, chosen])


def with_interval(rows: pd.DataFrame, keys: list[str], column: str) -> pd.DataFrame:
    """Mean of a column in each group with its 95 % interval (missing with one value) and n."""
    found = []
    for key, values in rows.groupby(keys)[column]:
        low, high = t_interval(values.to_numpy(float))
        identity = dict(zip(keys, key, strict=True))
        found.append(
            {**identity, "mean": values.mean(), "low": low, "high": high, "n": len(values)}
        )
    return pd.DataFrame(found)


# Methods compared by their accuracy.
NOISE_PAIR = ("dct", "parseval_twin")
GAUGED = (NOISE_PAIR, ("dct", "at_equal_scale"), ("dct", "release_a"), ("dct", "at"), ("dct", "kd"))
GAINS = (("dct", "at"), ("dct", "student"))


def method_accuracy_table(table: pd.DataFrame) -> pd.DataFrame:
    """A row a run: ``label``, ``init_seed``, ``top1``, and its method's ``mean, low, high, n``."""
    students = without_variants(students_of(table))
    if students["label"].nunique() < 2:
        return pd.DataFrame()
    teachers = teacher_runs(table, students["setting"].iloc[0]).assign(label="teacher")
    runs = pd.concat([students, teachers])[["label", "init_seed", "top1"]]
    return runs.merge(with_interval(runs, ["label"], "top1"), on="label")


def paired_differences_table(table: pd.DataFrame) -> pd.DataFrame:
    """A row a claim about top-1, as :func:`study.statistics.claims_table` judges it."""
    claims = claims_table(table)
    if claims.empty:
        return claims
    return claims[(claims["metric"] == "top1") & (claims["n"] > 1)].reset_index(drop=True)


def training_curves_table(
    table: pd.DataFrame, methods: Sequence[str] = KEY_METHODS
) -> pd.DataFrame:
    """``label``, ``epoch``; ``mean``, ``low`` and ``high`` (extremes) of monitored accuracy."""
    students = students_of(table)
    chosen = students[students["label"].isin(methods)]
    if chosen.empty:
        return pd.DataFrame()
    groups = load_histories(chosen).groupby(["label", "epoch"])["accuracy"]
    return groups.agg(mean="mean", low="min", high="max", n="size").reset_index()


def noise_gauge_table(table: pd.DataFrame) -> pd.DataFrame:
    """Differences of DCT, seed by seed, to its twin (nothing but noise) and to its rivals.

    Columns: ``pair``, ``init_seed``, ``difference``, ``noise``: the mean difference that this
    many seeds can resolve, from the scatter of DCT against its twin.
    """
    runs = students_of(table)
    pairs = [pair for pair in GAUGED if set(pair) <= set(runs["label"])]
    if NOISE_PAIR not in pairs or (noise := paired_comparison(runs, *NOISE_PAIR)).n < 2:
        return pd.DataFrame()
    found = []
    for method, baseline in pairs:
        values = paired_values(runs, method, baseline, "top1").reset_index()
        difference = values[method] - values[baseline]
        found.append(
            values[["init_seed"]].assign(pair=f"{method} {baseline}", difference=difference)
        )
    return pd.concat(found, ignore_index=True).assign(noise=noise.resolvable)


def attentions_gain_table(table: pd.DataFrame) -> pd.DataFrame:
    """Gain of DCT over AT and over the student alone, in every setting that has both.

    Columns: ``attentions``, those of :class:`study.statistics.Comparison`. Empty with fewer
    than two values of ``attentions``.
    """
    rows = []
    for setting in student_settings(table):
        runs = table[table["setting"] == setting]
        for pair in GAINS:
            if set(pair) <= set(runs["label"]):
                found = vars(paired_comparison(runs, *pair))
                rows.append({"attentions": int(runs["attentions"].iloc[0]), **found})
    gains = pd.DataFrame(rows)
    if gains.empty or gains["attentions"].nunique() < 2:
        return pd.DataFrame()
    return gains.sort_values(["baseline", "attentions"]).reset_index(drop=True)


def architecture_gain_table(table: pd.DataFrame) -> pd.DataFrame:
    """Gain of each method over the student alone, for students of several architectures.

    Columns: ``student`` and ``teacher`` (networks), those of
    :class:`study.statistics.Comparison`. Methods that one architecture alone has are left out,
    and all are where there is but one.
    """
    rows = []
    for setting in student_settings(table):
        runs = table[table["setting"] == setting]
        taught = [label for label in dict.fromkeys(runs["label"]) if label != "student"]
        for label in taught if "student" in set(runs["label"]) else []:
            networks = runs.loc[runs["label"] == label, ["student", "teacher"]].iloc[0]
            rows.append({**networks, **vars(paired_comparison(runs, label, "student"))})
    gains = pd.DataFrame(rows, columns=["student", "teacher", "method", "n"] if not rows else None)
    gains = gains[gains["n"] > 0]
    networks = gains.groupby("method")["student"].transform("nunique")
    return gains[networks > 1].reset_index(drop=True)


WITH_KD = "+kd"
PAIRS = ((PALETTE[0], "o"), (PALETTE[1], "D"), (PALETTE[2], "s"), (PALETTE[4], "^"))


@figure_style()
def method_accuracy(table: pd.DataFrame) -> Figure:
    """Top-1 of each method: mean with 95 % interval, seeds as small points, best on top.

    A method alone (filled) and with KD (hollow) share a row, by whose method alone rows are sorted.
    """
    data = shown(method_accuracy_table(table))
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
    data = shown(paired_differences_table(table))[::-1]
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
    data = shown(training_curves_table(table))
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
    data = shown(noise_gauge_table(table))
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
    data = shown(attentions_gain_table(table))
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
    data = shown(architecture_gain_table(table))
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
