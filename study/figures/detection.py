"""Detectors that a classifier of crops teaches: what they gain, and which errors they lose."""

import json
from functools import partial
from math import nan
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from kdlib.methods import METHODS
from study.figures import style, tables
from study.figures.ablations import weight_curves
from study.figures.style import COLUMN, PAGE, drawn_from, new_figure
from study.names import NAMED, NEUTRAL, OF_DETECTORS, as_text, look, name_of
from study.records import IOUS, student_settings
from study.statistics import (
    Comparison,
    differences,
    main_runs,
    paired_comparison,
    smallest_effect,
)

METRICS = {"map": "mAP", "map50": "AP at IoU 0.5", "map75": "AP at IoU 0.75"}
# Fields of a run that are choices of its method, beside the method's own options.
OF_RUN = ("weight", "crop_size", "teacher", "teacher_epochs")
ERRORS, SWITCHES = NAMED["errors"], NAMED["switches_of_detectors"]
WIDTH = 4.6  # inches: the names of choices need room


def _detectors(table: pd.DataFrame) -> pd.DataFrame:
    """The students of the table's one setting; none of another task."""
    return tables.students_of(table[table["task"] == "detection"])


def _over_student(table: pd.DataFrame, metrics: list[str]) -> pd.DataFrame:
    """Of each method and metric the comparison with the detector alone."""
    pairs = [(label, "student", metric) for label in OF_DETECTORS for metric in metrics]
    found = differences(main_runs(_detectors(table)), pairs)
    return found.assign(label=found["method"])


detection_gain_table = partial(_over_student, metrics=list(METRICS))


@drawn_from(detection_gain_table)
def detection_gain(data: pd.DataFrame) -> Figure:
    """Gain of each method over the detector alone with 95 % interval, a panel a metric."""
    labels = style.methods_of(data)[::-1]
    height = 0.75 + 1.2 * style.rows_height(len(labels))
    figure, panels = new_figure(PAGE, height, len(METRICS), sharex=True, sharey=True)
    for axes, (metric, title) in zip(panels, METRICS.items(), strict=True):
        style.no_difference(axes, smallest_effect(metric))
        own = tables.in_order(data[data["metric"] == metric], "label", labels)
        style.forest(axes, own, map(name_of, labels))
        axes.set_title(title)
    seeds = style.seeds_text(data)
    figure.supxlabel(f"gain over the detector alone (points), {seeds}", fontsize=8)
    return figure


def detection_iou_table(table: pd.DataFrame) -> pd.DataFrame:
    """As ``detection_gain_table``, in the AP at each ``iou`` that a detection must reach."""
    found = _over_student(table, [f"ap{percent}" for percent in IOUS])
    if len(found):
        found.insert(1, "iou", found["metric"].str.removeprefix("ap").astype(int) / 100)
    return found


@drawn_from(detection_iou_table)
def detection_iou(data: pd.DataFrame) -> Figure:
    """Gain of each method over the detector alone, by the IoU from which a detection is right."""
    figure, (axes,) = new_figure(COLUMN, 2.7)
    axes.axhline(0, color=NEUTRAL, lw=0.8)
    style.curves(axes, data.rename(columns={"difference": "mean"}), "iou")
    axes.set(xlabel="IoU from which a detection is right", ylabel="gain in AP (points)")
    style.legend(figure, style.methods_of(data), columns=2)
    return figure


def error_types_table(table: pd.DataFrame) -> pd.DataFrame:
    """What errors of each type cost in AP50 (``dap``), a row a run; of two methods at least."""
    runs = main_runs(_detectors(table))
    if runs.empty or runs["label"].nunique() < 2:
        return pd.DataFrame()
    runs = runs.rename(columns={f"dap_{name}": name for name in ERRORS})
    long = runs.melt(["label", "init_seed"], list(ERRORS), "error", "dap")
    means = tables.with_interval(long, ["error", "label"], "dap")
    return long.merge(means, on=["error", "label"])


@drawn_from(error_types_table)
def error_types(data: pd.DataFrame) -> Figure:
    """What each type of error costs in AP50: mean with 95 % interval, seeds as points."""
    labels = style.methods_of(data)[::-1]
    height = 0.8 + 2 * (0.25 + style.rows_height(len(labels)))
    figure, panels = new_figure(PAGE, height, columns=3, rows=2, sharey=True)
    for axes, (error, title) in zip(panels, ERRORS.items(), strict=True):
        own = data[data["error"] == error]
        for row, label in enumerate(labels):
            seeds = 100 * own.loc[own["label"] == label, "dap"]  # small, below their mean
            points: dict[str, Any] = {"c": look(label).colour, "ms": 2, "alpha": 0.6, "mew": 0}
            axes.plot(seeds, [row - 0.27] * len(seeds), "o", **points)
        means = tables.in_order(own.drop_duplicates("label"), "label", labels)
        style.forest(axes, means, map(name_of, labels), "mean")
        axes.set_title(title)
        right = axes.get_xlim()[1]
        axes.set_xlim(-0.05 * right, 1.03 * right)  # from 0, with room for markers at both ends
    text = f"AP50 that a type of error costs (points; scales differ), {style.seeds_text(data)}"
    figure.supxlabel(text, fontsize=8)
    return figure


def detection_ablations_table(table: pd.DataFrame) -> pd.DataFrame:
    """One choice of a method changed at a time: difference in mAP to the method as compared.

    ``switch``: an option of the method or one of ``OF_RUN``; ``used``: as compared, at 0.
    """
    rows: list[dict[str, Any]] = []
    own = table[table["task"] == "detection"]
    settings = [own[own["setting"] == setting] for setting in student_settings(own)]
    for runs in sorted(settings, key=len, reverse=True):  # the main student first
        runs = runs[runs["split"] == "train"]
        mains = main_runs(runs)["run_id"]
        for method in OF_DETECTORS:
            own = runs[runs["method"] == method]
            rows += _switched(own, own["run_id"].isin(mains)) if len(own) else []
    return pd.DataFrame(rows)


def _switched(own: pd.DataFrame, used: pd.Series) -> list[dict[str, Any]]:
    """Of a method's runs those that differ in one choice from the ones ``used`` (a mask)."""
    method, texts = METHODS[own["method"].iloc[0]], []  # what each run was given, defaults too
    for row in own.to_dict("records"):
        given = {name: row[name] for name in OF_RUN}
        given |= {"weight": method.weight} if pd.isna(row["weight"]) else {}
        options = {**method.options, **json.loads(row["method_options"])}
        texts.append(json.dumps({**given, **options}, sort_keys=True))
    choices = pd.Series(texts, index=own.index)
    base, found = json.loads(choices[used].iloc[0]), []
    for text in dict.fromkeys(choices[~used]):
        changed = [(name, v) for name, v in json.loads(text).items() if v != base.get(name)]
        difference = _difference(own[choices == text], own[used])
        found += [(*changed[0], False, difference)] if len(changed) == 1 and difference.n else []
    for switch in {one[0] for one in found}:
        found.append((switch, base[switch], True, _difference(own[used], own[used])))
    identity = dict(own.iloc[0][["student", "method"]])
    return [
        {
            **vars(one), **identity, "switch": switch,
            "value": as_text(value) if isinstance(value, list | str) else f"{value:g}",
            "used": main,
        }
        for switch, value, main, one in sorted(found, key=lambda one: one[:2])
    ]  # fmt: skip


def _difference(runs: pd.DataFrame, used: pd.DataFrame) -> Comparison:
    both = pd.concat([runs.assign(label="changed"), used.assign(label="used")])
    return paired_comparison(both, "changed", "used", "map")


@drawn_from(detection_ablations_table)
def detection_ablations(data: pd.DataFrame) -> Figure:
    """One choice changed at a time (hollow): mAP less that of the method as compared."""
    groups = data.groupby(["student", "method", "switch"], sort=False)
    top, names = len(data) + len(groups) - 1, list[str]()
    figure, (axes,) = new_figure(WIDTH, 0.8 + style.rows_height(top + 1))
    style.no_difference(axes, smallest_effect("map"))
    for (student, method, switch), rows in groups:
        whose = f", {student.removeprefix('scenes_')}" if data["student"].nunique() > 1 else ""
        names.append(f"{name_of(method)}{whose}: {SWITCHES.get(switch, switch)}")
        for one in rows.to_dict("records"):
            face: dict[str, Any] = {} if one["used"] else {"mfc": "white"}
            values = {**one, "low": nan, "high": nan} if one["used"] else one  # which lies at 0
            # The rows go down, from the topmost.
            style.dot(axes, method, style.percent(values), top - len(names), **face)
            names.append(f"{one['value']}    ")
    style.named_rows(axes, names[::-1])
    axes.set_xlabel(f"difference in mAP (points), {style.seeds_text(data[~data['used']])}")
    return figure


def detection_weights_table(table: pd.DataFrame) -> pd.DataFrame:
    """MAP by the weight of each method's terms, on the dev split; ``factor`` of the default."""
    runs = _detectors(table)
    runs = runs[runs["split"] == "dev"]
    if runs.empty:
        return pd.DataFrame()
    defaults = {method: METHODS[method].weight for method in OF_DETECTORS}
    weights = runs["weight"].astype(float).fillna(runs["method"].map(defaults))
    keys = ["method", "method_options", "weight"]
    groups = runs.assign(weight=weights).groupby(keys, dropna=False)["map"]
    found = groups.agg(map="mean", n="size").reset_index()
    several = found.groupby(keys[:2])["weight"].transform("nunique") > 1
    if not several.any():
        return pd.DataFrame()
    found = found[several | (found["method"] == "student")].drop(columns="method_options")
    return found.assign(factor=found["weight"] / found["method"].map(defaults))


@drawn_from(detection_weights_table)
def detection_weights(data: pd.DataFrame) -> Figure:
    """MAP on the dev split by the weight of each method; dashed: the detector alone."""
    figure, (axes,) = new_figure(COLUMN, 2.7)
    taught = [method for method in OF_DETECTORS if method in set(data["method"])]
    weight_curves(axes, data, "map", taught)
    axes.set(xlabel="weight / default weight", ylabel="mAP on the dev split (%)")
    alone = [Line2D([], [], c=NEUTRAL, ls="--", label="detector alone")]
    style.legend(figure, taught, alone if "student" in set(data["method"]) else [], columns=2)
    return figure
