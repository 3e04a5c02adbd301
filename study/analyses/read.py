"""Sentences that read the analyses, made from their tables (:mod:`study.figures`)."""

from collections.abc import Iterable

import pandas as pd

from study.names import difference_name, name_of
from study.results import amount

NOTHING = "These records have nothing to read here yet."


def read_maps(maps: pd.DataFrame) -> str:
    """How many of the shown images each network gets right."""
    if maps.empty:
        return NOTHING
    right = (maps["true"] == maps["predicted"]).groupby(maps["label"], sort=False).sum()
    shown = maps["position"].nunique()
    parts = [f"{name_of(str(label))} {count}" for label, count in right.items()]
    return f"Of these {shown} images, each network gets right: {', '.join(parts)}."


def read_answers(data: pd.DataFrame) -> str:
    """Of the images that only the teacher knows, how many each taught student gets right.

    Args:
        data: from :func:`study.figures.analyses.correct_incorrect_table`.
    """
    if data.empty:
        return NOTHING
    taught = data[~data["label"].isin(["teacher", "student"])]
    shares = taught.groupby("label")["right"].mean().sort_values(ascending=False, kind="stable")
    listed = ", ".join(f"{name_of(str(label))} {share:.0%}" for label, share in shares.items())
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
    lines = []
    for stage, row in means.iterrows():
        text = ", ".join(f"{name_of(str(label))} {value:.2f}" for label, value in row.items())
        line = f"* Stage {stage}: {text}"
        if "teacher" in row and len(row) > 1:
            far = (row.drop("teacher") - row["teacher"]).abs()
            line += f"; nearest to the teacher is {name_of(str(far.idxmin()))}"
        lines.append(line)
    return "Mean frequency of the energy, in half periods an image:\n\n" + "\n".join(lines)


def read_weights(grid: pd.DataFrame) -> str:
    """Each method's best weight in the grid, what a bad one costs, and who stays above the student.

    Args:
        grid: from :func:`study.figures.ablations.weight_sensitivity_table`.
    """
    if grid.empty:
        return NOTHING
    plain = grid.loc[grid["method"] == "student", "top1"]
    lines = []
    for method, own in grid[grid["method"] != "student"].groupby("method", sort=False):
        best = own.loc[own["top1"].idxmax()]
        line = f"* {name_of(str(method))}: best at {best['factor']:g} times its default "
        line += f"({best['top1']:.1%}); the worst of its {len(own)} weights costs "
        line += amount(best["top1"] - own["top1"].min(), "top1", sign="")
        if len(plain):
            above = int((own["top1"] > plain.iloc[0]).sum())
            line += f"; {above} of them are above the student alone"
        lines.append(line + ".")
    sizes = grid[grid["method"] != "student"].groupby("method").size()
    if sizes.nunique() > 1:
        lines.append(
            f"\nThe grids differ in size, {sizes.min()} to {sizes.max()} weights a method, so "
            "nothing fair can be chosen from them yet; `make reproduce PROFILE=tune` ends them."
        )
    return "\n".join(lines)


def read_switches(switches: pd.DataFrame) -> str:
    """Which switches of the DCT loss change its accuracy, by their intervals."""
    if switches.empty:
        return NOTHING
    better, worse = _clear(switches)
    rest = [one for one in switches["label"] if one not in (*better, *worse)]
    return (
        f"Better than DCT, by an interval above 0: {_names(better)}. Worse, by one below 0: "
        f"{_names(worse)}. Not told apart from it: {_names(rest)}. These intervals are not "
        "corrected for how many they are; the verdicts of notebook 06 are."
    )


def read_classes(changes: pd.DataFrame) -> str:
    """How many classes gain and lose, and which most."""
    if changes.empty:
        return NOTHING
    lines = []
    for (method, baseline), own in changes.groupby(["method", "baseline"], sort=False):
        ups, downs = int((own["low"] > 0).sum()), int((own["high"] < 0).sum())
        most, least = (own.loc[place] for place in (_top(own), own["difference"].idxmin()))
        lines.append(
            f"* {difference_name(str(method), str(baseline))}: of {len(own)} classes {ups} gain "
            f"and {downs} lose, by intervals that leave out 0; most: {most['class']} "
            f"({amount(most['difference'], 'top1')}), least: {least['class']} "
            f"({amount(least['difference'], 'top1')})."
        )
    return "\n".join(lines)


def read_calibration(bins: pd.DataFrame) -> str:
    """Whose confidence is nearest to its accuracy, and on which side each errs."""
    if bins.empty:
        return NOTHING
    errors = bins.groupby("label")["ece"].first().sort_values()
    sums = bins.assign(gap=bins["count"] * (bins["accuracy"] - bins["confidence"]))
    gaps = sums.groupby("label")["gap"].sum() / bins.groupby("label")["count"].sum()
    sides = {"too modest": gaps[gaps > 0].index, "too sure": gaps[gaps < 0].index}
    sides_text = "; ".join(
        f"{side}: {_names(one for one in errors.index if one in who)}"
        for side, who in sides.items()
    )
    best, worst = str(errors.index[0]), str(errors.index[-1])
    return (
        f"The smallest expected calibration error is that of {name_of(best)} "
        f"({amount(errors.iloc[0], 'top1', sign='')}), the largest that of {name_of(worst)} "
        f"({amount(errors.iloc[-1], 'top1', sign='')}). On the whole, {sides_text}."
    )


def read_robustness(levels: pd.DataFrame) -> str:
    """At each corruption's strongest level: who keeps the largest share of its accuracy."""
    if levels.empty:
        return NOTHING
    lines = []
    for kind, own in levels.groupby("corruption", sort=False):
        means = own.pivot_table("mean", "level", "label")
        kept = (means.iloc[-1] / means.iloc[0]).sort_values(ascending=False)
        parts = [f"{name_of(str(label))} {share:.0%}" for label, share in kept.items()]
        lines.append(f"* {kind} at {means.index[-1]:g}: {', '.join(parts)}")
    return "Of its accuracy on whole images, each keeps:\n\n" + "\n".join(lines)


def read_architectures(gains: pd.DataFrame) -> str:
    """For each pair of networks: which methods clearly gain, which clearly lose."""
    if gains.empty:
        return NOTHING
    lines = []
    for (teacher, student), own in gains.groupby(["teacher", "student"], sort=False):
        better, worse = _clear(own.assign(label=own["method"]))
        lines.append(
            f"* {teacher} → {student}: {len(better)} of {len(own)} methods gain by an interval "
            f"above 0; below 0 lie: {_names(worse)}; the highest is "
            f"{name_of(str(own.loc[_top(own), 'method']))} "
            f"({amount(own['difference'].max(), 'top1')})."
        )
    return "\n".join(lines)


def read_costs(costs: pd.DataFrame) -> str:
    """The methods that none as cheap surpasses, and the dearest."""
    if costs.empty:
        return NOTHING
    front = costs[costs["front"]]
    parts = [
        f"{name_of(row['label'])} ({amount(row['gain'], 'top1')} for {row['time'] - 1:+.1%} time)"
        for row in front.to_dict("records")
    ]
    dear = costs.loc[costs["time"].idxmax()]
    large = costs.loc[costs["memory"].idxmax()]
    return (
        f"No method as cheap surpasses {', '.join(parts)}. The dearest step is that of "
        f"{name_of(str(dear['label']))} ({dear['time'] - 1:+.0%}); most memory takes "
        f"{name_of(str(large['label']))} ({large['memory'] - 1:+.0%})."
    )


def _clear(rows: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Labels whose interval lies above 0, and those whose interval lies below."""
    return list(rows.loc[rows["low"] > 0, "label"]), list(rows.loc[rows["high"] < 0, "label"])


def _top(rows: pd.DataFrame) -> int:
    return int(rows["difference"].idxmax())


def _names(labels: Iterable[str]) -> str:
    return ", ".join(name_of(str(label)) for label in labels) or "none"
