"""Sentences that read a result, made from its table: none can say what the table does not."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from kdlib.comparisons import (
    ALPHA,
    POWER,
    SPREADS,
    Claim,
    Comparison,
    seeds_to_resolve,
    smallest_effect,
)
from kdlib.markdown import SMALL_P, metric_name
from kdlib.run_table import METRICS, OF_DETECTORS
from kdlib.style import difference_name, name_of

SHARES = (*METRICS, *OF_DETECTORS, *SPREADS, "energy_share", "pointing")
MEASURES = {
    "top1": "accuracy",
    "miou": "mIoU",
    "map": "mAP",
    "ssim": "SSIM",
    "energy_share": "relevance",
}


def read_comparison(row: Mapping[str, Any]) -> str:
    """Verdict, numbers and reason of a row of :func:`kdlib.comparisons.judge`, as markdown."""
    head = f"**{row['claim']}: {row['verdict']}.**"
    pair = difference_name(row["method"], row["baseline"])
    if row["n"] == 0:
        return f"{head} The two have no seed in common."
    metric = row["metric"]
    mean = f"{pair} is {amount(row['difference'], metric)}"
    if row["n"] == 1:
        return f"{head} {mean} with one seed, and one seed decides nothing."
    interval = f"{amount(row['low'], metric, unit='')} to {amount(row['high'], metric)}"
    could = amount(row["resolvable"], metric, sign="")
    return (
        f"{head} {mean} (95 % interval {interval}; p after Holm's correction "
        f"{_probability(row['p_holm'])}; n = {row['n']} could resolve {could}). {_reason(row)}"
    )


def _reason(row: Mapping[str, Any]) -> str:
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
        claims: of one setting, from :func:`kdlib.comparisons.claims_table`; may be empty.
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
        accuracy: from :func:`kdlib.figure_tables.method_accuracy`.
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
        data: one measure of a table such as :func:`kdlib.figure_tables.ssim_by_stage`.
    """
    students = data[data["label"] != "teacher"]
    lines = []
    for stage, rows in students.groupby("stage"):
        ranked = rows.sort_values("mean", ascending=False).to_dict("records")
        lines.append(f"* Stage {stage}: {_leaders(ranked)}")
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


def amount(value: float, metric: str, sign: str = "+", unit: str = " points") -> str:
    """A difference as it is written: points of percent, or the measure itself (SSIM).

    Args:
        value: a fraction, as all tables have it.
        metric: what it is a difference of.
        sign: ``+`` to write the sign always.
        unit: what follows a difference of shares.
    """
    if metric in SHARES:
        return f"{100 * value:{sign}.2f}{unit}"
    return f"{value:{sign}.3f}"


def _probability(p: float) -> str:
    if pd.isna(p):
        return "–"
    return f"< {SMALL_P}" if p < SMALL_P else f"{p:.3f}"
