"""The ledger as a page: ``LEDGER.md``, made from the records or checked against them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
from scipy import stats

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
    judged,
    on_stand_in,
    our_methods,
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

# The published numbers as tables of a page: one for each paper, data set and pair of networks.
Row = Mapping[str, Any]
MISSING = "–"


def measured(row: Row) -> str:
    """What was run, its mean and deviation, n, and where."""
    if not row["ours_n"]:
        return MISSING
    spread = f" ± {row['ours_std']:.2f}" if row["ours_std"] == row["ours_std"] else ""
    name, mean = row["ours_method"], number(row["ours_mean"], ".2f")
    return f"`{name}` {mean}{spread}, n {row['ours_n']}, {row['ours_where']}"


def interval(row: Row, name: str, low: str, high: str) -> str:
    """A difference with its interval, in points."""
    mean, ends = row[name], [number(row[end], "+.2f") for end in (low, high)]
    return f"{number(mean, '+.2f')} ({ends[0]} to {ends[1]})" if mean == mean else MISSING


def percent(value: float) -> str:
    """A share of 1, as whole percents; a dash where it is missing."""
    return number(value, ".0%")


# A column that says nothing but these is left out of a table.
UNSAID = {"", MISSING, "top1"}
COLUMNS: dict[str, Callable[[Row], str]] = {
    "method": lambda row: row["method"],
    "metric": lambda row: row["metric"],
    "published": lambda row: row["printed"],
    "over student": lambda row: number(row["gain"], "+.2f"),
    "of the gap": lambda row: percent(row["share"]),
    "over KD": lambda row: number(row["gain_kd"], "+.2f"),
    "ours": measured,
    "ours − published": lambda row: number(row["ours_difference"], "+.2f"),
    "ours over student (95 %)": lambda row: interval(row, "ours_gain", "ours_low", "ours_high"),
    "of the gap, ours": lambda row: percent(row["ours_share"]),
    "ours over KD (95 %)": lambda row: interval(row, "ours_gain_kd", "ours_low_kd", "ours_high_kd"),
    "status": lambda row: row["status"],
    "over KD, status": lambda row: row["ours_status_kd"],
    "known differences": lambda row: " ".join(row["traps"]),
    "source": lambda row: row["letter"],
}


def number_blocks(numbers: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """The paper and the text of each block, in the order of the published numbers.

    Args:
        numbers: the whole ledger, or a part of it.
    """
    swept = numbers["source"].str.startswith("alpha sweep")
    keys = [numbers["paper"], swept, numbers["dataset"], numbers["teacher"], numbers["student"]]
    for (paper, sweep, *cell), rows in numbers.groupby(keys, sort=False):
        title = _title(*cell) + (", the sweep of alpha" if sweep else "")
        # A sweep is summed up elsewhere, and what was not run need not be open.
        opened = not sweep and rows["status"].str.startswith("stand-in").any()
        yield str(paper), block(rows, title, bool(opened))


def _title(dataset: str, teacher: str, student: str) -> str:
    pair = f"{teacher} → {student}" if teacher else student
    return f"{dataset}, {pair}"


def block(rows: pd.DataFrame, title: str, opened: bool) -> str:
    """One table that folds, with its sources and its commands."""
    sources = [
        f"{one}; {note}" if note else one
        for one, note in zip(rows["source"], rows["note"], strict=True)
    ]
    letters = {text: chr(ord("a") + place) for place, text in enumerate(dict.fromkeys(sources))}
    several = len(letters) > 1
    marked = rows.assign(letter=[letters[text] if several else "" for text in sources])
    listed = "; ".join(
        f"({letter}) {text}" if several else text for text, letter in letters.items()
    )
    counted = {name: int((rows["status"] == name).sum()) for name in STATUSES}
    state = ", ".join(f"{count} {name}" for name, count in counted.items() if count)
    return "\n".join(
        [
            "<details open>" if opened else "<details>",
            f"<summary><b>{title}</b>: {state}</summary>\n",
            f"Source: {listed}.\n",
            _table(marked),
            _commands(rows),
            "</details>\n",
        ]
    )


def _table(rows: pd.DataFrame) -> str:
    lines = [line for row in rows.to_dict("records") for line in _lines(row)]
    cells = {head: [show(line) for line in lines] for head, show in COLUMNS.items()}
    kept = {head: cell for head, cell in cells.items() if set(cell) - UNSAID}
    return markdown_table(list(kept), zip(*kept.values(), strict=True))


def _lines(row: dict[Any, Any]) -> Iterator[Row]:
    """The row, and below it what else the method is called here."""
    yield row
    unsaid = dict.fromkeys(("gain", "share", "gain_kd"), float("nan"))
    for other in row["others"]:
        own = {f"ours_{name}": value for name, value in asdict(other).items()}
        blank = {"method": f"{row['method']}, too", "printed": "", "traps": [], "letter": ""}
        yield {**row, **unsaid, **blank, **own, "status": other.status}


def _commands(rows: pd.DataFrame) -> str:
    """What runs each row, and why some rows have nothing that does."""
    runs = rows[rows["command"] != ""].groupby("command", sort=False)["method"]
    lines = [f"# {', '.join(dict.fromkeys(names))}\n{command}" for command, names in runs]
    lacking = rows[rows["reason"] != ""].groupby("reason", sort=False)["method"]
    reasons = [f"{', '.join(dict.fromkeys(names))}: {reason}" for reason, names in lacking]
    text = ""
    if lines:
        text += "<details><summary>commands</summary>\n\n```\n" + "\n".join(lines)
        text += "\n```\n\n</details>\n"
    return text + (f"\nNo command: {'; '.join(reasons)}.\n" if reasons else "")


# A row for every figure of the paper: which of ours shows the same, and how it is drawn.
FOLDER = Path(__file__).parents[2] / "figures"


def figure_rows(folder: Path = FOLDER) -> pd.DataFrame:
    """The figures with ``files`` (of ours), ``status``, ``command`` and ``reason``.

    Args:
        folder: where our figures lie.
    """
    rows = [{**row, **_ours(row, folder)} for row in published_figures().to_dict("records")]
    return pd.DataFrame(rows)


def _ours(row: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A file of the figure's name, or else a notebook that draws it."""
    name, notebook = row["figure"], row["notebook"]
    files = sorted(path.name for path in Path(folder).glob(f"{name}*.png"))
    if files and name in FIGURES:
        return _found([f"figures/{file}" for file in files], "python -m kdlib figures")
    if notebook in notebook_names():
        shown = [f"figures/{file}" for file in files] or [f"notebooks/{notebook}.ipynb"]
        return _found(shown, f"python -m kdlib run {notebook}")
    return {"files": [], "status": PLANNED, "command": "", "reason": "still to be drawn"}


def _found(files: list[str], command: str) -> dict[str, Any]:
    return {"files": files, "status": DRAWN, "command": command, "reason": ""}


# Do the methods come in the published order here?
AS_RELEASED, AT_ITS_WORD = "as released", "at its word"


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


def order_table(scenes: StandIn, dct: str = AS_RELEASED) -> pd.DataFrame:
    """Methods that both have, best published first: means in percent, gains, and both ranks.

    Columns: ``method``, ``ours_method``, ``published``, ``published_gain``, ``ours``,
    ``ours_gain``, ``published_rank``, ``ours_rank``.

    Args:
        scenes: the stand-in.
        dct: what DCT is called here, ``as released`` or ``at its word``.
    """
    cells = nine_cells()
    cells = cells[(cells["cells"] == cells["cells"].max()) & (cells["method"] != "teacher")]
    rows = [
        {
            "method": cell["method"], "ours_method": name, "published": cell["mean"],
            "published_gain": cell["gain"], "ours": 100 * scenes.values(name).mean(),
        }
        for cell in cells.to_dict("records")
        if (name := _reading(cell["method"], scenes, dct))
    ]  # fmt: skip
    columns = ["method", "ours_method", "published", "published_gain", "ours"]
    table = pd.DataFrame(rows, columns=columns)
    table["ours_gain"] = table["ours"] - 100 * scenes.values("student").mean()
    for column in ("published", "ours"):
        table[f"{column}_rank"] = table[column].rank(ascending=False).astype(int)
    return table


def _reading(published: str, scenes: StandIn, dct: str) -> str:
    """The method string that was run for a published method; empty if none was."""
    wanted = our_methods(published)
    if published.split("+")[0] == "DCT":
        wanted = wanted[-1:] if dct == AT_ITS_WORD else wanted[:-1]
    return next((name for name in wanted if len(scenes.values(name))), "")


def rank_correlations(order: pd.DataFrame) -> dict[str, float]:
    """``spearman`` and ``kendall`` of the two orders; NaN with fewer than two methods."""
    if len(order) < 2:
        return {"spearman": float("nan"), "kendall": float("nan")}
    pair = order["published"], order["ours"]
    return {
        "spearman": float(stats.spearmanr(*pair).statistic),
        "kendall": float(stats.kendalltau(*pair).statistic),
    }


def pair_table(order: pd.DataFrame, scenes: StandIn) -> pd.DataFrame:
    """Every pair of the order: does ``better``, as published, exceed ``worse`` here too?

    Columns: ``better``, ``worse``, ``published`` and ``difference`` (points), ``low``, ``high``,
    ``n``, ``p_holm`` (over all pairs), ``status``. A pair that disagrees is swapped beyond noise
    only if ``swapped``: its interval lies below 0, and the corrected p below 0.05.
    """
    named = dict(zip(order["ours_method"], order["method"], strict=True))
    value = dict(zip(order["ours_method"], order["published"], strict=True))
    pairs = list(combinations(order["ours_method"], 2))
    found = judged(scenes.students, pairs)
    rows = []
    for (better, worse), effect in found.items():
        one, gap = effect.comparison, value[better] - value[worse]
        rows.append({
            "better": named[better], "worse": named[worse], "published": gap,
            "difference": 100 * one.difference, "low": 100 * one.low, "high": 100 * one.high,
            "n": one.n, "p_holm": effect.p_holm, "status": effect.agreement(gap, 0.0),
            "swapped": effect.agreement(-gap, 0.0) == AGREES,
        })  # fmt: skip
    return pd.DataFrame(rows)


def read_order(order: pd.DataFrame, pairs: pd.DataFrame) -> str:
    """Whether the order is the paper's, in sentences made from the two tables."""
    found: Mapping[str, float] = rank_correlations(order)
    same = list(order["ours_rank"]) == sorted(order["ours_rank"])
    agree, swapped = (pairs["status"] == AGREES).sum(), int(pairs["swapped"].sum())
    against = (pairs["status"] == DISAGREES).sum()
    head = "is that of the paper" if same else "**differs from the paper's**"
    return (
        f"The order of the {len(order)} methods that both have {head}: Spearman "
        f"{found['spearman']:.2f}, Kendall {found['kendall']:.2f}. Of {len(pairs)} pairs, {agree} "
        f"agree with the published order, {against} do not, {swapped} of these beyond noise, and "
        f"{len(pairs) - agree - against} are undecided."
    )


# The sweep of DCT's weight: fourteen published points beside the grid that tuned ours.
METRICS = ("top1", "top5", "mca")


def our_sweep(table: pd.DataFrame, dataset: str = "scenes") -> pd.DataFrame:
    """Accuracy at each multiple of the default weight, of each method that DCT is called here.

    Columns: ``method``, ``alpha``, ``n`` and, 0 to 1, means over seeds of the metrics. Empty
    where nothing was tuned.
    """
    dev = table[(table["split"] == "dev") & (table["dataset"] == dataset)]
    dev = dev[
        dev["setting"].isin(student_settings(table)) & dev["method"].isin(NAMES_METHODS_OF["DCT"])
    ]
    dev = dev.assign(
        alpha=[_multiple(*run) for run in zip(dev["method"], dev["weight"], strict=True)]
    )
    groups = dev.groupby(["method", "alpha"])
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
    """Published and ours, in percent, by ``alpha``: columns ``published``, then each method.

    Args:
        ours: from :func:`our_sweep`.
    """
    theirs = published_sweep().set_index("alpha")
    parts = {"published": theirs}
    for method, rows in ours.groupby("method"):
        parts[str(method)] = 100 * rows.set_index("alpha")[list(METRICS)]
    return pd.concat(parts, axis=1).sort_index()


def read_sweep(table: pd.DataFrame) -> str:
    """A list: where each top-1 curve of :func:`sweep_table` has its peak, how far it falls."""
    lines = []
    for name in dict.fromkeys(table.columns.get_level_values(0)):
        curve = table[name]["top1"].dropna()
        lines.append(
            f"* {name}: the highest top-1, {curve.max():.1f}, at {curve.idxmax():g} times the "
            f"default weight; the lowest of {len(curve)} weights, {curve.idxmin():g} times the "
            f"default, is {curve.max() - curve.min():.1f} points below."
        )
    return "\n".join(lines)


# Paper and ours, side by side: every published number and figure, and what runs it.
@dataclass(frozen=True)
class Ledger:
    """The whole of it.

    Attributes:
        numbers: a row a published number, see :func:`ledger_table`.
        figures: a row a figure of the paper.
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
    sources = Sources(table, scenes, sweep, *neighbours)
    return Ledger(ledger_table(sources), figure_rows(), traps(), sources.scenes, sources.sweep)


def ledger_table(sources: Sources) -> pd.DataFrame:
    """A row for each of :func:`study.ledger.rows.published_numbers`, in its order.

    Added are, of :class:`study.ledger.rows.Ours` with the prefix ``ours_``, what is judged;
    ``others``: the other readings of the method, as a list; ``status``, ``command``, ``reason``
    (why there is no command) and ``traps`` (ids of known differences).
    """
    known = traps()
    rows = published_numbers().to_dict("records")
    return pd.DataFrame(
        [_entry({str(k): v for k, v in row.items()}, sources, known) for row in rows]
    )


def _entry(row: dict[str, Any], sources: Sources, known: pd.DataFrame) -> dict[str, Any]:
    recipe = recipe_of(row)
    ours = beside(row, recipe, sources)
    first = asdict(ours[0] if ours else Ours())
    return {
        **row,
        **{f"ours_{name}": value for name, value in first.items()},
        "others": ours[1:],
        "status": status_of(row, recipe, ours),
        "command": recipe.command,
        "reason": recipe.reason,
        "traps": traps_of(row, known),
    }


def counts(ledger: Ledger) -> pd.DataFrame:
    """How many rows have each status: a row a status that occurs, a column a paper, ``figures``."""
    numbers = pd.crosstab(ledger.numbers["status"], ledger.numbers["paper"])
    figures = ledger.figures["status"].value_counts().rename("figures")
    table = numbers.join(figures, how="outer").fillna(0).astype(int)
    papers = ["dct", "benchmark"]
    others = [name for name in table.columns if name not in papers]
    kept = [status for status in STATUSES if status in table.index]
    return table.loc[kept, [*(p for p in papers if p in table), *others]]


# Sentences that read the ledger, made from its tables.
def read_counts(ledger: Ledger) -> str:
    """How many numbers have ours beside them, and how many only a command or a reason."""
    numbers = ledger.numbers
    ours, run = numbers["ours_n"] > 0, numbers["command"] != ""
    bare = (~ours & ~run).sum()
    same = (numbers["status"] == SAME).sum()
    drawn = ledger.figures["files"].map(len).astype(bool).sum()
    return (
        f"Of {len(numbers)} published numbers {ours.sum()} have ours beside them, {same} of these "
        f"from the published protocol itself; {(~ours & run).sum()} have the command that would "
        f"run them, and {bare} a reason why there is none yet. Of the paper's "
        f"{len(ledger.figures)} figures {drawn} are drawn."
    )


def read_cells(cells: pd.DataFrame) -> str:
    """How many directions agree, and what part of the gap DCT closes there and here.

    Args:
        cells: from :func:`study.ledger.page.cells_table`.
    """
    judged = cells[(cells["ours_n"] > 0) & (cells["ours_status"] != REFERENCE)]
    count = {status: (judged["ours_status"] == status).sum() for status in STATED}
    text = ", ".join(f"{number} {words}" for words, number in _stated(count))
    lines = [
        f"{row['method']} closes {percent(row['share'])} of the gap in the published mean, and "
        f"as `{row['ours_method']}` {percent(row['ours_share'])} of it here"
        for row in judged[judged["method"] == "DCT"].to_dict("records")
    ]
    head = f"Of {len(judged)} readings of published methods that were run here, {text}."
    return " ".join([head, *(f"{line}." for line in lines)])


STATED = {
    AGREES: "agree in direction with the published mean",
    DISAGREES: "do not",
    UNDECIDED: "are undecided",
}


def _stated(count: dict[str, int]) -> list[tuple[str, int]]:
    return [(words, count[status]) for status, words in STATED.items()]


# The parts of the ledger's page that sum it up, as markdown.
def counts_markdown(ledger: Ledger) -> str:
    """How many published numbers, by paper, and figures have each status."""
    table = counts(ledger)
    table.insert(0, "all", table.sum(axis=1))
    body = [[str(status), *map(str, row)] for status, row in table.T.items()]
    return markdown_table(["status", *table.columns], body)


def meanings() -> str:
    """What each status means."""
    return markdown_table(["status", "means"], STATUSES.items())


def cells_table(scenes: StandIn) -> pd.DataFrame:
    """Published means over the scene cells with ours beside them; a row a reading of a method.

    Columns are those of :func:`study.ledger.page.nine_cells` and, with the prefix ``ours_``,
    of :class:`study.ledger.rows.Ours`; a method that was not run has ``ours_n`` 0.
    """
    return pd.DataFrame(list(_cell_rows(scenes)))


def _cell_rows(scenes: StandIn) -> Iterator[dict[str, Any]]:
    for cell in nine_cells().to_dict("records"):
        row = {str(name): value for name, value in cell.items()} | {"metric": "top1"}
        for ours in on_stand_in(row, scenes) or [Ours()]:
            own = {f"ours_{name}": value for name, value in asdict(ours).items()}
            yield {**row, **own}


def cells_markdown(cells: pd.DataFrame) -> str:
    """What :func:`cells_table` gave as markdown; the published mean gain is what is judged."""
    head = ["method", "cells", "published", "over student", "cells above", "of the gap"]
    head += ["over KD", "cells above", "ours", "over student (95 %)", "of the gap, ours"]
    head += ["over KD (95 %)", "status"]
    return markdown_table(head, map(_cell_line, cells.to_dict("records")))


def _cell_line(row: Mapping[Any, Any]) -> list[str]:
    compared, to_kd = row["gain"] == row["gain"], row["gain_kd"] == row["gain_kd"]
    return [
        row["method"],
        str(row["cells"]),
        number(row["mean"], ".2f"),
        number(row["gain"], "+.2f"),
        str(row["above"]) if compared else "–",
        percent(row["share"]),
        number(row["gain_kd"], "+.2f"),
        str(row["above_kd"]) if to_kd else "–",
        measured(row),
        interval(row, "ours_gain", "ours_low", "ours_high"),
        percent(row["ours_share"]),
        interval(row, "ours_gain_kd", "ours_low_kd", "ours_high_kd"),
        row["ours_status"] or "not run",
    ]


def order_markdown(scenes: StandIn) -> str:
    """Both readings of DCT: whether the order is the paper's, and which pairs are swapped."""
    parts = []
    for reading in (AS_RELEASED, AT_ITS_WORD):
        order = order_table(scenes, reading)
        if len(order) > 1:
            pairs = pair_table(order, scenes)
            parts += [f"**DCT {reading}.** {read_order(order, pairs)}\n", _ranks(order)]
            parts += [_against(pairs)]
    return "\n".join(parts) or "Fewer than two methods were run.\n"


def _ranks(order: pd.DataFrame) -> str:
    head = ["method", "as it is called here", "published mean", "rank", "ours", "rank"]
    body = [
        [
            row["method"], f"`{row['ours_method']}`", f"{row['published']:.2f}",
            str(row["published_rank"]), f"{row['ours']:.2f}", str(row["ours_rank"]),
        ]
        for row in order.to_dict("records")
    ]  # fmt: skip
    return markdown_table(head, body)


def _against(pairs: pd.DataFrame) -> str:
    """The pairs whose published order does not hold here."""
    against = pairs[pairs["status"] == DISAGREES]
    if against.empty:
        return "No pair's published order fails to hold here.\n"
    head = ["published better", "published worse", "by", "here by (95 %)", "n", "swapped"]
    body = [
        [
            row["better"], row["worse"], f"{row['published']:.2f}",
            interval(row, "difference", "low", "high"), str(row["n"]),
            "beyond noise" if row["swapped"] else "not beyond noise",
        ]
        for row in against.to_dict("records")
    ]  # fmt: skip
    return f"Pairs whose published order does not hold here:\n\n{markdown_table(head, body)}"


def sweep_markdown(sweep: pd.DataFrame) -> str:
    """Published and our accuracies over multiples of DCT's default weight."""
    table = sweep_table(sweep)
    head = ["times the default", *(f"{name}, {metric}" for name, metric in table.columns)]
    body = [[f"{alpha:g}", *(number(v, ".2f") for v in row)] for alpha, row in table.T.items()]
    note = "Published on ADE20K, ours on the dev split of another data set: compare shapes alone."
    return f"{note}\n\n{read_sweep(table)}\n\n{markdown_table(head, body)}"


def figures_markdown(figures: pd.DataFrame) -> str:
    """A row a figure of the paper."""
    head = ["figure", "shows", "panels", "ours", "status", "command", "known differences"]
    return markdown_table(head, map(_figure_line, figures.to_dict("records")))


def _figure_line(row: Mapping[Any, Any]) -> list[str]:
    files = ", ".join(f"[{_short(name, row['figure'])}]({name})" for name in row["files"])
    command = f"`{row['command']}`" if row["command"] else row["reason"]
    return [
        row["id"],
        row["shows"],
        row["panels"],
        files or "–",
        row["status"],
        command,
        row["note"],
    ]


def _short(file: str, figure: str) -> str:
    """A file's name without what all files of the figure have in common."""
    return PurePosixPath(file).stem.removeprefix(f"{figure}-")


def traps_markdown(traps: pd.DataFrame) -> str:
    """A row a known difference, with what is done here instead."""
    head = ["", "what", "published", "so", "here", "source"]
    columns = ["id", "title", "published", "effect", "ours", "source"]
    return markdown_table(head, traps[columns].to_numpy().tolist())


PAGE = "LEDGER.md"
HEAD = """# The paper and ours

Every number of [published/published.csv](published/published.csv) and every figure of the paper
(arXiv 2205.01997), beside ours or the one command that would produce ours. The page is made from
the committed records by `python -m kdlib ledger records --to LEDGER.md`. No number on it is typed,
and a test fails when it differs from the records. [Notebook 14](notebooks/14_ledger.ipynb) explains
it.

The paper's data sets cannot be shipped, so *Scenes* stands in for ADE20K, SUN397 and MIT67. Its
accuracies say nothing of theirs; what can be compared is the **direction**: what a method adds to
the student alone, or, of X + KD, what X adds to KD. A published gain claims that the method exceeds
its baseline, a published loss the reverse, and [the rule](study/statistics.py) says whether that
claim holds, paired over seeds and corrected over all methods of which the same is asked. *Of the
gap* is how much of the way from student to teacher a method goes. Of DCT both are run: what the
release computes, which is judged (with its gate, if that was run), and the paper's name taken at
its word, in the line below. For the photographs of FRSKD's paper Scenes stands in too, with its
classes for top-1 and its masks for mIoU; for the detectors of KD_cls and KD_loc, small ones of the
same kind on its boxes, where each metric is a family of its own, and what is small, medium or large
is a third of the objects.

Commands run as they are from the project's root: `python` is that of `.venv/bin`, the variable
`KDLIB_DATA` names the folder of the real data sets, and those of `make` run all pairs and seeds of
the published protocol. What stands under *ours* was run by `make reproduce` with the profile that
is named there. Accuracies are in percent, differences in points; of several seeds the mean ± the
standard deviation, and n.
"""
TITLES = {
    "dct": "The paper, cell by cell",
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
        parts += ["## The order of the methods\n", order_markdown(ledger.scenes)]
    parts += ["## The weight of the loss\n", sweep_markdown(ledger.sweep)]
    parts += ["## The paper's figures\n", figures_markdown(ledger.figures)]
    parts += ["## Known differences and traps\n", traps_markdown(ledger.traps)]
    papers: dict[str, list[str]] = {}
    for paper, text in number_blocks(ledger.numbers):
        papers.setdefault(paper, []).append(text)
    for paper, texts in papers.items():
        parts += [f"## {TITLES.get(paper, paper)}\n", *texts]
    return "\n".join(parts)


def _page_of(roots: Sequence[Path]) -> str:
    return ledger_page(make_ledger(load_records(*roots, task=None)))


def write_page(path: Path, roots: Sequence[Path]) -> None:
    """Make the page from the records under ``roots``.

    Raises:
        KdlibError: no records, or a damaged one.
    """
    write_text(Path(path), _page_of(roots))


def check_page(path: Path, roots: Sequence[Path]) -> None:
    """Refuse a page that is not what the records give.

    Raises:
        KdlibError: there is no page, or it differs; names the first line that does.
    """
    path = Path(path)
    found = path.read_text(encoding="utf-8") if path.exists() else ""
    parting = first_difference(found, _page_of(roots))
    if parting:
        raise KdlibError(
            f"{path} differs from the records in its {parting}\n"
            f"Make it anew: python -m kdlib ledger {' '.join(map(str, roots))} --to {path}"
        )
