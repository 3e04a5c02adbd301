"""What the table of runs says: as markdown, as sentences, and on the command line."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from kdlib.errors import KdlibError
from kdlib.tasks import TASKS
from study import records, statistics
from study.names import NAMED, name_of

SMALL_P = 0.001


# Numbers and tables as text.
def number(value: float, form: str) -> str:
    """A number in a format such as ``+.2f``; a dash where it is missing."""
    return "–" if pd.isna(value) else format(value, form)


def amount(value: float, metric: str, sign: str = "+", unit: str = " points") -> str:
    """A difference (a fraction) as it is written: in percentage points, or as it is (SSIM)."""
    if metric in (*records.METRICS, *records.OF_DETECTORS, "energy_share", "pointing"):
        return f"{number(100 * value, f'{sign}.2f')}{unit}"
    return number(value, f"{sign}.3f")


def metric_name(metric: str) -> str:
    """A column of a table as it is written in words."""
    return NAMED["metrics"].get(metric, metric.replace("_", " "))


def markdown_table(head: Sequence[str] | str, rows: Iterable[Any]) -> str:
    """A markdown table of rows of cells; or of mappings from a head, where ``head`` is "keys"."""
    return tabulate(list(rows), head, "github", disable_numparse=True) + "\n"


def check_texts(made: Iterable[tuple[Path, str]], command: str) -> None:
    """Refuse a file that is not what was made of the records; says its first line that differs."""
    for path, text in made:
        found = path.read_text(encoding="utf-8") if path.exists() else ""
        lines = zip_longest(found.splitlines(), text.splitlines(), fillvalue="(no line)")
        for place, (theirs, ours) in enumerate(lines, 1):
            if theirs != ours:
                raise KdlibError(
                    f"{path} differs from the records in its line {place}:\n  file:    {theirs}\n"
                    f"  records: {ours}\nTo make it: {command}"
                )


def summary_markdown(summary: pd.DataFrame) -> str:
    """A table for each setting of :func:`study.records.summary_table`; accuracies in percent."""
    groups = summary.groupby("description", sort=False)
    return "\n".join(f"**{name}**\n\n{_summary(rows)}" for name, rows in groups)


def _summary(rows: pd.DataFrame) -> str:
    heads = NAMED["columns"][rows["task"].iloc[0]]
    shown = [
        name for name in heads if name not in records.STAGE_MEASURES or rows[name].notna().any()
    ]
    body = []
    for row in rows.to_dict("records"):
        # A variant is called by what it changes, as in figures; a method as it is asked for.
        method = name_of(row["label"]) if " [" in row["label"] else row["label"]
        cells = {heads[name]: _share(row[name], name) for name in shown}
        body.append({"method": method, "n": row["n"], **cells})
    return markdown_table("keys", body)


def _share(value: float, name: str) -> str:
    if name == "ssim":
        return number(value, ".3f")
    return number(100 * value, ".2f" if name.endswith("_std") else ".1f")


def differences_markdown(rows: pd.DataFrame) -> str:
    """The table of :func:`study.statistics.differences`: in percentage points, or SSIM itself."""
    return markdown_table("keys", map(_difference, rows.to_dict("records")))


def _difference(row: Mapping[Any, Any]) -> dict[str, str]:
    metric = row["metric"]
    headline = metric in {measures.metric for measures in TASKS.values()}
    what = "" if headline else f", {metric_name(metric)}"
    low, high = (amount(row[end], metric, unit="") for end in ("low", "high"))
    return {
        "compared": f"{row['method']} − {row['baseline']}{what}", "n": row["n"],
        "difference": amount(row["difference"], metric, unit=""),
        "95 % interval": "–" if pd.isna(row["low"]) else f"{low} to {high}",
    }  # fmt: skip


def probability(p: float) -> str:
    """A p value as it is written."""
    return f"< {SMALL_P}" if pd.notna(p) and p < SMALL_P else number(p, ".3f")


def teachers_markdown(crops: pd.DataFrame) -> str:
    """How well the classifiers that teach detectors (runs of the task ``crops``) know objects."""
    groups = crops.groupby(["split", "dataset", "student", "crop_size", "setting"])
    head = ["crop classifier", "objects of", "crop size", "n", "top-1 %", "std"]
    rows = []
    for (split, dataset, student, size, _), top1 in groups["top1"]:
        where = dataset + (", dev split" if split == "dev" else "")
        shares = _share(top1.mean(), "top1"), _share(top1.std(), "top1_std")
        rows.append([student, where, size, len(top1), *shares])
    return markdown_table(head, rows)


# What ``kdlib results`` prints.
def print_results(roots: Sequence[Path], profile: str | None = None, **cut: int | None) -> None:
    """Print accuracies and differences, task by task; of a ``profile``, ``cut`` as it was.

    Of a profile the students alone of other epochs are rows of the table of the others.
    """
    tables = records.load_tables(*roots)
    if profile is not None:
        tables = {task: of_profile(table, profile, **cut) for task, table in tables.items()}
        tables = {task: records.longer_beside(own) for task, own in tables.items() if len(own)}
        if not tables:
            raise KdlibError(f"No run of profile '{profile}' is finished; make reproduce runs it.")
    for task, table in tables.items():
        if task == "crops":
            print(f"Classifiers that teach detectors:\n\n{teachers_markdown(table)}")
            continue
        print(summary_markdown(records.summary_table(table)))
        for title, rows in differences_of(table, records.student_settings(table)):
            print(f"{title}:\n\n{differences_markdown(rows)}")


def differences_of(
    table: pd.DataFrame, settings: Iterable[str]
) -> Iterator[tuple[str, pd.DataFrame]]:
    """Title and rows of all that is compared beside the study's claims, in some settings."""
    task = table["task"].iloc[0]
    for setting in settings:
        runs = table[(table["setting"] == setting) & (table["split"] == "train")]
        if runs.empty:
            continue
        known = statistics.main_runs(runs) if task == "detection" else runs
        if runs["method"].str.startswith(statistics.FRSKD).any():
            known = pd.concat([runs, statistics.self_taught_runs(table, runs)])
        for title, pairs in statistics.PAIRS.get(task, {}).items():
            rows = statistics.differences(known, pairs, TASKS[task].metric)
            if len(rows):
                yield f"{title}, {records.describe_setting(table, setting)}", rows


def of_profile(
    table: pd.DataFrame, profile: str, epochs: int | None = None, images: int | None = None
) -> pd.DataFrame:
    """The runs of a profile and their teachers, whichever methods and seeds were asked for."""
    from study.profiles import expand, teachers

    methods, seeds = sorted(set(table["method"])), sorted(set(table["init_seed"]))
    runs = [
        run
        for dataset in sorted(set(table["dataset"]))
        for some, of in ((None, None), (methods, seeds))
        for run in expand(profile, dataset, some, of, epochs, images)
    ]
    return table[table["run_id"].isin({run.run_id for run in [*runs, *teachers(runs)]})]
