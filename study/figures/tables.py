"""What the tables of the figures have in common: which runs, means and their intervals, gains."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from kdlib.errors import KdlibError
from study.analyses import ANALYSIS_FILE
from study.analyses import KEY_METHODS as ANALYSED
from study.analyses.files import analyses_of, has_file
from study.records import student_settings, teacher_runs
from study.statistics import t_interval

# What a reader can tell apart in one panel; the other methods are in the tables.
KEY_METHODS = (
    "student", "kd", "at", "parseval_twin", "dct", "release_a", "release_a+gate", "at+kd",
    "release_a+gate+kd",
)  # fmt: skip
Rows = Iterable[dict[str, Any]]


def students_of(table: pd.DataFrame) -> pd.DataFrame:
    """The runs of the table's one student setting; a KdlibError if there are several settings."""
    settings = student_settings(table)
    if len(settings) > 1:
        raise KdlibError("The runs have several settings; choose one by its 'setting'.")
    return table[table["setting"].isin(settings)]


def having(file: str, runs: pd.DataFrame) -> pd.DataFrame:
    """Those of the runs that have a file of their analysis."""
    kept = runs["directory"].map(lambda directory: has_file(directory, file))
    return runs[kept.astype(bool)]


def analysed(file: str, table: pd.DataFrame, methods: Sequence[str]) -> pd.DataFrame:
    """The methods' runs and their teachers that have a file; none without such a student."""
    students = students_of(table)
    students = having(file, students[students["label"].isin(methods)])
    teachers = (teacher_runs(table, setting) for setting in students["setting"].head(1))
    return having(file, pd.concat([students, *(one.assign(label="teacher") for one in teachers)]))


def first_runs(file: str, table: pd.DataFrame, methods: Sequence[str]) -> dict[str, Path]:
    """The directory of each method's run of the first seed that has a file, in their order."""
    runs = analysed(file, table, methods)
    runs = runs.sort_values(["init_seed", "teacher_seed"], kind="stable")
    first = runs.drop_duplicates("label").set_index("label")["directory"]
    return {label: Path(first[label]) for label in methods if label in first}


def from_analyses(
    table: pd.DataFrame,
    rows_of: Callable[[Mapping[str, Any]], Rows],
    methods: Sequence[str] = ANALYSED,
) -> pd.DataFrame:
    """The rows that ``rows_of`` makes of each run's analysis, with the run's ``label``."""
    runs = analysed(ANALYSIS_FILE, table, methods)
    pairs = ((run, row) for run, analysis in analyses_of(runs) for row in rows_of(analysis))
    return pd.DataFrame([{"label": run["label"], **row} for run, row in pairs])


def with_interval(rows: pd.DataFrame, keys: list[str], column: str) -> pd.DataFrame:
    """``mean`` of a column in each group, its 95 % interval (missing with one value) and ``n``."""
    found = []
    for key, values in rows.groupby(keys)[column] if len(rows) else ():
        low, high = t_interval(values.to_numpy(float))
        found.append([*key, values.mean(), low, high, len(values)])
    return pd.DataFrame(found, columns=[*keys, "mean", "low", "high", "n"] if found else None)


def in_order(rows: pd.DataFrame, column: str, order: Sequence[str], *then: str) -> pd.DataFrame:
    """Rows sorted by the place of a column's value in ``order``, ``then`` by other columns."""
    placed = rows.assign(**{column: pd.Categorical(rows[column], order)})
    return rows.loc[placed.sort_values([column, *then], kind="stable").index]
