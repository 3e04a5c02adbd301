"""The published numbers as tables of a page: one for each paper, data set and pair of networks."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import Any

import pandas as pd

from kdlib.ledger.names import STATUSES
from kdlib.markdown import markdown_table, number

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
