"""The sweep of DCT's weight: fourteen published points beside the grid that tuned ours.

Ours is on the dev split of another data set, so only the shapes of the curves can be compared.
The published weight is a multiple of the release's default, 1; ours one of each method's own.
"""

import pandas as pd

from kdlib.distillers import METHODS
from kdlib.ledger.names import METHODS_OF
from kdlib.ledger.published import published_numbers
from kdlib.run_table import student_settings

METRICS = ("top1", "top5", "mca")


def our_sweep(table: pd.DataFrame, dataset: str = "scenes") -> pd.DataFrame:
    """Accuracy at each multiple of the default weight, of each method that DCT is called here.

    Columns: ``method``, ``alpha``, ``n`` and, 0 to 1, means over seeds of the metrics. Empty
    where nothing was tuned.
    """
    dev = table[(table["split"] == "dev") & (table["dataset"] == dataset)]
    dev = dev[dev["setting"].isin(student_settings(table)) & dev["method"].isin(METHODS_OF["DCT"])]
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
