"""Sentences that read the tables of the analyses' figures, for the notebook on them."""

from collections.abc import Iterable

import pandas as pd

from study.names import difference_name, name_of
from study.results import amount

NOTHING = "These records have nothing to read here yet."


def _names(labels: Iterable[str]) -> str:
    return ", ".join(map(name_of, labels)) or "none"


def _points(value: float) -> str:
    """A share of accuracy in points, without a sign."""
    return amount(value, "top1", sign="")


def read_maps(maps: pd.DataFrame) -> str:
    """How many of the shown images each network gets right."""
    if maps.empty:
        return NOTHING
    right = (maps["true"] == maps["predicted"]).groupby(maps["label"], sort=False).sum()
    parts = ", ".join(f"{name_of(label)} {count}" for label, count in right.items())
    return f"Of these {maps['position'].nunique()} images, each network gets right: {parts}."


def read_answers(data: pd.DataFrame) -> str:
    """Of the images that only the teacher knows, how many each taught student gets right."""
    if data.empty:
        return NOTHING
    taught = data[~data["label"].isin(["teacher", "student"])]
    shares = taught.groupby("label")["right"].mean().sort_values(ascending=False, kind="stable")
    listed = ", ".join(f"{name_of(label)} {share:.0%}" for label, share in shares.items())
    return (
        f"Of {data['position'].nunique()} images that the teacher gets right and the student alone "
        f"gets wrong, those who were taught get right: {listed}. Another student alone, of another "
        "seed, would get some of them right too: this is what was learned and what was luck."
    )


def read_spectra(spectra: pd.DataFrame) -> str:
    """Mean frequency of the maps' energy at each stage: the teacher's, and who is nearest to it."""
    if spectra.empty:
        return NOTHING
    weighted = spectra.assign(part=spectra["frequency"] * spectra["mean"])
    means = weighted.groupby(["stage", "label"])["part"].sum().unstack()
    lines = ["Mean frequency of the energy, in half periods an image:\n"]
    for stage, row in means.iterrows():
        text = ", ".join(f"{name_of(label)} {value:.2f}" for label, value in row.items())
        if "teacher" in row and len(row) > 1:
            nearest = (row.drop("teacher") - row["teacher"]).abs().idxmin()
            text += f"; nearest to the teacher is {name_of(nearest)}"
        lines.append(f"* Stage {stage}: {text}")
    return "\n".join(lines)


def read_weights(grid: pd.DataFrame) -> str:
    """Each method's best weight in the grid, what a bad one costs, and who stays above the student.

    Args:
        grid: from :func:`study.figures.ablations.weight_sensitivity_table`.
    """
    if grid.empty:
        return NOTHING
    plain = grid.loc[grid["method"] == "student", "top1"]
    methods = grid[grid["method"] != "student"].groupby("method", sort=False)
    lines = []
    for method, own in methods:
        best = own.loc[own["top1"].idxmax()]
        line = f"* {name_of(method)}: best at {best['factor']:g} times its default "
        line += f"({best['top1']:.1%}); the worst of its {len(own)} weights costs "
        line += _points(best["top1"] - own["top1"].min())
        if len(plain):
            above = (own["top1"] > plain.iloc[0]).sum()
            line += f"; {above} of them are above the student alone"
        lines.append(line + ".")
    sizes = methods.size()
    if sizes.nunique() > 1:
        lines.append(
            f"\nThe grids differ in size, {sizes.min()} to {sizes.max()} weights a method, so "
            "nothing fair can be chosen from them yet; the same command ends them."
        )
    return "\n".join(lines)


def read_classes(changes: pd.DataFrame) -> str:
    """How many classes gain and lose, and which most."""
    lines = []
    for pair, own in changes.groupby(["method", "baseline"], sort=False) if len(changes) else ():
        ups, downs = (own["low"] > 0).sum(), (own["high"] < 0).sum()
        places = own["difference"].idxmax(), own["difference"].idxmin()
        ends = own.loc[list(places), ["class", "difference"]].to_numpy()
        most, least = (f"{name} ({amount(change, 'top1')})" for name, change in ends)
        lines.append(
            f"* {difference_name(*pair)}: of {len(own)} classes {ups} gain and {downs} lose, by "
            f"intervals that leave out 0; most: {most}, least: {least}."
        )
    return "\n".join(lines) or NOTHING


def read_calibration(bins: pd.DataFrame) -> str:
    """Whose confidence is nearest to its accuracy, and on which side each errs."""
    if bins.empty:
        return NOTHING
    errors = bins.groupby("label")["ece"].first().sort_values()
    sums = bins.assign(gap=bins["count"] * (bins["accuracy"] - bins["confidence"]))
    gaps = sums.groupby("label")["gap"].sum()[errors.index]
    best, worst = (f"{name_of(errors.index[n])} ({_points(errors.iloc[n])})" for n in (0, -1))
    return (
        f"The smallest expected calibration error is that of {best}, "
        f"the largest that of {worst}. On the whole, too modest: "
        f"{_names(gaps[gaps > 0].index)}; too sure: {_names(gaps[gaps < 0].index)}."
    )


def read_robustness(levels: pd.DataFrame) -> str:
    """At each corruption's strongest level: who keeps the largest share of its accuracy."""
    if levels.empty:
        return NOTHING
    lines = ["Of its accuracy on whole images, each keeps:\n"]
    for kind, own in levels.groupby("corruption", sort=False):
        means = own.pivot_table("mean", "level", "label")
        kept = (means.iloc[-1] / means.iloc[0]).sort_values(ascending=False)
        parts = ", ".join(f"{name_of(label)} {share:.0%}" for label, share in kept.items())
        lines.append(f"* {kind} at {means.index[-1]:g}: {parts}")
    return "\n".join(lines)


def read_costs(costs: pd.DataFrame) -> str:
    """The methods that none as cheap surpasses, and the most expensive."""
    if costs.empty:
        return NOTHING
    front = ", ".join(
        f"{name_of(row['label'])} ({amount(row['gain'], 'top1')} for {row['time'] - 1:+.1%} time)"
        for row in costs[costs["front"]].to_dict("records")
    )
    slow, large = (costs.loc[costs[cost].idxmax()] for cost in ("time", "memory"))
    return (
        f"No method as cheap surpasses {front}. The dearest step is that of "
        f"{name_of(slow['label'])} ({slow['time'] - 1:+.0%}); most memory takes "
        f"{name_of(large['label'])} ({large['memory'] - 1:+.0%})."
    )
