"""Every figure that a folder of records can show, on disk."""

from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from kdlib import figure_tables
from kdlib.figure_files import figure_provenance, save_figure
from kdlib.figures.registry import FIGURES, SCOPES, SETTING, Scope
from kdlib.run_table import SEEDS, VARIANT, load_records, recorded_tasks, student_settings
from kdlib.runs import RunConfig
from kdlib.selection import with_teachers


def draw_all(records_root: Path, out: Path) -> list[Path]:
    """Draw every figure of every setting that has something to show into ``out``.

    Names are ``figure-dataset-a2``, with the student's network where it is not the usual one,
    and with the setting's hash where two settings would still share a name.

    Returns:
        The files written: pdf, png and provenance of each figure.

    Raises:
        KdlibError: no records, or a damaged one.
    """
    tasks = {scope.task for scope in (SETTING, *SCOPES.values())}
    found = [task for task in recorded_tasks(records_root) if task in tasks]
    written = []
    for task in found or [SETTING.task]:  # which there is no record of, and that is told
        for name, slug, runs in drawings(load_records(records_root, task=task), task):
            drawn = getattr(figure_tables, name)(runs)
            if not drawn.empty:
                provenance, path = figure_provenance(runs, drawn), Path(out) / f"{name}-{slug}"
                written += save_figure(FIGURES[name](runs), path, provenance)
    return written


def drawings(
    table: pd.DataFrame, task: str = SETTING.task
) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Name, file name's end and runs of every figure of a task that might be drawn."""
    scopes = dict.fromkeys([SETTING, *SCOPES.values()])
    for scope in [scope for scope in scopes if scope.task == task]:
        names = [name for name in FIGURES if SCOPES.get(name, SETTING) == scope]
        of_split = table[table["split"] == scope.split]
        students = of_split[of_split["setting"].isin(student_settings(of_split))]
        for slug, group in _slugs(students, scope):
            runs = with_teachers(of_split, group)
            for name in names:
                yield name, slug, runs


def _slugs(students: pd.DataFrame, scope: Scope) -> Iterator[tuple[str, pd.DataFrame]]:
    """Runs that agree in all settings but those that are free, with a name for their files."""
    if students.empty:
        return
    free = {*scope.free, "setting"} if scope.free else set()
    columns = [*students.columns[: students.columns.get_loc("top1")], "setting"]
    own = {"method", *VARIANT, *SEEDS, *free}
    groups = students.groupby([c for c in columns if c not in own], dropna=False)
    # Students that nobody taught have nothing beside them, and take no name away from others.
    taught = [group for _, group in groups if (group["teacher"] != "none").any()]
    slugs = [(_slug(group, scope), group) for group in taught]
    taken = [slug for slug, _ in slugs]
    for slug, group in slugs:
        unique = taken.count(slug) == 1
        yield slug if unique else f"{slug}-{group['setting'].iloc[0]}", group


def _slug(group: pd.DataFrame, scope: Scope) -> str:
    first = group.iloc[0]
    parts = [first["dataset"]]
    if "attentions" not in scope.free:
        parts.append(f"a{first['attentions']}")
    if "student" not in scope.free and first["student"] != RunConfig().student:
        parts.append(first["student"])
    return "-".join(parts)
