"""What each figure shows, as the table that it is drawn from.

One function a figure, of the same name. Each takes runs of :func:`kdlib.run_table.load_records`
(of one setting, but for :func:`attentions_gain`) and returns a tidy table that is empty where
the runs have nothing to show. Accuracies and shares are fractions.
"""

from collections.abc import Sequence

import pandas as pd

from kdlib.comparisons import claims_table, paired_comparison, paired_values, t_interval
from kdlib.errors import KdlibError
from kdlib.run_table import load_histories, stage_table, student_settings, teacher_runs

# What a reader can tell apart in one panel; the other methods are in the tables.
KEY_METHODS = (
    "student", "kd", "at", "at_equal_scale", "release_a", "parseval_twin", "dct", "dct+kd",
)  # fmt: skip
NOISE_PAIR = ("dct", "parseval_twin")
GAUGED = (NOISE_PAIR, ("dct", "at_equal_scale"), ("dct", "release_a"), ("dct", "at"), ("dct", "kd"))
GAINS = (("dct", "at"), ("dct", "student"))


def method_accuracy(table: pd.DataFrame) -> pd.DataFrame:
    """A row a run: ``label``, ``init_seed``, ``top1``, and its method's ``mean, low, high, n``."""
    students = _students(table)
    if students["label"].nunique() < 2:
        return pd.DataFrame()
    teachers = teacher_runs(table, students["setting"].iloc[0]).assign(label="teacher")
    runs = pd.concat([students, teachers])[["label", "init_seed", "top1"]]
    return runs.merge(_with_interval(runs, ["label"], "top1"), on="label")


def paired_differences(table: pd.DataFrame) -> pd.DataFrame:
    """A row a claim about top-1, as :func:`kdlib.comparisons.claims_table` judges it."""
    claims = claims_table(table)
    if claims.empty:
        return claims
    return claims[(claims["metric"] == "top1") & (claims["n"] > 1)].reset_index(drop=True)


def ssim_by_stage(table: pd.DataFrame, methods: Sequence[str] = KEY_METHODS) -> pd.DataFrame:
    """SSIM to the teacher's map: ``label``, ``stage``, ``mean``, ``low``, ``high``, ``n``."""
    return _by_stage(table, methods, ("ssim",))


def relevance_by_stage(table: pd.DataFrame, methods: Sequence[str] = KEY_METHODS) -> pd.DataFrame:
    """As :func:`ssim_by_stage`, for both relevance measures, the teacher's too, with ``chance``."""
    return _by_stage(table, methods, ("energy_share", "pointing"))


def training_curves(table: pd.DataFrame, methods: Sequence[str] = KEY_METHODS) -> pd.DataFrame:
    """``label``, ``epoch``; ``mean``, ``low`` and ``high`` (extremes) of monitored accuracy."""
    students = _students(table)
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
    runs = _students(table)
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


def _students(table: pd.DataFrame) -> pd.DataFrame:
    """The runs of the table's one student setting."""
    settings = student_settings(table)
    if len(settings) > 1:
        raise KdlibError("The runs have several settings; choose one by its 'setting'.")
    return table[table["setting"].isin(settings)]


def _by_stage(table: pd.DataFrame, methods: Sequence[str], measures: Sequence[str]) -> pd.DataFrame:
    stages = stage_table(_students(table))
    chosen = stages[stages["measure"].isin(measures) & stages["label"].isin(methods)]
    # Every student's record repeats its teacher's measures; one run's are enough.
    theirs = chosen[chosen["network"] == "teacher"].assign(label="teacher")
    theirs = theirs.drop_duplicates(["measure", "stage", "value"])
    rows = pd.concat([chosen[chosen["network"] == "student"], theirs])
    if rows.empty:
        return pd.DataFrame()
    keys = ["measure", "label", "stage"]
    return _with_interval(rows, keys, "value").assign(chance=rows["chance"].mean())


def _with_interval(rows: pd.DataFrame, keys: list[str], column: str) -> pd.DataFrame:
    """Mean of a column in each group with its 95 % interval (missing with one value) and n."""
    found = []
    for key, values in rows.groupby(keys)[column]:
        low, high = t_interval(values.to_numpy(float))
        identity = dict(zip(keys, key, strict=True))
        found.append(
            {**identity, "mean": values.mean(), "low": low, "high": high, "n": len(values)}
        )
    return pd.DataFrame(found)
