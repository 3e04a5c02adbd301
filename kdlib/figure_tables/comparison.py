"""Methods compared by their accuracy."""

from collections.abc import Sequence

import pandas as pd

from kdlib.comparisons import claims_table, paired_comparison, paired_values
from kdlib.figure_tables.common import KEY_METHODS, students_of, with_interval, without_variants
from kdlib.run_table import load_histories, student_settings, teacher_runs

NOISE_PAIR = ("dct", "parseval_twin")
GAUGED = (NOISE_PAIR, ("dct", "at_equal_scale"), ("dct", "release_a"), ("dct", "at"), ("dct", "kd"))
GAINS = (("dct", "at"), ("dct", "student"))


def method_accuracy(table: pd.DataFrame) -> pd.DataFrame:
    """A row a run: ``label``, ``init_seed``, ``top1``, and its method's ``mean, low, high, n``."""
    students = without_variants(students_of(table))
    if students["label"].nunique() < 2:
        return pd.DataFrame()
    teachers = teacher_runs(table, students["setting"].iloc[0]).assign(label="teacher")
    runs = pd.concat([students, teachers])[["label", "init_seed", "top1"]]
    return runs.merge(with_interval(runs, ["label"], "top1"), on="label")


def paired_differences(table: pd.DataFrame) -> pd.DataFrame:
    """A row a claim about top-1, as :func:`kdlib.comparisons.claims_table` judges it."""
    claims = claims_table(table)
    if claims.empty:
        return claims
    return claims[(claims["metric"] == "top1") & (claims["n"] > 1)].reset_index(drop=True)


def training_curves(table: pd.DataFrame, methods: Sequence[str] = KEY_METHODS) -> pd.DataFrame:
    """``label``, ``epoch``; ``mean``, ``low`` and ``high`` (extremes) of monitored accuracy."""
    students = students_of(table)
    chosen = students[students["label"].isin(methods)]
    if chosen.empty:
        return pd.DataFrame()
    groups = load_histories(chosen).groupby(["label", "epoch"])["accuracy"]
    return groups.agg(mean="mean", low="min", high="max", n="size").reset_index()


def noise_gauge(table: pd.DataFrame) -> pd.DataFrame:
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


def attentions_gain(table: pd.DataFrame) -> pd.DataFrame:
    """Gain of DCT over AT and over the student alone, in every setting that has both.

    Columns: ``attentions``, those of :class:`kdlib.comparisons.Comparison`. Empty with fewer
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


def architecture_gain(table: pd.DataFrame) -> pd.DataFrame:
    """Gain of each method over the student alone, for students of several architectures.

    Columns: ``student`` and ``teacher`` (networks), those of
    :class:`kdlib.comparisons.Comparison`. Methods that one architecture alone has are left out,
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
