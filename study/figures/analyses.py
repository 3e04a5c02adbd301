"""Images that the teacher gets right and the student alone gets wrong."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from kdlib.data.fashion import OUTFITS
from kdlib.data.scenes import SCENE_CLASSES
from kdlib.runs import read_record
from study.analyses.measure import (
    ANSWERS_FILE,
    FILES_FILE,
    KEY_METHODS,
    Answers,
    analyses_of,
    load_answers,
)
from study.figures.comparison import students_of, with_interval, with_teacher_label
from study.figures.pictures import as_picture
from study.figures.style import (
    COLUMN,
    NEUTRAL,
    PAGE,
    curve,
    dot,
    figure_style,
    legend,
    look,
    methods_of,
    name_of,
    named_rows,
    new_figure,
    no_difference,
    rows_height,
    seeds_text,
    shown,
)
from study.names import difference_name
from study.statistics import t_interval

# Images that the teacher gets right and the student alone gets wrong: who learns them?
ANSWERS_OF = ("teacher", "student", "kd", "at", "dct", "dct+kd")
SHOWN = 8


def correct_incorrect_table(
    table: pd.DataFrame, methods: Sequence[str] = ANSWERS_OF
) -> pd.DataFrame:
    """Answers to the images that the teacher gets right and the student alone wrong; one seed.

    Columns: ``position`` (in the test set), ``true`` class, ``label``, ``run_id``, ``answer``,
    ``right``, ``shown`` (of the first eight, which the figure shows). Empty without the answers
    of teacher and student, or without such images.
    """
    runs = _with_answers(with_teacher_label(table, methods, ANSWERS_FILE))
    if not {"teacher", "student"} <= set(runs):
        return pd.DataFrame()
    teacher, student = runs["teacher"][1], runs["student"][1]
    labels = teacher.labels
    chosen = ((teacher.answers == labels) & (student.answers != labels)).nonzero()[:, 0].tolist()
    rows = [
        {
            "position": place,
            "true": teacher.classes[int(labels[place])],
            "label": label,
            "run_id": run,
            "answer": teacher.classes[int(found.answers[place])],
            "right": bool(found.answers[place] == labels[place]),
            "shown": number < SHOWN and place < len(teacher.images),
        }
        for number, place in enumerate(chosen)
        for label, (run, found) in runs.items()
    ]
    return pd.DataFrame(rows)


def _with_answers(runs: pd.DataFrame) -> dict[str, tuple[str, Answers]]:
    """Of each label the first run that has its answers, in the order of ``ANSWERS_OF``."""
    found: dict[str, tuple[str, Answers]] = {}
    if runs.empty:
        return found
    for row in runs.sort_values("init_seed", kind="stable").to_dict("records"):
        directory = Path(row["directory"])
        if row["label"] not in found and (directory / ANSWERS_FILE).exists():
            found[row["label"]] = row["run_id"], load_answers(directory)
    return {label: found[label] for label in ANSWERS_OF if label in found}


# Which classes gain by a method, and which lose.
CHANGES = (("dct", "student"), ("dct", "at"))
# Of data sets that are composed here; of others the records hold numbers alone.
NAMES = {"scenes": tuple(SCENE_CLASSES), "fashion_scenes": tuple(OUTFITS)}
SEEDS = ["data_seed", "init_seed"]


def class_changes_table(table: pd.DataFrame) -> pd.DataFrame:
    """Difference in accuracy of each class, paired over seeds: DCT less student, DCT less AT.

    Columns: ``class``, ``method``, ``baseline``, ``difference``, ``low``, ``high`` (95 %
    interval), ``n``; classes in ascending order of DCT less student. Classes without test images
    are left out. Empty with fewer than two seeds.
    """
    students = students_of(table)
    rows = []
    for method, baseline in CHANGES:
        pair = [_per_class(students[students["label"] == one]) for one in (method, baseline)]
        if all(map(len, pair)):
            differences = (pair[0] - pair[1]).dropna(how="all")
            rows += _changes(differences, method, baseline)
    changes = pd.DataFrame(rows)
    if changes.empty or changes["n"].max() < 2:
        return pd.DataFrame()
    first = changes[changes["baseline"] == changes["baseline"].iloc[0]]
    order = list(first.sort_values("difference", kind="stable")["class"])
    return changes.sort_values(
        "class", key=lambda names: names.map(order.index), kind="stable"
    ).reset_index(drop=True)


def class_names(dataset: str, count: int) -> tuple[str, ...]:
    """Names of a data set's classes; ``class 1`` and so on where the records have no names."""
    numbered = tuple(f"class {number}" for number in range(1, count + 1))
    known = NAMES.get(dataset, numbered)
    return known if len(known) == count else numbered


def _per_class(runs: pd.DataFrame) -> pd.DataFrame:
    """Accuracies: a row a seed, a column a class."""
    found = {}
    for row in runs.to_dict("records"):
        record = read_record(Path(row["directory"]) / "record.json")
        shares = record["results"]["per_class"]
        named = zip(class_names(row["dataset"], len(shares)), shares, strict=True)
        found[tuple(row[name] for name in SEEDS)] = dict(named)
    return pd.DataFrame.from_dict(found, orient="index", dtype=float)


def _changes(differences: pd.DataFrame, method: str, baseline: str) -> list[dict[str, object]]:
    rows = []
    for name, column in differences.items():
        values = column.dropna().to_numpy(float)
        if len(values):
            low, high = t_interval(values)
            identity = {"class": name, "method": method, "baseline": baseline}
            found = {"difference": values.mean(), "low": low, "high": high, "n": len(values)}
            rows.append({**identity, **found})
    return rows


# How far a network can be trusted: its confidence, and its answers to harmed images.
def calibration_table(table: pd.DataFrame, methods: Sequence[str] = KEY_METHODS) -> pd.DataFrame:
    """A row a method and bin of confidence, the test images of all its seeds together.

    Columns: ``label``, ``bin`` (1 to 15), ``count``, ``confidence`` and ``accuracy`` (means; bins
    without images are left out); ``ece``, the mean over seeds of the expected calibration error,
    with its 95 % interval ``low``, ``high`` and ``n``.
    """
    rows = [
        {"label": row["label"], "seed": row["init_seed"], "ece": found["ece"], "bin": number,
         "count": count, "sure": count * (confidence or 0), "right": count * (accuracy or 0)}
        for row, analysis in analyses_of(with_teacher_label(table, methods, FILES_FILE))
        for found in [analysis["calibration"]]
        for number, (count, confidence, accuracy) in enumerate(
            zip(found["count"], found["confidence"], found["accuracy"], strict=True), 1
        )
    ]  # fmt: skip
    if not rows:
        return pd.DataFrame()
    bins = pd.DataFrame(rows)
    errors = with_interval(bins[bins["bin"] == 1], ["label"], "ece").rename(columns={"mean": "ece"})
    pooled = bins.groupby(["label", "bin"], as_index=False)[["count", "sure", "right"]].sum()
    pooled = pooled[pooled["count"] > 0]
    means = {"confidence": "sure", "accuracy": "right"}
    pooled = pooled.assign(**{name: pooled[sums] / pooled["count"] for name, sums in means.items()})
    return pooled.drop(columns=["sure", "right"]).merge(errors, on="label")


def robustness_table(table: pd.DataFrame, methods: Sequence[str] = KEY_METHODS) -> pd.DataFrame:
    """Top-1 at each level of each corruption, 0 being whole images.

    Columns: ``corruption``, ``label``, ``level``, ``mean``, ``low``, ``high`` (95 % interval over
    seeds), ``n``.
    """
    rows = [
        {"corruption": name, "label": row["label"], "level": level, "top1": top1}
        for row, analysis in analyses_of(with_teacher_label(table, methods, FILES_FILE))
        for name, found in analysis["robustness"].items()
        for level, top1 in zip(found["level"], found["top1"], strict=True)
    ]
    keys = ["corruption", "label", "level"]
    return with_interval(pd.DataFrame(rows), keys, "top1") if rows else pd.DataFrame()


COLUMNS = 4
LINE = 0.115  # inches of a line of answers


@figure_style()
def correct_incorrect(table: pd.DataFrame) -> Figure:
    """The first such images with every network's answer; a tick marks the right ones.

    The heading says how many of all such images each method gets right.
    """
    data = shown(correct_incorrect_table(table))
    places = list(dict.fromkeys(data.loc[data["shown"], "position"]))
    images = _images(table, data)
    rows, labels = -(-len(places) // COLUMNS), list(dict.fromkeys(data["label"]))
    side = PAGE / COLUMNS * 0.62
    height = rows * (side + LINE * (len(labels) + 1)) + 0.45
    figure, panels = new_figure(PAGE, height, COLUMNS, rows)
    for axes in panels:
        axes.set_axis_off()
    for axes, place in zip(panels, places, strict=False):
        _answered(axes, images[place], data[data["position"] == place])
    figure.suptitle(_heading(data), fontsize=7.5)
    return figure


def _images(table: pd.DataFrame, data: pd.DataFrame) -> tuple[Tensor, ...]:
    """The images that lie beside the teacher's answers."""
    run = data.loc[data["label"] == "teacher", "run_id"].iloc[0]
    return load_answers(Path(table.loc[table["run_id"] == run, "directory"].iloc[0])).images


def _answered(axes: Axes, image: Tensor, answers: pd.DataFrame) -> None:
    axes.imshow(as_picture(image))
    axes.set_title(str(answers["true"].iloc[0]), fontsize=7, pad=2)
    for line, row in enumerate(answers.to_dict("records")):
        mark = "✓" if row["right"] else f"✗ {row['answer']}"
        axes.annotate(
            f"{name_of(row['label'])}: {mark}", (0.5, 0), xycoords="axes fraction",
            xytext=(0, -8.3 * (line + 1)), textcoords="offset points", ha="center", fontsize=6.5,
            color="black" if row["right"] else NEUTRAL,
        )  # fmt: skip


def _heading(data: pd.DataFrame) -> str:
    count = data["position"].nunique()
    shares = data.groupby("label", sort=False)["right"].mean().drop(["teacher", "student"])
    read = ", ".join(f"{name_of(str(label))} {share:.0%}" for label, share in shares.items())
    return f"{count} images are right by the teacher and wrong by the student. Of these: {read}"


# Which classes gain by a method, and which lose.
MOST = 40  # classes in one figure; of more, those that change most in either direction


@figure_style()
def class_changes(table: pd.DataFrame) -> Figure:
    """Difference in accuracy of each class with 95 % interval, those that gain most on top."""
    data = shown(class_changes_table(table))
    order = list(dict.fromkeys(data["class"]))
    if len(order) > MOST:
        order = order[: MOST // 2] + order[-MOST // 2 :]
    figure, (axes,) = new_figure(COLUMN, 0.9 + rows_height(len(order)))
    no_difference(axes)
    baselines = list(dict.fromkeys(data["baseline"]))
    for number, baseline in enumerate(baselines):
        own = data[data["baseline"] == baseline].set_index("class")
        style, shift = look(baseline), 0.2 - 0.4 * number / max(1, len(baselines) - 1)
        label = difference_name(own["method"].iloc[0], baseline)
        for row, name in enumerate(order):
            if name in own.index:
                mean, low, high = 100 * own.loc[name, ["difference", "low", "high"]].astype(float)
                axes.plot([low, high], [row + shift] * 2, c=style.colour, lw=1)
                axes.plot(mean, row + shift, style.marker, c=style.colour, ms=3.5, label=label)
                label = ""
    named_rows(axes, order)
    axes.set_xlabel("difference in the class's accuracy (points)")
    figure.legend(loc="outside upper center", ncols=2)
    return figure


# How far a network can be trusted: its confidence, and its answers to harmed images.
FEWEST = 100  # images of a bin that is drawn: fewer scatter by more than the methods differ
UNITS = {
    "noise": "standard deviation of the noise (white is 1)",
    "occlusion": "hidden share of the image (%)",
}
PERCENT = ("occlusion",)


@figure_style()
def calibration(table: pd.DataFrame) -> Figure:
    """Left: accuracy less confidence, by confidence (bins of 100 images at least).

    Above 0 a network is better than it believes. Right: the expected calibration error, mean
    and 95 % interval.
    """
    data = shown(calibration_table(table))
    errors = data.drop_duplicates("label").sort_values("ece", ascending=False)
    figure, (left, right) = new_figure(PAGE, 2.7, columns=2)
    left.axhline(0, color=NEUTRAL, lw=0.8)
    for label in methods_of(data):
        bins, style = data[(data["label"] == label) & (data["count"] >= FEWEST)], look(label)
        gap = 100 * (bins["accuracy"] - bins["confidence"])
        left.plot(
            100 * bins["confidence"], gap, style.line, c=style.colour, marker=style.marker,
            mfc=style.face, ms=3.5,
        )  # fmt: skip
    left.set(xlabel="confidence (%)", ylabel="accuracy less confidence (points)")
    for row, one in enumerate(errors.to_dict("records")):
        values = pd.Series(one)[["ece", "low", "high"]].astype(float)
        dot(right, one["label"], 100 * values, row)
    named_rows(right, [name_of(label) for label in errors["label"]])
    right.set_xlim(left=0)
    students = errors[errors["label"] != "teacher"]
    right.set_xlabel(f"expected calibration error (points), {seeds_text(students)}")
    legend(figure, methods_of(data))
    return figure


@figure_style()
def robustness(table: pd.DataFrame) -> Figure:
    """Top-1 as images are harmed more and more, a panel a corruption; 95 % bands over seeds."""
    data = shown(robustness_table(table))
    kinds = list(dict.fromkeys(data["corruption"]))
    figure, panels = new_figure(PAGE, 2.7, columns=len(kinds), sharey=True)
    for axes, kind in zip(panels, kinds, strict=True):
        of_kind = data[data["corruption"] == kind]
        if kind in PERCENT:
            of_kind = of_kind.assign(level=100 * of_kind["level"])
        for label in methods_of(of_kind):
            curve(axes, label, of_kind[of_kind["label"] == label], "level")
        axes.set_xlabel(UNITS.get(kind, kind))
    panels[0].set_ylim(max(0, 100 * data["mean"].min() - 10), 100)
    panels[0].set_ylabel("top-1 accuracy (%)")
    legend(figure, methods_of(data))
    return figure
