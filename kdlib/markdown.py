"""Tables as markdown, and the blocks of the README that are made from records."""

import re
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path

import pandas as pd

from kdlib.errors import KdlibError
from kdlib.files import write_text
from kdlib.style import name_of
from kdlib.tasks import TASKS

SMALL_P = 0.001
_OF_IMAGES = {"top1": "top-1 %", "top1_std": "std", "top5": "top-5 %", "mca": "class mean %"}
_OF_DETECTORS = {"map": "mAP %", "map50": "mAP50 %", "map75": "mAP75 %"}
HEADS = {
    "classification": _OF_IMAGES,
    "segmentation": {"miou": "mIoU %", "miou_std": "std", "pixel_accuracy": "pixels %"},
    "detection": {
        name: head
        for metric, shown in _OF_DETECTORS.items()
        for name, head in ((metric, shown), (f"{metric}_std", "std"))
    },
    "crops": _OF_IMAGES,
}
"""Columns that tables show of a task, and what they are called."""


def summary_markdown(summary: pd.DataFrame) -> str:
    """A table for each setting of :func:`kdlib.run_table.summary_table`; accuracies in percent."""
    blocks = []
    for description, rows in summary.groupby("description", sort=False):
        has_attention = rows[["ssim", "energy_share"]].notna().any()
        heads = HEADS[rows["task"].iloc[0]]
        head = ["method", "n", *heads.values()]
        head += [name for name, shown in _ATTENTION.items() if has_attention[shown]]
        body = [_summary_row(row, heads, has_attention) for row in rows.to_dict("records")]
        blocks.append(f"**{description}**\n\n{markdown_table(head, body)}")
    return "\n".join(blocks)


_ATTENTION = {"SSIM": "ssim", "relevant %": "energy_share"}


def _summary_row(row: dict, heads: Iterable[str], shown: pd.Series) -> list[str]:
    # A variant by what it changes, as in figures; a method as it is asked for.
    label = name_of(row["label"]) if " [" in row["label"] else row["label"]
    cells = [label, str(row["n"])]
    cells += [_points(row[name], 2 if name.endswith("_std") else 1) for name in heads]
    if shown["ssim"]:
        cells.append(number(row["ssim"], ".3f"))
    if shown["energy_share"]:
        cells.append(_points(row["energy_share"]))
    return cells


def comparison_markdown(comparisons: pd.DataFrame) -> str:
    """The table of :func:`kdlib.comparisons.compare`: points of percent, or SSIM itself."""
    head = ["claim", "compared", "n", "difference", "95 % interval", "p (Holm)"]
    body = [_comparison_row(row) for row in comparisons.to_dict("records")]
    return markdown_table([*head, "n could resolve", "verdict"], body)


def claims_markdown(claims: pd.DataFrame) -> str:
    """A table of verdicts for each setting of :func:`kdlib.comparisons.claims_table`."""
    groups = claims.groupby("description", sort=False)
    return "\n".join(f"**{name}**\n\n{comparison_markdown(rows)}" for name, rows in groups)


def _comparison_row(row: dict) -> list[str]:
    scale, unit, digits = (1, "", 3) if row["metric"] == "ssim" else (100, "", 2)
    headline = row["metric"] in {measures.metric for measures in TASKS.values()}
    what = "" if headline else f", {metric_name(row['metric'])}"

    def show(value: float, sign: str = "+") -> str:
        return number(scale * value, f"{sign}.{digits}f") + unit

    interval = "–" if pd.isna(row["low"]) else f"{show(row['low'])} to {show(row['high'])}"
    return [
        row["claim"],
        f"{row['method']} − {row['baseline']}{what}",
        str(row["n"]),
        show(row["difference"]),
        interval,
        f"< {SMALL_P}" if row["p_holm"] < SMALL_P else number(row["p_holm"], ".3f"),
        show(row["resolvable"], ""),
        row["verdict"],
    ]


METRIC_NAMES = {
    "map50": "mAP50",
    "map75": "mAP75",
    "ap50_less_ap75": "mAP50 − mAP75",
    "ap75_less_ap50": "mAP75 − mAP50",
    "dap_cls": "dAP of classification errors",
    "dap_loc": "dAP of localisation errors",
}


def metric_name(metric: str) -> str:
    """A column of a table as it is written in words."""
    return METRIC_NAMES.get(metric, metric.replace("_", " "))


def _points(fraction: float, digits: int = 1) -> str:
    return number(100 * fraction, f".{digits}f")


def number(value: float, form: str) -> str:
    """A number in a format such as ``+.2f``; a dash where it is missing."""
    return "–" if pd.isna(value) else format(value, form)


def markdown_table(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A markdown table, columns aligned so that it reads well in a terminal too."""
    rows = [list(head), *map(list, body)]
    widths = [max(3, *(len(row[i]) for row in rows)) for i in range(len(head))]
    lines = [_line(row, widths) for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines) + "\n"


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
    return "| " + " | ".join(padded) + " |"


def update_block(path: Path, name: str, text: str) -> bool:
    """Put ``text`` between the markers ``<!-- results:NAME -->`` and ``<!-- /results:NAME -->``.

    Returns:
        Whether the file changed.

    Raises:
        KdlibError: the file has not exactly one such pair of markers.
    """
    before = Path(path).read_text(encoding="utf-8")
    start, stop = _block(before, path, name)
    after = f"{before[:start]}\n{text.strip()}\n{before[stop:]}"
    if after != before:
        write_text(Path(path), after)
    return after != before


def check_block(path: Path, name: str, text: str) -> None:
    """Refuse a file whose block differs from ``text``, which was made from the records.

    Raises:
        KdlibError: it differs (says in which line), or the markers are not there.
    """
    whole = Path(path).read_text(encoding="utf-8")
    start, stop = _block(whole, path, name)
    parting = first_difference(whole[start:stop].strip(), text.strip())
    if parting:
        raise KdlibError(
            f"{path}: the block 'results:{name}' differs from the records in its {parting}\n"
            "Make it anew."
        )


def first_difference(found: str, made: str) -> str:
    """The first line in which a file's text differs from what records give; empty if none does."""
    lines = zip_longest(found.splitlines(), made.splitlines(), fillvalue="(no line)")
    for number, (theirs, ours) in enumerate(lines, 1):
        if theirs != ours:
            return f"line {number}:\n  file:    {theirs}\n  records: {ours}"
    return ""


def _block(text: str, path: Path, name: str) -> tuple[int, int]:
    marked = rf"<!-- results:{re.escape(name)} -->(.*?)<!-- /results:{re.escape(name)} -->"
    found = list(re.finditer(marked, text, re.DOTALL))
    if len(found) != 1:
        raise KdlibError(
            f"{path} has {len(found)} blocks 'results:{name}'; it needs one: "
            f"<!-- results:{name} --> ... <!-- /results:{name} -->"
        )
    return found[0].span(1)
