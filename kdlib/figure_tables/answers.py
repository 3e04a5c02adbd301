"""Images that the teacher gets right and the student alone gets wrong: who learns them?"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from kdlib.analyses.answers import FILE, Answers, load_answers
from kdlib.figure_tables.common import with_teacher_label

ANSWERS_OF = ("teacher", "student", "kd", "at", "dct", "dct+kd")
SHOWN = 8


def correct_incorrect(table: pd.DataFrame, methods: Sequence[str] = ANSWERS_OF) -> pd.DataFrame:
    """Answers to the images that the teacher gets right and the student alone wrong; one seed.

    Columns: ``position`` (in the test set), ``true`` class, ``label``, ``run_id``, ``answer``,
    ``right``, ``shown`` (of the first eight, which the figure shows). Empty without the answers
    of teacher and student, or without such images.
    """
    runs = _with_answers(with_teacher_label(table, methods, FILE))
    if not {"teacher", "student"} <= set(runs):
        return pd.DataFrame()
    teacher, student = runs["teacher"][1], runs["student"][1]
    labels = teacher.labels
    chosen = ((teacher.answers == labels) & (student.answers != labels)).nonzero()[:, 0].tolist()
    rows = [
        {
            "position": place,
            "true": teacher.classes[int(labels[place])],
            "label": label,
            "run_id": run,
            "answer": teacher.classes[int(found.answers[place])],
            "right": bool(found.answers[place] == labels[place]),
            "shown": number < SHOWN and place < len(teacher.images),
        }
        for number, place in enumerate(chosen)
        for label, (run, found) in runs.items()
    ]
    return pd.DataFrame(rows)


def _with_answers(runs: pd.DataFrame) -> dict[str, tuple[str, Answers]]:
    """Of each label the first run that has its answers, in the order of ``ANSWERS_OF``."""
    found: dict[str, tuple[str, Answers]] = {}
    if runs.empty:
        return found
    for row in runs.sort_values("init_seed", kind="stable").to_dict("records"):
        directory = Path(row["directory"])
        if row["label"] not in found and (directory / FILE).exists():
            found[row["label"]] = row["run_id"], load_answers(directory)
    return {label: found[label] for label in ANSWERS_OF if label in found}
