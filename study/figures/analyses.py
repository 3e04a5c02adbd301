"""What the mean accuracy does not say: who learns which images and classes, and how surely."""

from collections.abc import Iterator, Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from kdlib.data.fashion import OUTFITS
from kdlib.data.scenes import SCENE_CLASSES
from study.analyses import ANSWERS_FILE
from study.analyses.files import load_answers
from study.figures import style, tables
from study.figures.pictures import as_picture
from study.figures.style import COLUMN, PAGE, drawn_from, new_figure
from study.names import NEUTRAL, difference_name, look, name_of
from study.records import record_of
from study.statistics import PAIR, comparison_of

ANSWERS_OF = ("teacher", "student", "kd", "at", "dct", "release_a+gate", "release_a+gate+kd")
SHOWN, COLUMNS = 8, 4  # images that are shown, and in a row
LINE = 0.115  # inches of a line of answers
CHANGES = (("release_a+gate", "student"), ("release_a+gate", "at"))
MOST = 40  # classes in one figure; of more, those that change most in either direction
# Of data sets that are composed here; of others the records hold numbers alone.
CLASSES = {"scenes": tuple(SCENE_CLASSES), "fashion_scenes": tuple(OUTFITS)}
FEWEST = 100  # images of a bin that is drawn: fewer scatter by more than the methods differ
UNITS = {
    "noise": ("standard deviation of the noise (white is 1)", 1),
    "occlusion": ("hidden share of the image (%)", 100),
}


def correct_incorrect_table(table: pd.DataFrame) -> pd.DataFrame:
    """Answers to the images that the teacher gets right and the student alone wrong; one seed.

    Columns: ``position`` (in the test set), ``true`` class, ``label``, ``run_id``, ``answer``,
    ``right``, ``shown``: of the first eight. Attribute ``images``: as the teacher has them.
    """
    paths = tables.first_runs(ANSWERS_FILE, table, ANSWERS_OF)
    found = {label: load_answers(path) for label, path in paths.items()}
    if not {"teacher", "student"} <= set(found):
        return pd.DataFrame()
    teacher, student = found["teacher"], found["student"]
    labels, classes = teacher.labels.tolist(), teacher.classes
    chosen = ((teacher.answers == teacher.labels) & (student.answers != student.labels)).nonzero()
    rows = [
        {
            "position": place, "true": classes[labels[place]], "label": label,
            "run_id": paths[label].name, "answer": classes[own.answers[place]],
            "right": bool(own.answers[place] == labels[place]),
            "shown": number < SHOWN and place < len(teacher.images),
        }
        for number, place in enumerate(chosen.flatten().tolist())
        for label, own in found.items()
    ]  # fmt: skip
    data = pd.DataFrame(rows)
    data.attrs["images"] = teacher.images
    return data


@drawn_from(correct_incorrect_table)
def correct_incorrect(data: pd.DataFrame) -> Figure:
    """The first such images with every network's answer; how many of all each method gets right."""
    images = data[data["shown"]].groupby("position")
    rows = -(-len(images) // COLUMNS)
    side = PAGE / COLUMNS * 0.62
    height = rows * (side + LINE * (data["label"].nunique() + 1)) + 0.45
    figure, panels = new_figure(PAGE, height, COLUMNS, rows, bare=True)
    for axes, (place, answers) in zip(panels, images, strict=False):
        axes.imshow(as_picture(data.attrs["images"][place]))
        axes.set_title(answers["true"].iloc[0], fontsize=7, pad=2)
        below: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
        below |= {"ha": "center", "fontsize": 6.5}
        for line, row in enumerate(answers.to_dict("records"), 1):
            mark, colour = ("✓", "black") if row["right"] else (f"✗ {row['answer']}", NEUTRAL)
            text = f"{name_of(row['label'])}: {mark}"
            axes.annotate(text, (0.5, 0), (0, -8.3 * line), color=colour, **below)
    shares = data.groupby("label", sort=False)["right"].mean().drop(["teacher", "student"])
    told = ", ".join(f"{name_of(label)} {share:.0%}" for label, share in shares.items())
    count = data["position"].nunique()
    head = f"{count} images are right by the teacher and wrong by the student. Of these: {told}"
    figure.suptitle(head, fontsize=7.5)
    return figure


def class_changes_table(table: pd.DataFrame) -> pd.DataFrame:
    """Difference in accuracy of each ``class``, paired over two seeds at least: of ``CHANGES``."""
    students, rows = tables.students_of(table), []
    for pair in CHANGES:
        method, baseline = (_per_class(students[students["label"] == one]) for one in pair)
        for name, values in (method - baseline).items() if len(method) and len(baseline) else ():
            found = comparison_of(values.dropna().to_numpy(), *pair)
            rows += [{"class": name, **vars(found)}] if found.n else []
    if max((row["n"] for row in rows), default=0) < 2:
        return pd.DataFrame()
    changes = pd.DataFrame(rows)[["class", "method", "baseline", "difference", "low", "high", "n"]]
    first = changes[changes["baseline"] == changes["baseline"].iloc[0]]
    order = list(first.sort_values("difference", kind="stable")["class"])
    return tables.in_order(changes, "class", order).reset_index(drop=True)


def _per_class(runs: pd.DataFrame) -> pd.DataFrame:
    """Accuracies: a row a seed, over its teachers, a column a class."""
    found = []
    for row in runs.to_dict("records"):
        shares = record_of(row["directory"])["results"]["per_class"]
        named = zip(class_names(row["dataset"], len(shares)), shares, strict=True)
        found.append({**{name: row[name] for name in PAIR}, **dict(named)})
    return pd.DataFrame(found, columns=None if found else PAIR).groupby(PAIR).mean()


def class_names(dataset: str, count: int) -> tuple[str, ...]:
    """Names of a data set's classes; ``class 1`` and so on where they are not known."""
    known = CLASSES.get(dataset, ())
    return known if len(known) == count else tuple(f"class {n}" for n in range(1, count + 1))


@drawn_from(class_changes_table)
def class_changes(data: pd.DataFrame) -> Figure:
    """Difference in accuracy of each class with 95 % interval, those that gain most on top."""
    order = list(dict.fromkeys(data["class"]))
    order = order if len(order) <= MOST else order[: MOST // 2] + order[-MOST // 2 :]
    figure, (axes,) = new_figure(COLUMN, 0.9 + style.rows_height(len(order)))
    style.no_difference(axes)
    series = data[data["class"].isin(order)].groupby(["method", "baseline"], sort=False)
    for number, (pair, own) in enumerate(series):
        shift = 0.2 - 0.4 * number / max(1, len(series) - 1)
        places = own["class"].map(order.index) + shift
        style.forest_series(axes, places, own, look(pair[1])[:2], difference_name(*pair))
    style.named_rows(axes, order)
    axes.set_xlabel("difference in the class's accuracy (points)")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


def calibration_table(table: pd.DataFrame) -> pd.DataFrame:
    """A row a method and ``bin`` of confidence (1 to 15), its images of all seeds together.

    ``count``, ``confidence`` and ``accuracy`` (means) of bins that are not empty; ``ece``: the
    expected calibration error, mean over seeds with its interval.
    """
    bins = tables.from_analyses(table, _bins)
    if bins.empty:
        return bins
    errors = tables.with_interval(bins[bins["bin"] == 1], ["label"], "ece")
    pooled = bins.groupby(["label", "bin"], as_index=False)[["count", "sure", "right"]].sum()
    pooled = pooled[pooled["count"] > 0].rename(columns={"sure": "confidence", "right": "accuracy"})
    for mean in ("confidence", "accuracy"):
        pooled[mean] /= pooled["count"]
    return pooled.merge(errors.rename(columns={"mean": "ece"}), on="label")


def _bins(analysis: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    found = analysis["calibration"]
    bins = zip(found["count"], found["confidence"], found["accuracy"], strict=True)
    for number, (count, confidence, accuracy) in enumerate(bins, 1):
        sums = {"sure": count * (confidence or 0), "right": count * (accuracy or 0)}
        yield {"ece": found["ece"], "bin": number, "count": count, **sums}


@drawn_from(calibration_table)
def calibration(data: pd.DataFrame) -> Figure:
    """Accuracy less confidence, by confidence (of 100 images at least); calibration errors."""
    figure, (left, right) = new_figure(PAGE, 2.7, columns=2)
    left.axhline(0, color=NEUTRAL, lw=0.8)
    for label in style.methods_of(data):
        bins = data[(data["label"] == label) & (data["count"] >= FEWEST)]
        gap = 100 * (bins["accuracy"] - bins["confidence"])
        left.plot(100 * bins["confidence"], gap, **style.marks(label), ms=3.5)
    left.set(xlabel="confidence (%)", ylabel="accuracy less confidence (points)")
    errors = data.drop_duplicates("label").sort_values("ece", ascending=False)
    style.forest(right, errors, errors["label"].map(name_of), "ece")
    right.set_xlim(left=0)
    seeds = style.seeds_text(errors[errors["label"] != "teacher"], "")
    right.set_xlabel(f"expected calibration error (points), {seeds}")
    style.legend(figure, style.methods_of(data))
    return figure


def robustness_table(table: pd.DataFrame) -> pd.DataFrame:
    """Top-1, ``mean`` with interval, by ``corruption``, ``label``, ``level``; 0: whole images."""
    rows = tables.from_analyses(table, _levels)
    return tables.with_interval(rows, ["corruption", "label", "level"], "top1")


def _levels(analysis: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for name, found in analysis["robustness"].items():
        for level, top1 in zip(found["level"], found["top1"], strict=True):
            yield {"corruption": name, "level": level, "top1": top1}


@drawn_from(robustness_table)
def robustness(data: pd.DataFrame) -> Figure:
    """Top-1 as images are harmed more and more, a panel a corruption; 95 % bands over seeds."""
    kinds = data.groupby("corruption")
    figure, panels = new_figure(PAGE, 2.7, columns=len(kinds), sharey=True)
    for axes, (kind, own) in zip(panels, kinds, strict=True):
        name, unit = UNITS[kind]
        style.curves(axes, own.assign(level=unit * own["level"]), "level")
        axes.set_xlabel(name)
    panels[0].set_ylim(max(0, 100 * data["mean"].min() - 10), 100)
    panels[0].set_ylabel("top-1 accuracy (%)")
    style.legend(figure, style.methods_of(data))
    return figure
