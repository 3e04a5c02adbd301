"""Paper and ours, side by side: every published number and figure, and what runs it.

:func:`make_ledger` gathers it from the committed records, ``published/`` and the registries;
:mod:`kdlib.ledger.page` writes it as a page.
"""

from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from kdlib.ledger.commands import recipe_of
from kdlib.ledger.detectors import detector_stand_ins
from kdlib.ledger.figure_rows import figure_rows
from kdlib.ledger.names import STATUSES
from kdlib.ledger.published import published_numbers, traps, traps_of
from kdlib.ledger.rows import Ours, Sources, beside, status_of
from kdlib.ledger.stand_in import StandIn, self_taught_stand_ins, stand_in
from kdlib.ledger.sweep import our_sweep

__all__ = ["STATUSES", "Ledger", "counts", "ledger_table", "make_ledger"]


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
    """A row for each of :func:`kdlib.ledger.published.published_numbers`, in its order.

    Added are, of :class:`kdlib.ledger.rows.Ours` with the prefix ``ours_``, what is judged;
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
