"""The ledger: every published number beside ours, as a page (LEDGER.md) and in full (a csv)."""

import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Template

from kdlib.methods import METHODS
from study.ledger import rows
from study.ledger.commands import recipe_of
from study.records import load_records, student_settings
from study.results import check_texts, markdown_table, number

ROOT = Path(__file__).parents[2]
PAGE, WHOLE = "LEDGER.md", "published/ledger.csv"
METRICS = ("top1", "top5", "mca")
MISSING = "–"


class Ledger(NamedTuple):
    """Paper and ours, side by side."""

    numbers: pd.DataFrame  # a row a published number, see :func:`ledger_table`
    figures: pd.DataFrame  # a row a figure of the paper
    traps: pd.DataFrame  # known differences from the published protocols
    scenes: rows.StandIn | None  # what stands in for the scene data sets, if it was run
    sweep: pd.DataFrame  # ours of DCT's weight; empty without its runs


def make_ledger(table: pd.DataFrame, dataset: str = "scenes") -> Ledger:
    """The ledger of the runs in ``table``, of all tasks, with ``dataset`` as the stand-in."""
    sweep = our_sweep(table[table["task"] == "classification"], dataset)
    stand_ins = rows.stand_ins(table, dataset)
    figures = pd.DataFrame([_figure(row) for row in rows.listed("figures").to_dict("records")])
    numbers = ledger_table(table, stand_ins, sweep)
    return Ledger(numbers, figures, rows.listed("traps"), stand_ins.get("dct"), sweep)


def ledger_table(
    table: pd.DataFrame, stand_ins: Mapping[str, rows.StandIn], sweep: pd.DataFrame
) -> pd.DataFrame:
    """The published numbers, with the columns of :data:`study.ledger.rows.OURS` of what is judged.

    And ``others``, the other readings of the method; ``status``, ``command``, ``reason`` (why there
    is no command) and ``traps`` (ids of known differences).
    """
    known, found = rows.listed("traps"), []
    for row in rows.published_numbers().to_dict("records"):
        recipe = recipe_of(row)
        ours = rows.beside(row, recipe.run, table, stand_ins, sweep)
        first, *others = ours or [rows.OURS]
        status = rows.NOT_RUN if recipe.command else rows.NOT_OFFERED
        found.append({
            **row, **first, "others": others, "status": first["ours_status"] or status,
            "command": recipe.command, "reason": recipe.reason, "traps": rows.traps_of(row, known),
        })  # fmt: skip
    return pd.DataFrame(found)


def _figure(row: Mapping[str, Any]) -> dict[str, Any]:
    """A figure of the paper with ``files`` of its name, or what it waits for."""
    files = sorted(ROOT.glob(f"figures/{row['figure']}-*.png"))
    found = {
        **row,
        "files": [f"figures/{path.name}" for path in files],
        "command": "",
        "reason": "",
    }
    if files:
        return {**found, "status": rows.DRAWN, "command": "python -m kdlib figures"}
    waits = "the runs of the study are not computed yet: `make study`"
    return {**found, "status": rows.PLANNED, "reason": waits}


# How cells say what was found.
def measured(row: Mapping[Any, Any]) -> str:
    """What was run, its mean and standard deviation, and the number of seeds."""
    if not row["ours_n"]:
        return MISSING
    spread = f" ± {row['ours_std']:.2f}" if row["ours_std"] == row["ours_std"] else ""
    return f"`{row['ours_method']}` {row['ours_mean']:.2f}{spread}, n {row['ours_n']}"


def interval(row: Mapping[Any, Any], name: str, low: str, high: str) -> str:
    """A difference with its interval, in points."""
    mean, ends = row[name], [number(row[end], "+.2f") for end in (low, high)]
    return f"{number(mean, '+.2f')} ({ends[0]} to {ends[1]})" if mean == mean else MISSING


def counts_markdown(ledger: Ledger) -> str:
    """How many published numbers, by paper, and figures have each status."""
    numbers = pd.crosstab(ledger.numbers["status"], ledger.numbers["paper"])
    figures = ledger.figures["status"].value_counts().rename("figures")
    table = numbers.join(figures, how="outer").fillna(0).astype(int)
    first = [name for name in ("dct", "benchmark") if name in table]
    table = table[[*first, *table.columns.difference(first, sort=False)]]
    table.insert(0, "all", table.sum(axis=1))
    body = [[one, *map(str, table.loc[one])] for one in rows.STATUSES if one in table.index]
    return markdown_table(["status", *table.columns], body)


def meanings() -> str:
    """What each status means."""
    return markdown_table(["status", "means"], rows.STATUSES.items())


def read_counts(ledger: Ledger) -> str:
    """How many numbers have ours beside them, and how many only a command or a reason."""
    numbers = ledger.numbers
    ours, run = numbers["ours_n"] > 0, numbers["command"] != ""
    drawn = ledger.figures["files"].map(len).astype(bool).sum()
    return (
        f"Of {len(numbers)} published numbers {ours.sum()} have ours beside them, "
        f"{(numbers['status'] == rows.SAME).sum()} of these from the published protocol itself; "
        f"{(~ours & run).sum()} have the command that would run them, and {(~ours & ~run).sum()} a "
        f"reason why there is none yet. Of the paper's {len(ledger.figures)} figures {drawn} are "
        "drawn."
    )


# The paper's nine cells of scenes, and Scenes.
def nine_cells() -> pd.DataFrame:
    """Published means of each method over the scene cells, best first, and counts ``above``."""
    numbers = rows.published_numbers()
    chosen = (numbers["paper"] == "dct") & numbers["dataset"].isin(rows.SCENE_DATASETS)
    cells = numbers[chosen & (numbers["metric"] == "top1") & numbers["alpha"].isna()]
    above = cells.assign(above=cells["gain"] > 0, above_kd=cells["gain_kd"] > 0)
    table = above.groupby("method").agg(
        cells=("value", "size"), mean=("value", "mean"), gain=("gain", "mean"),
        gain_kd=("gain_kd", "mean"), share=("share", "mean"), above=("above", "sum"),
        above_kd=("above_kd", "sum"),
    )  # fmt: skip
    return table.sort_values("mean", ascending=False).reset_index()


def cells_table(scenes: rows.StandIn) -> pd.DataFrame:
    """:func:`nine_cells` with ours beside them; a row a reading of a method."""
    cells = [{**cell, "metric": "top1"} for cell in nine_cells().to_dict("records")]
    found = [(cell, rows.on_stand_in(cell, scenes) or [rows.OURS]) for cell in cells]
    return pd.DataFrame([{**cell, **ours} for cell, readings in found for ours in readings])


def read_cells(cells: pd.DataFrame) -> str:
    """How many directions agree, and what part of the gap DCT closes there and here."""
    judged = cells[(cells["ours_n"] > 0) & (cells["ours_status"] != rows.REFERENCE)]
    directions, status = rows.NAMED["directions"].items(), judged["ours_status"]
    counted = [f"{(status == name).sum()} {words}" for name, words in directions]
    lines = [
        f"{row['method']} closes {number(row['share'], '.0%')} of the gap in the published mean, "
        f"and as `{row['ours_method']}` {number(row['ours_share'], '.0%')} of it here."
        for row in judged[judged["method"] == "DCT"].to_dict("records")
    ]
    head = f"Of {len(judged)} readings of published methods that were run here, "
    return " ".join([head + ", ".join(counted) + ".", *lines])


CELL_COLUMNS = {
    "method": lambda row: row["method"],
    "cells": lambda row: str(row["cells"]),
    "published": lambda row: number(row["mean"], ".2f"),
    "over student": lambda row: number(row["gain"], "+.2f"),
    "cells above": lambda row: str(row["above"]) if row["gain"] == row["gain"] else MISSING,
    "of the gap": lambda row: number(row["share"], ".0%"),
    "over KD": lambda row: number(row["gain_kd"], "+.2f"),
    "ours": measured,
    "over student (95 %)": lambda row: interval(row, "ours_gain", "ours_low", "ours_high"),
    "of the gap, ours": lambda row: number(row["ours_share"], ".0%"),
    "over KD (95 %)": lambda row: interval(row, "ours_gain_kd", "ours_low_kd", "ours_high_kd"),
    "status": lambda row: row["ours_status"] or "not run",
}


def cells_markdown(cells: pd.DataFrame) -> str:
    """What :func:`cells_table` gave as markdown; the published mean gain is what is judged."""
    body = [[show(row) for show in CELL_COLUMNS.values()] for row in cells.to_dict("records")]
    return markdown_table(list(CELL_COLUMNS), body)


# The sweep of DCT's weight: fourteen published points beside the grid that tuned ours.
def our_sweep(table: pd.DataFrame, dataset: str = "scenes") -> pd.DataFrame:
    """Mean accuracy of what DCT is called here, at each multiple of the default weight."""
    dev = table[(table["split"] == "dev") & (table["dataset"] == dataset)]
    own = dev["setting"].isin(student_settings(table))
    dev = dev[own & dev["method"].isin(rows.METHODS_OF["DCT"])]
    defaults = [METHODS[method.split("+")[0]].weight for method in dev["method"]]
    multiples = dev["weight"].astype(float) / pd.Series(defaults, dev.index, float)
    alphas = multiples.fillna(1.0).map("{:.2g}".format)  # a missing weight is the default
    groups = dev.assign(alpha=alphas.astype(float)).groupby(["method", "alpha"])
    means = groups[["top1", "top5", "mca_all"]].mean().rename(columns={"mca_all": "mca"})
    return means.assign(n=groups.size()).reset_index()


def published_sweep() -> pd.DataFrame:
    """The published points: ``alpha`` and, in percent, a column for each metric."""
    numbers = rows.published_numbers().dropna(subset="alpha")
    wide = numbers.pivot(index="alpha", columns="metric", values="value")
    return wide[list(METRICS)].reset_index()


def sweep_table(ours: pd.DataFrame) -> pd.DataFrame:
    """Published and ours, in percent, by ``alpha``: columns ``published``, then each method."""
    parts = {"published": published_sweep().set_index("alpha")}
    for method, own in ours.groupby("method"):
        parts[str(method)] = 100 * own.set_index("alpha")[list(METRICS)]
    return pd.concat(parts, axis=1).sort_index()


def read_sweep(table: pd.DataFrame) -> str:
    """A list: where each top-1 curve of :func:`sweep_table` has its peak, how far it falls."""
    curves = {name: table[name]["top1"].dropna() for name in dict.fromkeys(table.columns.levels[0])}
    return "\n".join(
        f"* {name}: the highest top-1, {curve.max():.1f}, at {curve.idxmax():g} times the "
        f"default weight; the lowest of {len(curve)} weights, {curve.idxmin():g} times the "
        f"default, is {curve.max() - curve.min():.1f} points below."
        for name, curve in curves.items()
    )


def sweep_markdown(sweep: pd.DataFrame) -> str:
    """Published and our accuracies over multiples of DCT's default weight."""
    table = sweep_table(sweep)
    head = ["times the default", *(f"{name}, {metric}" for name, metric in table.columns)]
    body = [[f"{alpha:g}", *(number(v, ".2f") for v in row)] for alpha, row in table.T.items()]
    note = "Published on ADE20K, ours on the dev split of another data set: compare shapes alone."
    note += " Ours is not run yet: `make study PARTS=tune`." if sweep.empty else ""
    return f"{note}\n\n{read_sweep(table)}\n\n{markdown_table(head, body)}"


# Figures and traps.
def figures_markdown(figures: pd.DataFrame) -> str:
    """A row a figure of the paper."""
    body = []
    for row in figures.to_dict("records"):
        short = [PurePosixPath(one).stem.removeprefix(f"{row['figure']}-") for one in row["files"]]
        links = [f"[{one}]({name})" for one, name in zip(short, row["files"], strict=True)]
        command = f"`{row['command']}`" if row["command"] else row["reason"]
        said = [", ".join(links) or MISSING, row["status"], command, row["note"]]
        body.append([row["id"], row["shows"], row["panels"], *said])
    head = ["figure", "shows", "panels", "ours", "status", "command", "known differences"]
    return markdown_table(head, body)


def traps_markdown(traps: pd.DataFrame) -> str:
    """A row a known difference, with what is done here instead."""
    head = ["", "what", "published", "so", "here", "source"]
    columns = ["id", "title", "published", "effect", "ours", "source"]
    return markdown_table(head, traps[columns].to_numpy().tolist())


# Every published number: a matrix of methods and cells for each paper and metric, ours at its end.
def matrices(numbers: pd.DataFrame) -> str:
    """All matrices, those of a paper under its title."""
    parts = []
    for paper, own in numbers[numbers["alpha"].isna()].groupby("paper", sort=False):
        parts.append(f"## {rows.NAMED['titles'][str(paper)]}\n")
        parts += [_matrix(one) for _, one in own.groupby("metric", sort=False)]
    return "\n".join(parts)


def _matrix(numbers: pd.DataFrame) -> str:
    """Methods by cells of a metric: the published values; the last columns are ours."""
    cells = (numbers["teacher"] + " → " + numbers["student"]).str.removeprefix(" → ")
    title, datasets = numbers["metric"].iloc[0], numbers["dataset"].unique()
    if len(datasets) > 1:
        cells = numbers["dataset"] + ", " + cells
    else:
        title = f"{datasets[0]}, {title}"
    wide = numbers.assign(cell=cells).pivot_table(
        index="method", columns="cell", values="printed", aggfunc=", ".join, sort=False
    )
    body = []
    for method, values in wide.fillna("").iterrows():
        own = numbers[numbers["method"] == method]
        run = own[own["ours_n"] > 0].drop_duplicates(["ours_method", "ours_mean"])
        ours = "; ".join(_with_gain(row) for row in run.to_dict("records"))
        counts = own["status"].value_counts(sort=False).items()
        status = ", ".join(f"{n} {name}" if len(own) > 1 else str(name) for name, n in counts)
        body.append([str(method), *values, ours or MISSING, status])
    head = ["method", *wide.columns, "ours: over student (95 %)", "status"]
    return f"**{title}**\n\n{markdown_table(head, body)}"


def _with_gain(row: Mapping[Any, Any]) -> str:
    gain = interval(row, "ours_gain", "ours_low", "ours_high")
    return measured(row) + ("" if gain == MISSING else f": {gain}")


def whole(numbers: pd.DataFrame) -> str:
    """Every column of every number, as a csv; lists are joined by spaces and semicolons."""
    others = [";".join(one["ours_method"] for one in found) for found in numbers["others"]]
    table = numbers.drop(columns="value").rename(columns={"printed": "value"})
    table = table.assign(others=others, traps=numbers["traps"].map(" ".join))
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n")


def ledger_page(ledger: Ledger) -> str:
    """The whole page, as markdown, without the spaces that only line up its tables' columns."""
    text = (ROOT / "study/templates/_ledger.md").read_text(encoding="utf-8")
    page = Template(text, trim_blocks=True).render(ledger=ledger, page=sys.modules[__name__])
    lines = [re.sub(" +", " ", line) if line[:1] == "|" else line for line in page.split("\n")]
    return re.sub(r"-{3,}(?=\|)", "---", "\n".join(lines))


def pages(path: Path, roots: Sequence[Path]) -> dict[Path, str]:
    """The page and, in ``published`` beside it, the long form, from the records under ``roots``."""
    ledger = make_ledger(load_records(*roots, task=None))
    return {Path(path): ledger_page(ledger), Path(path).parent / WHOLE: whole(ledger.numbers)}


def check_page(path: Path, roots: Sequence[Path]) -> None:
    """Refuse, with a KdlibError, a page or a long form that is not what the records give."""
    command = f"python -m kdlib ledger {' '.join(map(str, roots))} --to {path}"
    check_texts(pages(path, roots).items(), command)
