"""Which runs a notebook reads: those of one setting, or of a sweep over ``attentions``.

A folder of runs may hold several settings of one data set (profiles, a reader's trials). The one
with the most runs is taken unless another is asked for; runs on the dev split never are.
"""

import pandas as pd

from kdlib.errors import KdlibError
from kdlib.run_table import SEEDS, VARIANT, describe_setting, student_settings, teacher_runs


def runs_of(
    table: pd.DataFrame, dataset: str, attentions: int, setting: str | None = None
) -> pd.DataFrame:
    """The students of one setting, and their teachers.

    Args:
        table: runs, from :func:`kdlib.run_table.load_records`.
        dataset: the data set.
        attentions: objects of its class that an image shows.
        setting: the hash of a setting; ``None`` for the one with the most runs.

    Raises:
        KdlibError: there are no such runs; lists the settings that there are.
    """
    students = _tested_students(table)
    found = students[(students["dataset"] == dataset) & (students["attentions"] == attentions)]
    if setting is not None:
        found = found[found["setting"] == setting]
    if found.empty:
        wanted = f"'{dataset}' with attentions {attentions}"
        wanted += f" and setting {setting}" if setting is not None else ""
        raise _nothing(table, students, wanted, dataset)
    return with_teachers(table, found[found["setting"] == _largest(found)])


def sweep_of(table: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """Students that differ in ``attentions``, method and seeds alone, and their teachers.

    Of several such sweeps, the one in which the most numbers of attentions have students with a
    teacher, then the one with the most runs: a batch that was stopped may have left teachers
    whose students are still to come, and they are no sweep.

    Raises:
        KdlibError: there are no runs of the data set; lists the settings that there are.
    """
    students = _tested_students(table)
    found = students[students["dataset"] == dataset]
    if found.empty:
        raise _nothing(table, students, f"'{dataset}'", dataset)
    config = found.columns[: found.columns.get_loc("top1")]
    free = {"method", "attentions", *VARIANT, *SEEDS}
    sweeps = found.groupby([c for c in config if c not in free], dropna=False)
    return with_teachers(table, max((rows for _, rows in sweeps), key=_reach))


def _reach(runs: pd.DataFrame) -> tuple[int, int]:
    """At how many numbers of attentions there are students with a teacher; how many runs."""
    return runs.loc[runs["teacher"] != "none", "attentions"].nunique(), len(runs)


def _tested_students(table: pd.DataFrame) -> pd.DataFrame:
    compared = table["setting"].isin(student_settings(table))
    return table[compared & (table["split"] == "train")]


def _largest(runs: pd.DataFrame) -> str:
    """The setting with the most runs; the first by its hash where two have as many."""
    return str(runs.groupby("setting").size().idxmax())


def with_teachers(table: pd.DataFrame, students: pd.DataFrame) -> pd.DataFrame:
    """Runs of ``students`` and, from ``table``, those of their teachers, each run once.

    A teacher of the students' own kind can be one of the students itself.
    """
    teachers = [teacher_runs(table, setting) for setting in sorted(set(students["setting"]))]
    return pd.concat([students, *teachers]).drop_duplicates("run_id").reset_index(drop=True)


def _nothing(table: pd.DataFrame, students: pd.DataFrame, wanted: str, dataset: str) -> KdlibError:
    names = sorted({f"{describe_setting(table, s)} ({s})" for s in set(students["setting"])})
    return KdlibError(
        f"These records have no run of {wanted} on the test set. They have: "
        f"{'; '.join(names) or 'none at all'}. To make them: make reproduce DATASET={dataset}"
    )
