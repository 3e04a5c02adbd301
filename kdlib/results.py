"""Results of runs: what the notebooks, the command line and the README read.

Records lie in :mod:`kdlib.records`, the table of runs in :mod:`kdlib.run_table`, the statistics
in :mod:`kdlib.comparisons`, the text in :mod:`kdlib.markdown`; this gathers them.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from kdlib.comparisons import (
    CLAIMS,
    Claim,
    claims_table,
    compare,
    paired_comparison,
    paired_values,
    smallest_resolvable_difference,
    verdict,
)
from kdlib.detection.claims import FAMILIES as DETECTOR_FAMILIES
from kdlib.detection.claims import verdicts as detector_verdicts
from kdlib.detection.teachers import teachers_markdown
from kdlib.errors import KdlibError
from kdlib.markdown import (
    check_block,
    claims_markdown,
    comparison_markdown,
    summary_markdown,
    update_block,
)
from kdlib.profiles import expand
from kdlib.records import find_records, publish, validate_record
from kdlib.refinement import PIXEL_CLAIMS
from kdlib.run_table import (
    describe_setting,
    load_histories,
    load_records,
    recorded_tasks,
    stage_table,
    student_settings,
    summary_table,
    teacher_runs,
)

__all__ = [
    "CLAIMS",
    "Claim",
    "check_block",
    "claims_markdown",
    "claims_table",
    "compare",
    "comparison_markdown",
    "describe_setting",
    "find_records",
    "load_histories",
    "load_records",
    "of_profile",
    "paired_comparison",
    "paired_values",
    "print_results",
    "publish",
    "recorded_tasks",
    "smallest_resolvable_difference",
    "stage_table",
    "student_settings",
    "summary_markdown",
    "summary_table",
    "teacher_runs",
    "update_block",
    "validate_record",
    "verdict",
]


def of_profile(
    table: pd.DataFrame, profile: str, epochs: int | None = None, images: int | None = None
) -> pd.DataFrame:
    """The runs of a profile and their teachers, whichever methods and seeds were asked for.

    Args:
        table: runs.
        profile: name of the profile.
        epochs: of students and teachers, if the profile was cut to so many.
        images: of the training set, if the profile was cut to so many.

    Raises:
        KdlibError: no such profile, or none of its runs is in the table.
    """
    chosen = _finished_of(table, profile, epochs, images)
    _check_any([chosen], profile)
    return chosen


def _finished_of(
    table: pd.DataFrame, profile: str, epochs: int | None = None, images: int | None = None
) -> pd.DataFrame:
    methods, seeds = sorted(set(table["method"])), sorted(set(table["init_seed"]))
    runs = [
        run
        for dataset in sorted(set(table["dataset"]))
        for some, of in ((None, None), (methods, seeds))
        for run in expand(profile, dataset, some, of, epochs, images)
    ]
    names = {run.run_id for run in runs}
    names |= {run.teacher_config().run_id for run in runs if run.teacher != "none"}
    return table[table["run_id"].isin(names)]


def _check_any(tables: Iterable[pd.DataFrame], profile: str) -> None:
    if all(table.empty for table in tables):
        raise KdlibError(f"No run of profile '{profile}' is finished; make reproduce runs it.")


def print_results(roots: list[Path], profile: str | None = None, **cut: int | None) -> None:
    """Print the summary of each setting and the verdicts on the claims, as markdown.

    Tasks have tables of their own: classification first, then what else the records hold.

    Args:
        roots: folders of runs or records.
        profile: show only its runs.
        **cut: epochs and images, if the profile was cut to so many.
    """
    tables = {task: load_records(*roots, task=task) for task in recorded_tasks(*roots)}
    if profile is not None:
        tables = {task: _finished_of(table, profile, **cut) for task, table in tables.items()}
        _check_any(tables.values(), profile)
    for task, chosen in tables.items():
        if len(chosen):
            print("\n".join(PRINTED.get(task, _printed)(chosen)))


def _printed(table: pd.DataFrame) -> Iterator[str]:
    yield summary_markdown(summary_table(table))
    claims = claims_table(table, (*CLAIMS, *PIXEL_CLAIMS))
    if len(claims):
        yield claims_markdown(claims)


def _printed_detectors(table: pd.DataFrame) -> Iterator[str]:
    yield summary_markdown(summary_table(table))
    for name, claims in DETECTOR_FAMILIES.items():
        judged = detector_verdicts(table, claims)
        if len(judged):
            yield f"{name}. {claims_markdown(judged)}"


def _printed_crops(table: pd.DataFrame) -> Iterator[str]:
    yield f"Classifiers that teach detectors:\n\n{teachers_markdown(table)}\n"


PRINTED = {"detection": _printed_detectors, "crops": _printed_crops}
"""What is printed of tasks that have other claims, or none."""
