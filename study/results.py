"""What the table of runs says: as markdown, as sentences, and on the command line."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import pandas as pd
from tabulate import tabulate

from kdlib.errors import KdlibError
from kdlib.tasks import TASKS
from study.names import difference_name, name_of
from study.records import METRICS, OF_DETECTORS, STAGE_MEASURES, load_tables, summary_table
from study.statistics import (
    ALPHA,
    POWER,
    Claim,
    Comparison,
    judged_families,
    seeds_to_resolve,
    smallest_effect,
)

SMALL_P = 0.001
_OF_IMAGES = {
    "top1": "top-1 %", "top1_std": "std", "top5": "top-5 %", "mca": "class mean %",
    "ssim": "SSIM", "energy_share": "relevant %",
}  # fmt: skip
SHOWN = {
    "classification": _OF_IMAGES,
    "segmentation": {
        "miou": "mIoU %", "miou_std": "std", "pixel_accuracy": "pixels %",
        "ssim": "SSIM", "energy_share": "relevant %",
    },
    "detection": {
        "map": "mAP %", "map_std": "std", "map50": "mAP50 %", "map50_std": "std of mAP50",
        "map75": "mAP75 %", "map75_std": "std of mAP75",
    },
    "crops": _OF_IMAGES,
}  # fmt: skip
"""Columns that tables show of a task, and what they are called."""
METRIC_NAMES = {
    "map50": "mAP50", "map75": "mAP75",
    "ap50_less_ap75": "mAP50 − mAP75", "ap75_less_ap50": "mAP75 − mAP50",
    "dap_cls": "dAP of classification errors", "dap_loc": "dAP of localisation errors",
}  # fmt: skip
MEASURES = {
    "top1": "accuracy", "miou": "mIoU", "map": "mAP", "ssim": "SSIM", "energy_share": "relevance",
}  # fmt: skip


# Numbers and tables as text.
def number(value: float, form: str) -> str:
    """A number in a format such as ``+.2f``; a dash where it is missing."""
    return "–" if pd.isna(value) else format(value, form)


def amount(value: float, metric: str, sign: str = "+", unit: str = " points") -> str:
    """A difference as it is written: percentage points, or the measure itself (SSIM).

    Args:
        value: a fraction, as all tables have it.
        metric: what it is a difference of.
        sign: ``+`` to write the sign always.
        unit: what follows a difference of shares.
    """
    if metric in (*METRICS, *OF_DETECTORS, "energy_share", "pointing"):
        return f"{number(100 * value, f'{sign}.2f')}{unit}"
    return number(value, f"{sign}.3f")


def metric_name(metric: str) -> str:
    """A column of a table as it is written in words."""
    return METRIC_NAMES.get(metric, metric.replace("_", " "))


def markdown_table(head: Sequence[str] | str, rows: Iterable[Any]) -> str:
    """A markdown table of text cells, aligned so that it reads well in a terminal too.

    Args:
        head: of the columns; ``"keys"`` where rows are mappings from it to their cells.
        rows: sequences of cells, or mappings.
    """
    return tabulate(list(rows), head, "github", disable_numparse=True) + "\n"


def first_difference(found: str, made: str) -> str:
    """The first line in which a page differs from what the records give; empty if none does."""
    lines = zip_longest(found.splitlines(), made.splitlines(), fillvalue="(no line)")
    for number, (theirs, ours) in enumerate(lines, 1):
        if theirs != ours:
            return f"line {number}:\n  file:    {theirs}\n  records: {ours}"
    return ""


def summary_markdown(summary: pd.DataFrame) -> str:
    """A table for each setting of :func:`study.records.summary_table`; accuracies in percent."""
    groups = summary.groupby("description", sort=False)
    return "\n".join(f"**{name}**\n\n{_summary(rows)}" for name, rows in groups)


def _summary(rows: pd.DataFrame) -> str:
    heads = SHOWN[rows["task"].iloc[0]]
    shown = [name for name in heads if name not in STAGE_MEASURES or rows[name].notna().any()]
    body = [
        # A variant is called by what it changes, as in figures; a method as it is asked for.
        {
            "method": name_of(row["label"]) if " [" in row["label"] else row["label"],
            "n": row["n"],
            **{heads[name]: _share(row[name], name) for name in shown},
        }
        for row in rows.to_dict("records")
    ]
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
        "claim": row["claim"],
        "compared": f"{row['method']} − {row['baseline']}{what}",
        "n": row["n"],
        "difference": amount(row["difference"], metric, unit=""),
        "95 % interval": "–" if pd.isna(row["low"]) else f"{low} to {high}",
        "p (Holm)": _probability(row["p_holm"]),
        "n could resolve": amount(row["resolvable"], metric, sign="", unit=""),
        "verdict": row["verdict"],
    }


def _probability(p: float) -> str:
    return f"< {SMALL_P}" if p < SMALL_P else number(p, ".3f")


def claims_markdown(claims: pd.DataFrame) -> str:
    """A table of verdicts for each setting of :func:`study.statistics.verdicts`."""
    groups = claims.groupby("description", sort=False)
    return "\n".join(f"**{name}**\n\n{comparison_markdown(rows)}" for name, rows in groups)


def teachers_markdown(crops: pd.DataFrame) -> str:
    """How well the classifiers that teach detectors know objects that are cut out.

    Args:
        crops: their runs, from ``load_records(..., task="crops")``.
    """
    order = ["split", "dataset", "student", "crop_size", "setting"]
    groups = crops.groupby(order, sort=True)
    return markdown_table("keys", (_teacher(rows) for _, rows in groups))


def _teacher(rows: pd.DataFrame) -> dict[str, Any]:
    first = rows.iloc[0]
    return {
        "crop classifier": first["student"],
        "objects of": first["dataset"] + (", dev split" if first["split"] == "dev" else ""),
        "crop size": first["crop_size"],
        "n": len(rows),
        "top-1 %": _share(rows["top1"].mean(), "top1"),
        "std": _share(rows["top1"].std(), "top1_std"),
    }


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
        f"{_probability(row['p_holm'])}; n = {row['n']} could resolve {could}). {_reason(row)}"
    )


def _reason(row: Mapping[Any, Any]) -> str:
    """Why the rule gives this verdict."""
    if row["verdict"] == "holds":
        return f"The interval lies above 0 and the corrected p is below {ALPHA}."
    if row["high"] < 0:
        return "The interval lies wholly below 0: the reverse is what was seen."
    least = amount(smallest_effect(row["metric"]), row["metric"], sign="")
    if row["verdict"] == "does not hold":
        return f"The interval lies wholly below {least}, the smallest difference that matters."
    if row["low"] > 0:
        return f"The interval lies above 0, but the corrected p is not below {ALPHA}."
    return f"The interval has room for no gain and for one that matters, {least}."


def read_claims(claims: pd.DataFrame, wanted: Iterable[Claim]) -> str:
    """A list in markdown: :func:`read_comparison` of each claim, or what it would need.

    Args:
        claims: of one setting, from :func:`study.statistics.verdicts`; may be empty.
        wanted: the claims to read, in this order.
    """
    tested = {row["claim"]: row for row in claims.to_dict("records")}
    lines = [
        read_comparison(tested[claim.text])
        if claim.text in tested
        else f"**{claim.text}: not tested here.** It needs `{claim.method}` and "
        f"`{claim.baseline}`, with their {MEASURES.get(claim.metric, metric_name(claim.metric))}."
        for claim in wanted
    ]
    return "\n".join(f"* {line}" for line in lines)


def read_accuracy(accuracy: pd.DataFrame) -> str:
    """The highest mean, and how much of the way from student to teacher it goes.

    Args:
        accuracy: from :func:`study.figures.comparison.method_accuracy_table`.
    """
    means = accuracy.groupby("label")["mean"].first()
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
    """How large differences are that are nothing but noise, and what follows for n.

    Args:
        noise: the comparison of a method with its twin.
    """
    if noise.n < 2:
        return "The noise cannot be measured: that takes two seeds of both methods or more."
    least = smallest_effect(noise.metric)
    needed = seeds_to_resolve(least, noise.std)
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
    """The highest student and its runner-up at each stage, as a list in markdown.

    Args:
        data: one measure of a table such as :func:`study.figures.attention.ssim_by_stage_table`.
    """
    stages = data[data["label"] != "teacher"].sort_values("mean", ascending=False).groupby("stage")
    return "\n".join(
        f"* Stage {stage}: {_leaders(rows.to_dict('records'))}" for stage, rows in stages
    )


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
def print_results(roots: Sequence[Path], profile: str | None = None, **cut: int | None) -> None:
    """Print the summary of each setting and the verdicts on the claims, as markdown.

    Tasks have tables of their own: classification first, then what else the records hold.

    Args:
        roots: folders of runs or records.
        profile: show only its runs.
        **cut: epochs and images, if the profile was cut to so many.
    """
    tables = load_tables(*roots)
    if profile is not None:
        tables = {task: of_profile(table, profile, **cut) for task, table in tables.items()}
        tables = {task: table for task, table in tables.items() if len(table)}
        if not tables:
            raise KdlibError(f"No run of profile '{profile}' is finished; make reproduce runs it.")
    for task, table in tables.items():
        print("\n".join(_printed(task, table)))


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
        KdlibError: no such profile.
    """
    from study.profiles import expand, teachers

    methods, seeds = sorted(set(table["method"])), sorted(set(table["init_seed"]))
    runs = [
        run
        for dataset in sorted(set(table["dataset"]))
        for some, of in ((None, None), (methods, seeds))
        for run in expand(profile, dataset, some, of, epochs, images)
    ]
    return table[table["run_id"].isin({run.run_id for run in [*runs, *teachers(runs)]})]


def _printed(task: str, table: pd.DataFrame) -> Iterator[str]:
    if task == "crops":
        yield f"Classifiers that teach detectors:\n\n{teachers_markdown(table)}"
        return
    yield summary_markdown(summary_table(table))
    for title, judged in judged_families(table):
        yield f"{title}. {claims_markdown(judged)}"
