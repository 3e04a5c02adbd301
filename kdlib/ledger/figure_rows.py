"""A row for every figure of the paper: which of ours shows the same, and how it is drawn."""

from pathlib import Path
from typing import Any

import pandas as pd

from kdlib.execute import notebook_names
from kdlib.figures import FIGURES
from kdlib.ledger.names import DRAWN, PLANNED
from kdlib.ledger.published import published_figures

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
