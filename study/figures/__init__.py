"""Figures from records: each a pair of functions, one that makes the table, one that draws it."""

from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

from kdlib.runs import RunConfig
from study import named
from study.profiles import expand
from study.records import SEEDS, VARIANT, load_records, student_settings, with_teachers

if TYPE_CHECKING:
    from study.figures.style import Drawing


class Entry(NamedTuple):
    """Where a figure is, and the runs that one such figure is drawn from."""

    module: str
    split: str = "train"  # judged by the test set; dev: those that chose weights
    free: tuple[str, ...] = ()  # fields in which the runs may differ; none: runs of one setting
    task: str = "classification"
    profiles: tuple[str, ...] = ()  # of the study: all their runs are one figure's


TUPLES = ("free", "profiles")
FIGURES = {
    name: Entry(**{**entry, **{one: tuple(entry.get(one, ())) for one in TUPLES}})
    for name, entry in named("figures/figures.yaml").items()
}


def figure_named(name: str) -> "Drawing":
    """One of :data:`FIGURES`: called with runs it draws; its ``table`` makes what it draws."""
    return resolve_name(f"study.figures.{FIGURES[name].module}:{name}")


def draw_all(records_root: Path, out: Path) -> list[Path]:
    """Draw every figure of every setting that has something to show into ``out``.

    Names are ``figure-dataset-a2``, with the student's network where it is not the usual one,
    and with the setting's hash where two settings would still share a name. Returns the files
    written: pdf, png and provenance of each figure.
    """
    from study.figures.style import figure_provenance, save_figure

    written = []
    for name, slug, runs in drawings(load_records(records_root, task=None)):
        figure = figure_named(name)
        data = figure.table(runs)
        if not data.empty:
            path = Path(out) / f"{name}-{slug}"
            written += save_figure(figure.of(data), path, figure_provenance(runs, data))
    return written


def drawings(table: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Name, file name's end and runs of every figure that might be drawn from a table of runs."""
    yield from _of_study(table)
    for scope in dict.fromkeys(entry[1:] for entry in FIGURES.values() if not entry.profiles):
        split, free, task, _ = scope
        own = table[(table["split"] == split) & (table["task"] == task)]
        students = own[own["setting"].isin(student_settings(own))]
        for slug, group in _slugs(students, free):
            runs = with_teachers(own, group)
            yield from ((name, slug, runs) for name in FIGURES if FIGURES[name][1:] == scope)


def _of_study(table: pd.DataFrame) -> Iterator[tuple[str, str, pd.DataFrame]]:
    for name, entry in FIGURES.items():
        planned = {run.run_id for one in entry.profiles for run in expand(one)}
        if len(students := table[table["run_id"].isin(planned)]):
            yield name, "study", with_teachers(table, students)


def _slugs(students: pd.DataFrame, free: tuple[str, ...]) -> Iterator[tuple[str, pd.DataFrame]]:
    """Runs that agree in all settings but those that are free, with a name for their files."""
    if students.empty:
        return
    columns = [*students.columns[: students.columns.get_loc("top1")], "setting"]
    own = {"method", *VARIANT, *SEEDS, *free, *(["setting"] if free else [])}
    groups = students.groupby([c for c in columns if c not in own], dropna=False)
    # Students that nobody taught have nothing beside them, and take no name away from others.
    taught = [group for _, group in groups if (group["teacher"] != "none").any()]
    slugs = []
    for first in (group.iloc[0] for group in taught):
        parts = [first["dataset"]]
        if "attentions" not in free:
            parts.append(f"a{first['attentions']}")
        if "student" not in free and first["student"] != RunConfig().student:
            parts.append(first["student"])
        slugs.append("-".join(parts))
    for slug, group in zip(slugs, taught, strict=True):
        yield slug if slugs.count(slug) == 1 else f"{slug}-{group['setting'].iloc[0]}", group
