"""What the table of runs says: as markdown, as sentences, and on the command line."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from kdlib.errors import KdlibError
from kdlib.tasks import TASKS
from study import records, statistics
from study.names import NAMED, difference_name, name_of
from study.statistics import POWER, Claim, Comparison

SMALL_P = 0.001
SHOWN_BEST = 8  # rows of a task, where not all are asked for


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


def comparison_markdown(comparisons: pd.DataFrame) -> str:
    """The table of :func:`study.statistics.judge`: percentage points, or SSIM itself."""
    return markdown_table("keys", map(_comparison, comparisons.to_dict("records")))


def _comparison(row: Mapping[Any, Any]) -> dict[str, str]:
    metric = row["metric"]
    headline = metric in {measures.metric for measures in TASKS.values()}
    what = "" if headline else f", {metric_name(metric)}"
    low, high = (amount(row[end], metric, unit="") for end in ("low", "high"))
    return {
        "claim": row["claim"], "compared": f"{row['method']} − {row['baseline']}{what}",
        "n": row["n"], "difference": amount(row["difference"], metric, unit=""),
        "95 % interval": "–" if pd.isna(row["low"]) else f"{low} to {high}",
        "p (Holm)": probability(row["p_holm"]),
        "n could resolve": amount(row["resolvable"], metric, sign="", unit=""),
        "verdict": row["verdict"],
    }  # fmt: skip


def probability(p: float) -> str:
    """A p value as it is written."""
    return f"< {SMALL_P}" if pd.notna(p) and p < SMALL_P else number(p, ".3f")


def claims_markdown(claims: pd.DataFrame) -> str:
    """A table of verdicts for each setting of :func:`study.statistics.verdicts`."""
    groups = claims.groupby("description", sort=False)
    return "\n".join(f"**{name}**\n\n{comparison_markdown(rows)}" for name, rows in groups)


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


# Sentences that read a result. They are made from its table, so they cannot say more than it.
def read_comparison(row: Mapping[Any, Any]) -> str:
    """Verdict, numbers and reason of a row of :func:`study.statistics.judge`, as markdown."""
    head = f"**{row['claim']}: {row['verdict']}.**"
    if row["n"] == 0:
        return f"{head} The two have no seed in common."
    metric = row["metric"]
    pair = difference_name(row["method"], row["baseline"])
    mean = f"{pair} is {amount(row['difference'], metric)}"
    if row["n"] == 1:
        return f"{head} {mean} with one seed, and one seed decides nothing."
    interval = f"{amount(row['low'], metric, unit='')} to {amount(row['high'], metric)}"
    could = amount(row["resolvable"], metric, sign="")
    return (
        f"{head} {mean} (95 % interval {interval}; p after Holm's correction "
        f"{probability(row['p_holm'])}; n = {row['n']} could resolve {could}). {_reason(row)}"
    )


def _reason(row: Mapping[Any, Any]) -> str:
    """Why the rule gives this verdict."""
    if row["verdict"] == "holds":
        return f"The interval lies above 0 and the corrected p is below {statistics.ALPHA}."
    if row["high"] < 0:
        return "The interval lies wholly below 0: the reverse is what was seen."
    least = amount(statistics.smallest_effect(row["metric"]), row["metric"], sign="")
    if row["verdict"] == "does not hold":
        return f"The interval lies wholly below {least}, the smallest difference that matters."
    if row["low"] > 0:
        return f"The interval lies above 0, but the corrected p is not below {statistics.ALPHA}."
    return f"The interval has room for no gain and for one that matters, {least}."


def read_claims(claims: pd.DataFrame, wanted: Iterable[Claim]) -> str:
    """A list: each wanted claim, by the verdicts of one setting, or what testing it needs."""
    said = {row["claim"]: read_comparison(row) for row in claims.to_dict("records")}
    lines = []
    for text, method, baseline, metric in wanted:
        measure = NAMED["measures"].get(metric, metric_name(metric))
        needs = f"It needs `{method}` and `{baseline}`, with their {measure}."
        lines.append(f"* {said.get(text, f'**{text}: not tested here.** {needs}')}")
    return "\n".join(lines)


def read_accuracy(summary: pd.DataFrame) -> str:
    """The highest top-1 of one setting's ``summary_table``, and how much of the gap it closes."""
    means = summary.set_index("label")["top1"]
    students = means.drop("teacher", errors="ignore")
    best = str(students.idxmax())
    text = f"The highest mean of {len(students)} methods is that of {name_of(best)}: "
    text += f"{means[best]:.1%}."
    if {"student", "teacher"} <= set(means.index) and means["teacher"] > means["student"]:
        share = (means[best] - means["student"]) / (means["teacher"] - means["student"])
        text += f" The student alone has {means['student']:.1%}, the teacher "
        text += f"{means['teacher']:.1%}; so it closes {share:.0%} of the gap."
    return text + " The highest of several means is high by luck too: the paired tests decide."


def read_noise(noise: Comparison) -> str:
    """How much a method differs from its twin, by nothing but noise, and what that means for n."""
    if noise.n < 2:
        return "The noise cannot be measured: that takes two seeds of both methods or more."
    least = statistics.smallest_effect(noise.metric)
    needed = statistics.seeds_to_resolve(least, noise.std)
    seeds = f"{needed} seeds" if needed else "more than 200 seeds"
    return (
        f"{name_of(noise.method)} and {name_of(noise.baseline)} have the same loss, and still "
        f"differ by {amount(noise.difference, noise.metric)} on average, with a standard "
        f"deviation of {amount(noise.std, noise.metric, sign='')} from seed to seed. With that "
        f"scatter n = {noise.n} can find a true difference of "
        f"{amount(noise.resolvable, noise.metric, sign='')} with probability {POWER:.0%}; to find "
        f"{amount(least, noise.metric, sign='')} it would take {seeds}."
    )


def read_stages(data: pd.DataFrame) -> str:
    """The highest student and its runner-up at each stage, as a list; of one measure's table."""
    stages = data[data["label"] != "teacher"].sort_values("mean", ascending=False).groupby("stage")
    lines = (f"* Stage {stage}: {_leaders(rows.to_dict('records'))}" for stage, rows in stages)
    return "\n".join(lines)


def _leaders(ranked: list[dict[Any, Any]]) -> str:
    first = f"the highest is {name_of(ranked[0]['label'])}, {ranked[0]['mean']:.3f}"
    if len(ranked) == 1:
        return f"{first}; it is the only one."
    second = f"{first}; next is {name_of(ranked[1]['label'])}, {ranked[1]['mean']:.3f}"
    if pd.isna(ranked[0]["low"]) or pd.isna(ranked[1]["high"]):
        return f"{second}. One seed has no interval."
    overlap = "overlap" if ranked[0]["low"] <= ranked[1]["high"] else "do not overlap"
    return f"{second}. Their intervals {overlap}."


# What ``kdlib results`` prints.
def print_results(
    roots: Sequence[Path], profile: str | None = None, full: bool = True, **cut: int | None
) -> None:
    """Print tables and verdicts, task by task; of a ``profile`` alone, ``cut`` as it was.

    Without ``full``, and with no profile, only the best methods of each task's largest setting.
    """
    tables = records.load_tables(*roots, crossed=None)
    if profile is None and not full:
        print_best(tables)
        return
    if profile is not None:
        tables = {task: of_profile(table, profile, **cut) for task, table in tables.items()}
        tables = {task: table for task, table in tables.items() if len(table)}
        if not tables:
            raise KdlibError(f"No run of profile '{profile}' is finished; make reproduce runs it.")
    for task, table in tables.items():
        if task == "crops":
            print(f"Classifiers that teach detectors:\n\n{teachers_markdown(table)}")
            continue
        print(summary_markdown(records.summary_table(table)))
        for title, judged in statistics.judged_families(table):
            print(f"{title}. {claims_markdown(judged)}")


def print_best(tables: Mapping[str, pd.DataFrame]) -> None:
    """Print the best methods of the setting of each task that most runs on a test set have."""
    for task, table in tables.items():
        tested = table[table["split"] == "train"]
        if task == "crops" or tested.empty:  # which are no results of methods
            continue
        largest = tested.groupby("setting").size()[records.student_settings(tested)].idxmax()
        summary = records.summary_table(
            records.with_teachers(table, tested[tested["setting"] == largest])
        )
        best = summary.sort_values(TASKS[task].metric, ascending=False, kind="stable")
        best = best.reset_index(drop=True)
        kept = best[(best.index < SHOWN_BEST) | (best["label"] == "student")]
        print(f"{len(kept)} of {len(best)} rows, the best first:\n\n{summary_markdown(kept)}")
    settings = sum(len(records.student_settings(table)) for table in tables.values())
    print(f"{settings} settings in all. Every table and verdict: --full, or RESULTS.md")


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
