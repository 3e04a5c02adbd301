"""Do the methods come in the published order here?

The published order is by the mean over the nine cells of the scene data sets, so only methods
that were run in all of them have a place in it.
"""

from collections.abc import Mapping
from itertools import combinations

import pandas as pd
from scipy import stats

from kdlib.ledger.names import AGREES, DISAGREES, SCENE_DATASETS, our_methods
from kdlib.ledger.published import published_numbers
from kdlib.ledger.stand_in import StandIn, judged

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
