"""A figure on disk: pdf, png and, beside them, where it comes from. The same bytes every time."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from kdlib.errors import KdlibError
from kdlib.files import write_atomic, write_json
from kdlib.style import figure_style

PNG_BYTES = 300 * 1024
RESOLUTIONS = (160, 110, 80)  # dots an inch, the first that fits


def figure_provenance(runs: pd.DataFrame, drawn: pd.DataFrame) -> dict[str, Any]:
    """What a figure comes from: the records of ``runs`` and the table that was ``drawn``.

    Returns:
        ``records``: run ids with their commits; ``uncommitted``: those of a changed working
        tree; ``hash``: SHA-256 of the drawn table, rounded to nine digits; ``table``: its text.
    """
    text = drawn.to_csv(index=False, float_format="%.9g", lineterminator="\n")
    return {
        "records": dict(sorted(zip(runs["run_id"], runs["commit"], strict=True))),
        "uncommitted": sorted(runs.loc[runs["dirty"].astype(bool), "run_id"]),
        "hash": hashlib.sha256(text.encode()).hexdigest(),
        "table": text.splitlines(),
    }


@figure_style()
def save_figure(figure: Figure, path: Path, provenance: Mapping[str, Any]) -> list[Path]:
    """Write ``path`` with the suffixes ``.pdf``, ``.png`` (at most 300 KB) and ``.json``.

    No file holds a date, so drawing the same records again changes nothing.

    Raises:
        KdlibError: the figure does not fit 300 KB at any resolution.
    """
    # Laid out once, and not again for each file and resolution.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    # Appended, not replaced: a name may hold a dot.
    pdf, png, beside = (Path(f"{path}{suffix}") for suffix in (".pdf", ".png", ".json"))
    write_atomic(
        pdf, lambda file: figure.savefig(file, format="pdf", metadata={"CreationDate": None})
    )
    write_atomic(png, lambda file: _save_small_png(figure, file))
    write_json(beside, json.loads(json.dumps(provenance)))
    return [pdf, png, beside]


def _save_small_png(figure: Figure, file: Path) -> None:
    for resolution in RESOLUTIONS:
        figure.savefig(file, format="png", dpi=resolution, metadata={"Software": None})
        if file.stat().st_size <= PNG_BYTES:
            return
    raise KdlibError(f"{file.name} is larger than {PNG_BYTES} bytes; draw less in one figure.")
