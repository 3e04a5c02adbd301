"""The parts of the ledger's page that sum it up, as markdown."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import PurePosixPath
from typing import Any

import pandas as pd

from kdlib.ledger import Ledger, counts
from kdlib.ledger.blocks import interval, measured, percent
from kdlib.ledger.names import DISAGREES, STATUSES
from kdlib.ledger.order import (
    AS_RELEASED,
    AT_ITS_WORD,
    nine_cells,
    order_table,
    pair_table,
    read_order,
)
from kdlib.ledger.rows import Ours, on_stand_in
from kdlib.ledger.stand_in import StandIn
from kdlib.ledger.sweep import read_sweep, sweep_table
from kdlib.markdown import markdown_table, number


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

    Columns are those of :func:`kdlib.ledger.order.nine_cells` and, with the prefix ``ours_``,
    of :class:`kdlib.ledger.rows.Ours`; a method that was not run has ``ours_n`` 0.
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
