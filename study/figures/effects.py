"""The study's figures, each of the runs of its profiles, compared over training sets."""

import json
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.optimize import isotonic_regression

from study.analyses.files import analyses_of
from study.figures import style, tables
from study.figures.style import COLUMN, PAGE, ROW, drawn_from, new_figure
from study.inference import DELTA, log_odds
from study.names import NAMED, NEUTRAL, difference_name, look, method_order, name_of
from study.records import load_histories
from study.statistics import t_interval

GUIDES, CELLS, LEVELS, MEASURED = (
    NAMED[name] for name in ("guides", "cells", "levels", "measured")
)
GUIDED = ("at", "parseval_twin", "kd")
OVER = (("at", "student"), ("release_a+gate", "student"), ("release_a+gate", "at"))
CLOSE = 0.06  # of the height of axes: labels beside them keep so far apart
SHOWN = 15  # points of accuracy below the student's last, from which on curves are shown


# What the tables have in common.
def students_in(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of networks that somebody taught, and of the same networks alone."""
    return runs[runs["student"].isin(runs.loc[runs["teacher"] != "none", "student"])]


def differences(
    runs: pd.DataFrame, pairs: Iterable[tuple[str, str]], **fields: Any
) -> Iterator[dict[str, Any]]:
    """A row a pair of ``name``: mean difference of ``value`` over samples, its interval and ``n``.

    The value on a sample is the mean over teachers.
    """
    values = runs.pivot_table(index="sample", columns="name", values="value")
    for method, baseline in pairs:
        if {method, baseline} <= set(values):
            found = (values[method] - values[baseline]).dropna().to_numpy()
            low, high = t_interval(found)
            row = {"method": method, "baseline": baseline, "difference": found.mean()}
            yield {**fields, **row, "low": low, "high": high, "n": len(found)}


def verdicts_table(runs: pd.DataFrame) -> pd.DataFrame:
    """The claims of the plan that have runs, as ``study.confirm`` judges them, in its order."""
    from study.confirm import Study

    judged = Study(sorted({Path(one).parent for one in runs["directory"]})).verdicts
    return judged[judged["log_odds"].notna()].drop(columns="by_teacher").reset_index(drop=True)


@drawn_from(verdicts_table)
def verdicts(data: pd.DataFrame) -> Figure:
    """Errors that one method removes of another's: 95 % (thick) and family intervals, words."""
    rows = data[::-1].to_dict("records")
    figure, (axes,) = new_figure(PAGE, 0.7 + 1.3 * ROW * len(rows))
    axes.axvspan(-100 * DELTA / (1 - DELTA), 100 * DELTA, color=style.NO_EFFECT, lw=0)
    axes.axvline(0, color=NEUTRAL, lw=0.8)
    for place, row in enumerate(rows):
        how = look(row["method"])
        for kind, width in (("_family", 1.0), ("", 3.2)):
            ends = row[f"reduction{kind}_low"], row[f"reduction{kind}_high"]
            axes.plot(ends, [place] * 2, c=how.colour, lw=width, solid_capstyle="butt")
        axes.plot(row["reduction"], place, how.marker, c=how.colour, mfc=how.face, ms=6)
        words = f"{row['verdict']}, {round(row['points'], 1) + 0:+.1f} points"
        _text_beside(axes, words, place, "black")
    style.named_rows(axes, [*map(_claim_name, rows)])
    axes.set_xlabel("errors of the second method that the first does not make (%)")
    return _settled(figure)


def _claim_name(row: Mapping[str, Any]) -> str:
    more = {"equal epochs": ""}.get(row["budget"], f", {row['budget']}")
    more += f", slope over {row['over']}" if row["over"] else ""
    return difference_name(row["method"], row["baseline"]) + more


def learning_curves_table(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a method and ``epoch``: ``mean`` accuracy, its interval, ``tera`` operations before.

    ``saves`` (with interval): how many epochs earlier than the student alone a method has what that
    ends with; 0 if it never has. Rows without ``n`` are students alone after other ``epochs``.
    """
    students = students_in(runs)
    usual = students["epochs"].mode().get(0)
    own = students[students["epochs"] == usual]
    own = own[own["sample"].isin(own.loc[own["method"] == "student", "sample"])]
    if own.empty:
        return pd.DataFrame()
    curves = load_histories(own).merge(own[["run_id", "method", "sample"]], on="run_id")
    values = curves.groupby(["method", "sample", "epoch"])["accuracy"].mean().rename("value")
    found = tables.with_interval(values.reset_index(), ["method", "epoch"], "value")
    ends = values.xs(usual, level="epoch")["student"]
    early = values.unstack("epoch").apply(lambda curve: _saved(curve, ends[curve.name[1]]), axis=1)
    saves = tables.with_interval(early.rename("value").reset_index(), ["method"], "value")
    found = found.merge(saves.rename(columns={"mean": "saves"}).drop(columns="n"), on="method",
                        suffixes=("", "_saves"))  # fmt: skip
    other = students[students["method"].eq("student") & students["epochs"].ne(usual)]
    other = other.groupby(["method", "epochs"], as_index=False)["top1"].mean()
    found = pd.concat([found, other.rename(columns={"epochs": "epoch", "top1": "mean"})])
    return found.assign(tera=_operations(found, own, runs)).reset_index(drop=True)


def _saved(curve: pd.Series, goal: float) -> float:
    reached = curve.index[curve >= goal]
    return curve.index[-1] - reached[0] if len(reached) else 0.0


def _operations(rows: pd.DataFrame, students: pd.DataFrame, runs: pd.DataFrame) -> pd.Series:
    """10^12 operations up to an epoch: forward and backward, a teacher's answers to two views."""
    first = students.drop_duplicates("method").set_index("method")
    answers = first["teacher"].map(runs.groupby("student")["flops"].first()).fillna(0)
    step, once = 3 * first["flops"] * first["train_size"], 2 * answers * first["train_size"]
    return (rows["epoch"] * rows["method"].map(step) + rows["method"].map(once)) / 1e12


@drawn_from(learning_curves_table)
def learning_curves(data: pd.DataFrame) -> Figure:
    """Accuracy over epochs and operations (ring: the student alone after other epochs); savings."""
    heights = {"height_ratios": [3, 3, 2]}
    figure, (*panels, saved) = new_figure(COLUMN, 6.4, rows=3, gridspec_kw=heights)
    lines, rings = data[data["n"].notna()], data[data["n"].isna()]
    last = lines[lines["epoch"] == lines["epoch"].max()].set_index("method")
    bottom = 100 * last.loc["student", "mean"] - SHOWN
    for axes, x in zip(panels, ("epoch", "tera"), strict=True):
        for method, own in lines.groupby("method"):
            how, values = look(str(method)), style.percent(own, "mean")
            axes.plot(own[x], values[0], c=how.colour, ls="-" if how.face == how.colour else "--")
            axes.fill_between(own[x], *values[1:], color=how.colour, alpha=0.15, lw=0)
        axes.plot(rings[x], 100 * rings["mean"], "o", c=NEUTRAL, mfc="white", ls="")
        axes.set(ylim=(bottom, 100 * last["mean"].max() + 2), ylabel="top-1 accuracy (%)")
        _beside(axes, 100 * last["mean"], {method: name_of(method) for method in last.index})
    panels[0].set_xlabel("epoch")
    panels[1].set_xlabel("operations of training (10$^{12}$)")
    early = last.drop(index="student").sort_values("saves")
    for place, (method, row) in enumerate(early.iterrows()):
        values = row["saves"], row["low_saves"], row["high_saves"]
        style.dot(saved, str(method), values, place)
        _text_beside(saved, name_of(str(method)), place, look(str(method)).colour)
    style.named_rows(saved, [""] * len(early))
    saved.set_xlabel("epochs less for what the student alone ends with")
    return _settled(figure)


def _beside(axes: Axes, values: pd.Series, told: Mapping[str, str]) -> None:
    """Texts in the colours of their methods at the right, where their values are or close by."""
    low, high = axes.get_ylim()
    gap = CLOSE * (high - low) * (1 + max(text.count("\n") for text in told.values()))
    order = values.sort_values()
    steps = gap * np.arange(len(order))
    for name, place in zip(order.index, isotonic_regression(order - steps).x + steps, strict=True):
        _text_beside(axes, told[name], place, look(name).colour)


def _settled(figure: Figure) -> Figure:
    """The figure laid out once: the next layout knows which ticks there are, and cuts no text."""
    figure.draw_without_rendering()
    return figure


def _text_beside(axes: Axes, text: str, place: float, colour: str) -> None:
    how: Any = {"xycoords": ("axes fraction", "data"), "va": "center", "annotation_clip": False}
    axes.annotate(text, (1.02, place), fontsize=7, color=colour, **how)


def mechanism_table(runs: pd.DataFrame) -> pd.DataFrame:
    """A row a loss: what of it differs, and its gain over the student alone."""
    own = students_in(runs)
    own = own[own["method"].isin(["student", "dct_options"])]
    named = own.assign(name=own["method_options"].where(own["method"] != "student", "student"))
    pairs = [(one, "student") for one in dict.fromkeys(named["name"])]
    found = differences(named.assign(value=named["top1"]), (p for p in pairs if p[0] != p[1]))
    return pd.DataFrame([{**_cell(json.loads(row["method"])), **row} for row in found])


def _cell(options: Mapping[str, Any]) -> dict[str, str]:
    first, *_, last = options["level_weights"]
    levels = "sum" if first == last else "mean" if last > 3 * first else "equal"
    transform, band = options["transform"], options.get("band", [""])[0]
    kind = band or ("l1" if options.get("distance") == "l1" else transform)
    root = "squared" if options.get("distance") == "squared" else "root"
    centred = "centred" if options.get("drop_dc", True) else "not centred"
    return {"kind": kind, "column": f"{root}, {centred}", "levels": levels}


@drawn_from(mechanism_table)
def mechanism(data: pd.DataFrame) -> Figure:
    """Gain over the student alone: spatial losses as a grid, then transforms of one of them."""
    grid, others = data[data["kind"] == "none"], data[data["kind"] != "none"][::-1]
    heights = {"height_ratios": [3, 0.62 * max(1, len(others))]}
    figure, (above, below) = new_figure(COLUMN, 3.6, rows=2, gridspec_kw=heights)
    columns = list(dict.fromkeys(grid["column"]))
    cells = grid.pivot(index="levels", columns="column", values="difference").reindex(
        index=list(LEVELS), columns=columns
    )
    above.imshow(100 * cells, cmap="Blues", aspect="auto", vmin=0, vmax=200 * cells.max(axis=None))
    for row in grid.to_dict("records"):
        mean, low, high = style.percent(row)
        at = columns.index(row["column"]), list(LEVELS).index(row["levels"])
        text = f"{mean:+.1f}\n{low:.1f} to {high:.1f}"
        above.annotate(text, at, ha="center", va="center", fontsize=7)
    above.set_xticks(range(len(columns)), [one.replace(", ", "\n") for one in columns])
    above.set_yticks(range(len(LEVELS)), LEVELS.values())
    above.grid(visible=False)
    style.no_difference(below)
    for place, row in enumerate(others.to_dict("records")):
        style.dot(below, "parseval_twin", style.percent(row), place)
    style.named_rows(below, [CELLS[kind] for kind in others["kind"]])
    below.set_xlabel("gain in top-1 over the student alone (points)")
    return figure


def controls_table(runs: pd.DataFrame) -> pd.DataFrame:
    """By ``method`` and ``guide``: difference to the student alone and to the true teacher."""
    own = students_in(runs)
    if set(own["guide"]) <= {"teacher"}:  # there is nothing to compare with yet
        return pd.DataFrame()
    alone, named = own["method"] == "student", own["method"] + " " + own["guide"]
    own = own.assign(name=named.where(~alone, "student"), value=own["top1"])
    rows = []
    for method in GUIDED:
        for guide in GUIDES:
            shown = f"{method} {guide}"
            pairs = [(shown, one) for one in ("student", f"{method} teacher") if one != shown]
            for row in differences(own, pairs):
                baseline = row["baseline"].split()[-1]
                rows.append({**row, "method": method, "guide": guide, "baseline": baseline})
    return pd.DataFrame(rows)


@drawn_from(controls_table)
def controls(data: pd.DataFrame) -> Figure:
    """What students gain with something else in their teacher's place, and lose by it."""
    guides = [one for one in GUIDES if one in set(data["guide"])][::-1]
    methods = [one for one in GUIDED if one in set(data["method"])]
    figure, panels = new_figure(COLUMN, 3.6, columns=2, sharey=True)
    for axes, baseline in zip(panels, ("student", "teacher"), strict=True):
        style.no_difference(axes)
        for row in data[data["baseline"] == baseline].to_dict("records"):
            shift = 0.25 * (len(methods) / 2 - 0.5 - methods.index(row["method"]))
            place = guides.index(row["guide"]) + shift
            style.dot(axes, row["method"], style.percent(row), place, ms=4)
        style.named_rows(axes, [GUIDES[guide] for guide in guides])
    panels[0].set_xlabel("gain over the\nstudent alone (points)")
    panels[1].set_xlabel("difference to the\ntrue teacher (points)")
    style.legend(figure, methods)
    return figure


def attentions_table(runs: pd.DataFrame) -> pd.DataFrame:
    """By ``attentions``: differences in log-odds; accuracies of the plain student and teacher."""
    rows: list[dict[str, Any]] = []
    for number, some in runs.groupby("attentions"):
        own = students_in(some)
        value = log_odds(own["top1"] * own["test_size"], own["test_size"])
        alone, taught = own["method"] == "student", some["run_id"].isin(own["run_id"])
        plain = {
            "student": own.loc[alone, "top1"].mean(),
            "teacher": some.loc[~taught, "top1"].mean(),
        }
        named = own.assign(name=own["method"], value=value)
        rows += differences(named, OVER, attentions=number, **plain)
    return pd.DataFrame(rows)


@drawn_from(attentions_table)
def attentions(data: pd.DataFrame) -> Figure:
    """Gains in log-odds over attentions, and below how good plain student and teacher are."""
    heights = {"height_ratios": [3, 1.3]}
    figure, (above, below) = new_figure(COLUMN, 3.4, rows=2, sharex=True, gridspec_kw=heights)
    above.axhline(0, color=NEUTRAL, lw=0.8)
    last, told = {}, {}
    for place, ((method, baseline), own) in enumerate(data.groupby(["method", "baseline"])):
        name = method if baseline == "student" else "release_a"
        x = own["attentions"] + 0.12 * (place - 1)
        errors = own["difference"] - own["low"], own["high"] - own["difference"]
        how = look(name)
        above.errorbar(x, own["difference"], errors, c=how.colour, marker=how.marker, ls=how.line)
        last[name] = own["difference"].iloc[-1]
        told[name] = f"{name_of(method)}\nless {name_of(baseline)}"
    _beside(above, pd.Series(last), told)
    levels = data.drop_duplicates("attentions")
    for name in ("teacher", "student"):
        below.plot(levels["attentions"], 100 * levels[name], **style.marks(name))
        _text_beside(below, name, 100 * levels[name].iloc[-1], look(name).colour)
    above.set_ylabel("difference in log-odds")
    below.set(ylabel="top-1 (%)", xlabel="attentions (objects that make a class)")
    below.set_xticks(sorted(set(data["attentions"])))
    return _settled(figure)


# Measures beside accuracy: of records, and of analyses.
def _measured(rows: pd.DataFrame, kind: str) -> pd.DataFrame:
    """A row a ``method`` and ``measure`` of a figure: mean and interval over samples."""
    columns = [column for panel in MEASURED[kind] for column in panel["columns"]]
    if not set(columns) <= set(rows):
        return pd.DataFrame()
    long = rows.melt(["method", "sample"], columns, "measure").dropna()
    means = long.groupby(["method", "sample", "measure"], as_index=False)["value"].mean()
    return tables.with_interval(means, ["method", "measure"], "value")


def _measures(data: pd.DataFrame, kind: str) -> Figure:
    """A panel a group of measures, a row a method; the second of a group is drawn as a ring."""
    methods = sorted(set(data["method"]), key=method_order)[::-1]
    size = PAGE, 0.9 + style.rows_height(len(methods))
    figure, panels = new_figure(*size, columns=len(MEASURED[kind]), sharey=True)
    for axes, panel in zip(panels, MEASURED[kind], strict=True):
        for place, column in enumerate(panel["columns"]):
            for row in data[data["measure"] == column].to_dict("records"):
                values = [panel["scale"] * row[name] for name in ("mean", "low", "high")]
                face = "white" if place else look(row["method"]).colour
                style.dot(axes, row["method"], values, methods.index(row["method"]), mfc=face)
        style.named_rows(axes, [name_of(method) for method in methods])
        words = zip("●○", filter(None, panel["columns"].values()), strict=False)
        axes.set_xlabel("\n".join([panel["title"], "  ".join(map(" ".join, words))]))
    return figure


def fidelity_table(runs: pd.DataFrame) -> pd.DataFrame:
    """How students agree with their teacher, where it is right and wrong; calibration."""
    return _measured(students_in(runs), "fidelity")


fidelity = style.Drawing(fidelity_table, partial(_measures, kind="fidelity"))


def objects_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Selectivity of the last stage's maps, and what taking an object out costs, from analyses."""
    taught = set(students_in(runs)["run_id"])
    rows = []
    for run, analysis in analyses_of(runs):
        method = run["method"] if run["run_id"] in taught else "teacher"
        found = {
            n: v[-1] if isinstance(v, list) else v for n, v in analysis.get("objects", {}).items()
        }
        rows.append({"method": method, "sample": run["sample"], **found})
    return _measured(pd.DataFrame(rows), "objects")


objects = style.Drawing(objects_table, partial(_measures, kind="objects"))
