"""What the tables of the figures have in common."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from kdlib.comparisons import t_interval
from kdlib.errors import KdlibError
from kdlib.run_table import student_settings, teacher_runs

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
