"""Sentences that read the ledger, made from its tables."""

import pandas as pd

from kdlib.ledger import Ledger
from kdlib.ledger.blocks import percent
from kdlib.ledger.names import AGREES, DISAGREES, REFERENCE, SAME, UNDECIDED


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
        cells: from :func:`kdlib.ledger.sections.cells_table`.
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
