"""Notebook 14's own: is the order of the methods the paper's, and the two drawings of its page."""

from collections.abc import Mapping
from itertools import combinations

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy import stats

from study.figures.style import COLUMN, NEUTRAL, PAGE, figure_style, look
from study.ledger.page import METRICS, interval, nine_cells
from study.ledger.rows import (
    AGREES,
    DISAGREES,
    SCENE_DATASETS,
    StandIn,
    judged,
    our_methods,
    published_numbers,
)
from study.names import name_of
from study.results import markdown_table

AS_RELEASED, AT_ITS_WORD = "as released", "at its word"


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


TITLES = {"top1": "top-1", "top5": "top-5", "mca": "mean class accuracy"}
ROW = 0.26  # inches of height that a method takes
BELOW = 0.24  # of a row, from the published line to ours; a second reading as much further


@figure_style()
def gap_shares(cells: pd.DataFrame, gap: float) -> Figure:
    """What part of the way from student to teacher each method goes, published and here.

    Args:
        cells: from :func:`study.ledger.page.cells_table`.
        gap: teacher less student on the stand-in, 0 to 1.
    """
    shown = cells[cells["share"].notna()].sort_values("share", kind="stable")
    methods = list(dict.fromkeys(shown["method"]))
    size = (COLUMN + 0.6, 1.0 + ROW * len(methods))
    figure, axes = plt.subplots(figsize=size, layout="constrained")
    plt.close(figure)
    axes.axvline(0, color=NEUTRAL, lw=0.8)
    for place, method in enumerate(methods):
        _published_share(axes, method, place)
        readings = shown[(shown["method"] == method) & (shown["ours_n"] > 0)]
        for order, row in enumerate(readings.to_dict("records"), 1):
            _our_share(axes, pd.Series(row), place - BELOW * order, gap)
    axes.set_yticks(range(len(methods)), methods)
    axes.set(xlabel="part of the gap from student to teacher (%)", ylim=(-0.8, len(methods) - 0.4))
    axes.grid(axis="y", visible=False)
    figure.legend(handles=_entries(shown), loc="outside upper center", ncols=3)
    return figure


def _published_share(axes: Axes, method: str, place: float) -> None:
    """Each scene cell as a point, and their mean as a bar."""
    numbers = published_numbers()
    chosen = numbers["dataset"].isin(SCENE_DATASETS) & (numbers["method"] == method)
    shares = 100 * numbers.loc[chosen, "share"]
    axes.plot(shares, [place] * len(shares), "o", c=NEUTRAL, ms=2.5, alpha=0.5, mew=0)
    axes.plot([shares.mean()] * 2, [place - 0.14, place + 0.14], c="black", lw=1.6)


def _our_share(axes: Axes, row: pd.Series, place: float, gap: float) -> None:
    style = look(row["ours_method"])
    ends = [row["ours_low"] / gap, row["ours_high"] / gap]
    axes.plot(ends, [place] * 2, style.line, c=style.colour, lw=1.1)
    point = 100 * row["ours_share"], place
    axes.plot(*point, style.marker, c=style.colour, mfc=style.face, ms=4)


def _entries(shown: pd.DataFrame) -> list[Line2D]:
    """What the marks mean; our methods by name where a published one has several."""
    run = shown[shown["ours_n"] > 0]
    several = run[run.duplicated("method", keep=False)]
    return [
        Line2D([], [], ls="", marker="o", ms=2.5, mew=0, c=NEUTRAL, label="published, a cell"),
        Line2D([], [], ls="", marker="|", ms=6, mew=1.6, c="black", label="mean of the cells"),
        Line2D([], [], ls="-", marker="s", ms=4, c=NEUTRAL, label="ours, 95 % interval"),
        *(_entry(method) for method in several["ours_method"]),
    ]


def _entry(method: str) -> Line2D:
    style = look(method)
    return Line2D(
        [], [], ls=style.line, marker=style.marker, ms=4, c=style.colour, mfc=style.face,
        label=f"ours, {name_of(method)}",
    )  # fmt: skip


@figure_style()
def sweep_curves(table: pd.DataFrame) -> Figure:
    """Each curve of the sweep as points below its own best, for its level is another data set's.

    Args:
        table: from :func:`study.ledger.page.sweep_table`.
    """
    figure, panels = plt.subplots(1, len(METRICS), figsize=(PAGE, 2.4), layout="constrained")
    plt.close(figure)
    names = list(dict.fromkeys(table.columns.get_level_values(0)))
    for axes, metric in zip(panels, METRICS, strict=True):
        for name in names:
            curve = table[name][metric].dropna()
            style = look("teacher" if name == "published" else name)
            axes.semilogx(
                curve.index, curve - curve.max(), style.line, marker=style.marker, ms=4,
                c=style.colour, mfc=style.face, label=name_of(name),
            )  # fmt: skip
        axes.set_title(TITLES[metric])
    panels[0].set_ylabel("points below its own best")
    figure.supxlabel("multiple of the default weight", fontsize=8)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure
