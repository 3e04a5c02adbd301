"""The ledger: every published number beside ours, as a page (LEDGER.md) and in full (a csv)."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from kdlib.errors import KdlibError
from kdlib.files import write_text
from kdlib.methods import METHODS
from study.figures import FIGURES
from study.ledger.commands import recipe_of
from study.ledger.rows import (
    AGREES,
    DISAGREES,
    DRAWN,
    NAMES_METHODS_OF,
    PLANNED,
    REFERENCE,
    SAME,
    SCENE_DATASETS,
    STATUSES,
    UNDECIDED,
    Ours,
    Sources,
    StandIn,
    beside,
    detector_stand_ins,
    on_stand_in,
    published_figures,
    published_numbers,
    self_taught_stand_ins,
    stand_in,
    status_of,
    traps,
    traps_of,
)
from study.notebooks import notebook_names
from study.records import load_records, student_settings
from study.results import first_difference, markdown_table, number

PAGE = "LEDGER.md"
WHOLE = "published/ledger.csv"
FIGURES_FOLDER = Path(__file__).parents[2] / "figures"
METRICS = ("top1", "top5", "mca")
MISSING = "–"


@dataclass(frozen=True)
class Ledger:
    """Paper and ours, side by side.

    Attributes:
        numbers: a row a published number, see :func:`ledger_table`.
        figures: a row a figure of the paper, see :func:`figure_rows`.
        traps: known differences from the published protocols.
        scenes: the stand-in for the scene data sets; ``None`` without its runs.
        sweep: our sweep of DCT's weight; empty without its runs.
    """

    numbers: pd.DataFrame
    figures: pd.DataFrame
    traps: pd.DataFrame
    scenes: StandIn | None
    sweep: pd.DataFrame


def make_ledger(table: pd.DataFrame, dataset: str = "scenes") -> Ledger:
    """The ledger of the runs in ``table``, of all tasks, with ``dataset`` as the stand-in."""
    images = table[table["task"] == "classification"]
    scenes, sweep = stand_in(images, dataset), our_sweep(images, dataset)
    neighbours = self_taught_stand_ins(table, dataset), detector_stand_ins(table, dataset)
    numbers = ledger_table(Sources(table, scenes, sweep, *neighbours))
    return Ledger(numbers, figure_rows(), traps(), scenes, sweep)


def ledger_table(sources: Sources) -> pd.DataFrame:
    """A row for each of :func:`study.ledger.rows.published_numbers`, in its order.

    Added are, of :class:`study.ledger.rows.Ours` with the prefix ``ours_``, what is judged;
    ``others``: the other readings of the method, as a list; ``status``, ``command``, ``reason``
    (why there is no command) and ``traps`` (ids of known differences).
    """
    known, rows = traps(), published_numbers().to_dict("records")
    return pd.DataFrame([_entry({str(k): v for k, v in r.items()}, sources, known) for r in rows])


def _entry(row: dict[str, Any], sources: Sources, known: pd.DataFrame) -> dict[str, Any]:
    recipe = recipe_of(row)
    ours = beside(row, recipe, sources)
    return {
        **row,
        **_prefixed(ours[0] if ours else Ours()),
        "others": ours[1:],
        "status": status_of(row, recipe, ours),
        "command": recipe.command,
        "reason": recipe.reason,
        "traps": traps_of(row, known),
    }


def _prefixed(ours: Ours) -> dict[str, Any]:
    return {f"ours_{name}": value for name, value in asdict(ours).items()}


def figure_rows(folder: Path = FIGURES_FOLDER) -> pd.DataFrame:
    """The paper's figures with ``files`` (of ours), ``status``, ``command`` and ``reason``."""
    rows = published_figures().to_dict("records")
    return pd.DataFrame([{**row, **_drawn(row, folder)} for row in rows])


def _drawn(row: Mapping[Any, Any], folder: Path) -> dict[str, Any]:
    """A file of the figure's name, or else a notebook that draws it."""
    name, notebook = row["figure"], row["notebook"]
    files = [f"figures/{path.name}" for path in sorted(Path(folder).glob(f"{name}*.png"))]
    if files and name in FIGURES:
        command = "python -m kdlib figures"
    elif notebook in notebook_names():
        files, command = files or [f"notebooks/{notebook}.ipynb"], f"python -m kdlib run {notebook}"
    else:
        return {"files": [], "status": PLANNED, "command": "", "reason": "still to be drawn"}
    return {"files": files, "status": DRAWN, "command": command, "reason": ""}


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


def percent(value: float) -> str:
    """A share of 1, as whole percents; a dash where it is missing."""
    return number(value, ".0%")


def counts(ledger: Ledger) -> pd.DataFrame:
    """How many rows have each status: a row a status that occurs, a column a paper, ``figures``."""
    numbers = pd.crosstab(ledger.numbers["status"], ledger.numbers["paper"])
    figures = ledger.figures["status"].value_counts().rename("figures")
    table = numbers.join(figures, how="outer").fillna(0).astype(int)
    first = [name for name in ("dct", "benchmark") if name in table]
    kept = [status for status in STATUSES if status in table.index]
    return table.loc[kept, [*first, *(name for name in table if name not in first)]]


def counts_markdown(ledger: Ledger) -> str:
    """How many published numbers, by paper, and figures have each status."""
    table = counts(ledger)
    table.insert(0, "all", table.sum(axis=1))
    body = [[str(status), *map(str, row)] for status, row in table.T.items()]
    return markdown_table(["status", *table.columns], body)


def meanings() -> str:
    """What each status means."""
    return markdown_table(["status", "means"], STATUSES.items())


def read_counts(ledger: Ledger) -> str:
    """How many numbers have ours beside them, and how many only a command or a reason."""
    numbers = ledger.numbers
    ours, run = numbers["ours_n"] > 0, numbers["command"] != ""
    drawn = ledger.figures["files"].map(len).astype(bool).sum()
    return (
        f"Of {len(numbers)} published numbers {ours.sum()} have ours beside them, "
        f"{(numbers['status'] == SAME).sum()} of these from the published protocol itself; "
        f"{(~ours & run).sum()} have the command that would run them, and {(~ours & ~run).sum()} a "
        f"reason why there is none yet. Of the paper's {len(ledger.figures)} figures {drawn} are "
        "drawn."
    )


# The paper's nine cells of scenes, and Scenes.
def nine_cells() -> pd.DataFrame:
    """Published means of each method over the scene cells, best first, in percent and points.

    Columns: ``method``, ``cells``, ``mean``, ``gain``, ``above`` (cells in which it exceeds the
    student), ``gain_kd``, ``above_kd``, ``share``.
    """
    numbers = published_numbers()
    chosen = (numbers["paper"] == "dct") & numbers["dataset"].isin(SCENE_DATASETS)
    cells = numbers[chosen & (numbers["metric"] == "top1") & numbers["alpha"].isna()]
    groups = cells.groupby("method")
    table = groups.agg(
        cells=("value", "size"), mean=("value", "mean"), gain=("gain", "mean"),
        gain_kd=("gain_kd", "mean"), share=("share", "mean"),
    )  # fmt: skip
    above = cells.assign(above=cells["gain"] > 0, above_kd=cells["gain_kd"] > 0)
    table = table.join(above.groupby("method")[["above", "above_kd"]].sum())
    return table.sort_values("mean", ascending=False).reset_index()


def cells_table(scenes: StandIn) -> pd.DataFrame:
    """Published means over the scene cells with ours beside them; a row a reading of a method.

    Columns are those of :func:`nine_cells` and, with the prefix ``ours_``, of
    :class:`study.ledger.rows.Ours`; a method that was not run has ``ours_n`` 0.
    """
    rows = [{**cell, "metric": "top1"} for cell in nine_cells().to_dict("records")]
    return pd.DataFrame(
        [
            {**row, **_prefixed(ours)}
            for row in rows
            for ours in on_stand_in({str(k): v for k, v in row.items()}, scenes) or [Ours()]
        ]
    )


STATED = {
    AGREES: "agree in direction with the published mean",
    DISAGREES: "do not",
    UNDECIDED: "are undecided",
}


def read_cells(cells: pd.DataFrame) -> str:
    """How many directions agree, and what part of the gap DCT closes there and here."""
    judged = cells[(cells["ours_n"] > 0) & (cells["ours_status"] != REFERENCE)]
    counted = [f"{(judged['ours_status'] == s).sum()} {words}" for s, words in STATED.items()]
    head = f"Of {len(judged)} readings of published methods that were run here, "
    lines = [
        f"{row['method']} closes {percent(row['share'])} of the gap in the published mean, and "
        f"as `{row['ours_method']}` {percent(row['ours_share'])} of it here."
        for row in judged[judged["method"] == "DCT"].to_dict("records")
    ]
    return " ".join([f"{head}{', '.join(counted)}.", *lines])


CELL_COLUMNS = {
    "method": lambda row: row["method"],
    "cells": lambda row: str(row["cells"]),
    "published": lambda row: number(row["mean"], ".2f"),
    "over student": lambda row: number(row["gain"], "+.2f"),
    "cells above": lambda row: str(row["above"]) if row["gain"] == row["gain"] else MISSING,
    "of the gap": lambda row: percent(row["share"]),
    "over KD": lambda row: number(row["gain_kd"], "+.2f"),
    "ours": measured,
    "over student (95 %)": lambda row: interval(row, "ours_gain", "ours_low", "ours_high"),
    "of the gap, ours": lambda row: percent(row["ours_share"]),
    "over KD (95 %)": lambda row: interval(row, "ours_gain_kd", "ours_low_kd", "ours_high_kd"),
    "status": lambda row: row["ours_status"] or "not run",
}


def cells_markdown(cells: pd.DataFrame) -> str:
    """What :func:`cells_table` gave as markdown; the published mean gain is what is judged."""
    rows = cells.to_dict("records")
    body = [[show(row) for show in CELL_COLUMNS.values()] for row in rows]
    return markdown_table(list(CELL_COLUMNS), body)


# The sweep of DCT's weight: fourteen published points beside the grid that tuned ours.
def our_sweep(table: pd.DataFrame, dataset: str = "scenes") -> pd.DataFrame:
    """Accuracy at each multiple of the default weight, of each method that DCT is called here.

    Columns: ``method``, ``alpha``, ``n`` and, 0 to 1, means over seeds of the metrics. Empty
    where nothing was tuned.
    """
    dev = table[(table["split"] == "dev") & (table["dataset"] == dataset)]
    own = dev["setting"].isin(student_settings(table))
    dev = dev[own & dev["method"].isin(NAMES_METHODS_OF["DCT"])]
    alphas = [_multiple(*run) for run in zip(dev["method"], dev["weight"], strict=True)]
    groups = dev.assign(alpha=alphas).groupby(["method", "alpha"])
    means = groups[["top1", "top5", "mca_all"]].mean().rename(columns={"mca_all": "mca"})
    return means.assign(n=groups.size()).reset_index()


def _multiple(method: str, weight: float | None) -> float:
    """A weight as a multiple of the method's default, which a missing one is."""
    if weight is None or pd.isna(weight):
        return 1.0
    return float(f"{weight / METHODS[method.split('+')[0]].weight:.2g}")


def published_sweep() -> pd.DataFrame:
    """The published points: ``alpha`` and, in percent, a column for each metric."""
    numbers = published_numbers().dropna(subset="alpha")
    wide = numbers.pivot(index="alpha", columns="metric", values="value")
    return wide[list(METRICS)].reset_index()


def sweep_table(ours: pd.DataFrame) -> pd.DataFrame:
    """Published and ours, in percent, by ``alpha``: columns ``published``, then each method."""
    parts = {"published": published_sweep().set_index("alpha")}
    for method, rows in ours.groupby("method"):
        parts[str(method)] = 100 * rows.set_index("alpha")[list(METRICS)]
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
    return f"{note}\n\n{read_sweep(table)}\n\n{markdown_table(head, body)}"


# Figures and traps.
def figures_markdown(figures: pd.DataFrame) -> str:
    """A row a figure of the paper."""
    head = ["figure", "shows", "panels", "ours", "status", "command", "known differences"]
    return markdown_table(head, map(_figure_line, figures.to_dict("records")))


def _figure_line(row: Mapping[Any, Any]) -> list[str]:
    short = [PurePosixPath(name).stem.removeprefix(f"{row['figure']}-") for name in row["files"]]
    files = [f"[{one}]({name})" for one, name in zip(short, row["files"], strict=True)]
    command = f"`{row['command']}`" if row["command"] else row["reason"]
    said = [", ".join(files) or MISSING, row["status"], command, row["note"]]
    return [row["id"], row["shows"], row["panels"], *said]


def traps_markdown(traps: pd.DataFrame) -> str:
    """A row a known difference, with what is done here instead."""
    head = ["", "what", "published", "so", "here", "source"]
    columns = ["id", "title", "published", "effect", "ours", "source"]
    return markdown_table(head, traps[columns].to_numpy().tolist())


# Every published number: a matrix of methods and cells for each paper and metric, ours at its end.
def matrices(numbers: pd.DataFrame) -> str:
    """All matrices, those of a paper under its title."""
    parts: list[str] = []
    listed = numbers[numbers["alpha"].isna()]
    for paper, rows in listed.groupby("paper", sort=False):
        parts += [f"## {TITLES.get(str(paper), paper)}\n"]
        parts += [_titled(own) for _, own in rows.groupby("metric", sort=False)]
    return "\n".join(parts)


def _titled(rows: pd.DataFrame) -> str:
    datasets = rows["dataset"].unique()
    title = ", ".join([*datasets[: len(datasets) == 1], rows["metric"].iloc[0]])
    return f"**{title}**\n\n{matrix(rows)}"


def matrix(rows: pd.DataFrame) -> str:
    """Methods by cells of a metric: the published values; the last columns are ours."""
    cells = (rows["teacher"] + " → " + rows["student"]).str.removeprefix(" → ")
    if rows["dataset"].nunique() > 1:
        cells = rows["dataset"] + ", " + cells
    wide = rows.assign(cell=cells).pivot_table(
        index="method", columns="cell", values="printed", aggfunc=", ".join, sort=False
    )
    body = []
    for method, values in wide.fillna("").iterrows():
        own = rows[rows["method"] == method]
        body.append([str(method), *values, _ours_of(own), _statuses(own)])
    return markdown_table(["method", *wide.columns, "ours: over student (95 %)", "status"], body)


def _ours_of(own: pd.DataFrame) -> str:
    run = own[own["ours_n"] > 0].drop_duplicates(["ours_method", "ours_mean"])
    return "; ".join(_with_gain(row) for row in run.to_dict("records")) or MISSING


def _with_gain(row: Mapping[Any, Any]) -> str:
    gain = interval(row, "ours_gain", "ours_low", "ours_high")
    return measured(row) + ("" if gain == MISSING else f": {gain}")


def _statuses(own: pd.DataFrame) -> str:
    counted = own["status"].value_counts(sort=False)
    return ", ".join(f"{count} {name}" if len(own) > 1 else name for name, count in counted.items())


def whole(numbers: pd.DataFrame) -> str:
    """Every column of every number, as a csv; lists are joined by spaces and semicolons."""
    others = [";".join(one.method for one in found) for found in numbers["others"]]
    table = numbers.drop(columns="value").rename(columns={"printed": "value"})
    table = table.assign(others=others, traps=numbers["traps"].map(" ".join))
    return table.to_csv(index=False, float_format="%.6g", lineterminator="\n")


HEAD = """# The paper and ours

Every number of [published/published.csv](published/published.csv) and every figure of the paper
(arXiv 2205.01997), beside ours. [The long form](published/ledger.csv) has a line for each number:
what was run, its interval, its status, and the one command that would produce ours. Both are made
from the committed records by `python -m kdlib ledger records`; a test fails when they differ.
[Notebook 14](notebooks/14_ledger.ipynb) explains them.

The paper's data sets cannot be shipped, so *Scenes* stands in for ADE20K, SUN397 and MIT67. Its
accuracies say nothing about theirs. What can be compared is the **direction**: what a method adds
to the student alone or, of X + KD, what X adds to KD. [The rule](study/statistics.py) says whether
a published gain or loss holds here, paired over seeds and corrected over all methods of which the
same is asked. *Of the gap* is how much of the way from student to teacher a method goes. DCT is
run twice: as released, which is judged, and as a true DCT-II. For FRSKD's photographs Scenes stands
in with its classes (top-1) and its masks (mIoU); for the detectors, small ones of the same kind on
its boxes. Accuracies are in percent, differences in points, mean ± standard deviation over n seeds.
"""
TITLES = {
    "dct": "The paper",
    "benchmark": "The benchmark of CIFAR-100",
    "frskd": "A neighbour: FRSKD",
    "srm": "A neighbour: SRM",
    "classifier-to-detector": "A neighbour: from classifiers to detectors",
}


def ledger_page(ledger: Ledger) -> str:
    """The whole page, as markdown."""
    parts = [HEAD, "## At a glance\n", read_counts(ledger) + "\n"]
    parts += [counts_markdown(ledger), meanings()]
    if ledger.scenes is not None:
        cells = cells_table(ledger.scenes)
        parts += ["## The nine scene cells and Scenes\n", read_cells(cells) + "\n"]
        parts += [cells_markdown(cells)]
    parts += ["## The weight of the loss\n", sweep_markdown(ledger.sweep)]
    parts += ["## The paper's figures\n", figures_markdown(ledger.figures)]
    parts += ["## Known differences and traps\n", traps_markdown(ledger.traps)]
    return unpadded("\n".join([*parts, matrices(ledger.numbers)]))


def unpadded(page: str) -> str:
    """The page without the spaces that only line up its tables' columns."""
    lines = [re.sub(" +", " ", line) if line[:1] == "|" else line for line in page.split("\n")]
    return re.sub(r"-{3,}(?=\|)", "---", "\n".join(lines))


def pages(path: Path, roots: Sequence[Path]) -> dict[Path, str]:
    """The page and, in ``published`` beside it, the long form, from the records under ``roots``.

    Raises:
        KdlibError: no records, or a damaged one.
    """
    ledger = make_ledger(load_records(*roots, task=None))
    return {Path(path): ledger_page(ledger), Path(path).parent / WHOLE: whole(ledger.numbers)}


def write_page(path: Path, roots: Sequence[Path]) -> None:
    """Make the page and the long form from the records under ``roots``."""
    for one, text in pages(path, roots).items():
        write_text(one, text)


def check_page(path: Path, roots: Sequence[Path]) -> None:
    """Refuse a page or a long form that is not what the records give.

    Raises:
        KdlibError: there is none, or it differs; names the first line that does.
    """
    for one, text in pages(path, roots).items():
        found = one.read_text(encoding="utf-8") if one.exists() else ""
        parting = first_difference(found, text)
        if parting:
            raise KdlibError(
                f"{one} differs from the records in its {parting}\n"
                f"Make it anew: python -m kdlib ledger {' '.join(map(str, roots))} --to {path}"
            )
