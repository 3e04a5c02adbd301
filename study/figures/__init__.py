"""Figures from records: one function a figure, each drawn from its namesake in figure_tables.

Every function takes a table of runs (:func:`study.records.load_records`), which ones
:data:`study.figures.SCOPES` says, and raises a KdlibError where these runs have nothing
to show. :func:`draw_all` draws whatever a folder of records can show.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from kdlib.runs import RunConfig
from study.figures.ablations import (
    transform_ablation,
    transform_ablation_table,
    weight_ablation,
    weight_ablation_table,
    weight_sensitivity,
    weight_sensitivity_table,
)
from study.figures.analyses import (
    calibration,
    calibration_table,
    class_changes,
    class_changes_table,
    correct_incorrect,
    correct_incorrect_table,
    robustness,
    robustness_table,
)
from study.figures.attention import (
    attention_maps,
    attention_maps_table,
    map_spectra,
    map_spectra_table,
    relevance_by_stage,
    relevance_by_stage_table,
    ssim_by_stage,
    ssim_by_stage_table,
)
from study.figures.comparison import (
    KEY_METHODS,
    architecture_gain,
    architecture_gain_table,
    attentions_gain,
    attentions_gain_table,
    method_accuracy,
    method_accuracy_table,
    noise_gauge,
    noise_gauge_table,
    paired_differences,
    paired_differences_table,
    training_curves,
    training_curves_table,
)
from study.figures.cost import (
    accuracy_cost,
    accuracy_cost_table,
    detection_cost,
    detection_cost_table,
)
from study.figures.detection import (
    detection_ablations,
    detection_ablations_table,
    detection_gain,
    detection_gain_table,
    detection_iou,
    detection_iou_table,
    detection_weights,
    detection_weights_table,
    error_types,
    error_types_table,
)
from study.figures.style import figure_provenance, save_figure
from study.records import (
    SEEDS,
    VARIANT,
    load_records,
    recorded_tasks,
    student_settings,
    with_teachers,
)

# What each figure shows, as the table that it is drawn from.


# All figures by name, and which runs each is drawn from.
FIGURES: dict[str, Callable[[pd.DataFrame], Figure]] = {
    draw.__name__: draw
    for draw in (
        method_accuracy, paired_differences, ssim_by_stage,
        relevance_by_stage, training_curves, noise_gauge,
        attentions_gain, architecture_gain, attention_maps,
        map_spectra, calibration, robustness, weight_ablation,
        weight_sensitivity, transform_ablation, class_changes,
        correct_incorrect, accuracy_cost, detection_gain,
        error_types, detection_iou, detection_ablations,
        detection_weights, detection_cost,
    )
}  # fmt: skip


class Scope(NamedTuple):
    """The runs that one figure is drawn from.

    Attributes:
        split: ``train`` for runs that the test set judged, ``dev`` for those that chose weights.
        free: fields of the configuration in which they may differ; none: runs of one setting.
        task: what was asked of the networks (``kdlib.data.image_data``).
    """

    split: str = "train"
    free: tuple[str, ...] = ()
    task: str = "classification"


SETTING = Scope()
DETECTORS = Scope(task="detection")
SCOPES: dict[str, Scope] = {
    "attentions_gain": Scope(free=("attentions", "distractors")),
    "architecture_gain": Scope(free=("student",)),
    "weight_ablation": Scope(split="dev"),
    "weight_sensitivity": Scope(split="dev"),
    **dict.fromkeys(
        ("detection_gain", "error_types", "detection_iou", "detection_cost"), DETECTORS
    ),
    "detection_ablations": Scope(free=("student",), task="detection"),
    "detection_weights": Scope(split="dev", task="detection"),
}


# Every figure that a folder of records can show, on disk.
def draw_all(records_root: Path, out: Path) -> list[Path]:
    """Draw every figure of every setting that has something to show into ``out``.

    Names are ``figure-dataset-a2``, with the student's network where it is not the usual one,
    and with the setting's hash where two settings would still share a name.

    Returns:
        The files written: pdf, png and provenance of each figure.

    Raises:
        KdlibError: no records, or a damaged one.
    """
    tasks = {scope.task for scope in (SETTING, *SCOPES.values())}
    found = [task for task in recorded_tasks(records_root) if task in tasks]
    written = []
    for task in found or [SETTING.task]:  # which there is no record of, and that is told
        for name, slug, runs in drawings(load_records(records_root, task=task), task):
            drawn = globals()[f"{name}_table"](runs)
            if not drawn.empty:
                provenance, path = figure_provenance(runs, drawn), Path(out) / f"{name}-{slug}"
                written += save_figure(FIGURES[name](runs), path, provenance)
    return written


def drawings(
    table: pd.DataFrame, task: str = SETTING.task
) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Name, file name's end and runs of every figure of a task that might be drawn."""
    scopes = dict.fromkeys([SETTING, *SCOPES.values()])
    for scope in [scope for scope in scopes if scope.task == task]:
        names = [name for name in FIGURES if SCOPES.get(name, SETTING) == scope]
        of_split = table[table["split"] == scope.split]
        students = of_split[of_split["setting"].isin(student_settings(of_split))]
        for slug, group in _slugs(students, scope):
            runs = with_teachers(of_split, group)
            for name in names:
                yield name, slug, runs


def _slugs(students: pd.DataFrame, scope: Scope) -> Iterator[tuple[str, pd.DataFrame]]:
    """Runs that agree in all settings but those that are free, with a name for their files."""
    if students.empty:
        return
    free = {*scope.free, "setting"} if scope.free else set()
    columns = [*students.columns[: students.columns.get_loc("top1")], "setting"]
    own = {"method", *VARIANT, *SEEDS, *free}
    groups = students.groupby([c for c in columns if c not in own], dropna=False)
    # Students that nobody taught have nothing beside them, and take no name away from others.
    taught = [group for _, group in groups if (group["teacher"] != "none").any()]
    slugs = [(_slug(group, scope), group) for group in taught]
    taken = [slug for slug, _ in slugs]
    for slug, group in slugs:
        unique = taken.count(slug) == 1
        yield slug if unique else f"{slug}-{group['setting'].iloc[0]}", group


def _slug(group: pd.DataFrame, scope: Scope) -> str:
    first = group.iloc[0]
    parts = [first["dataset"]]
    if "attentions" not in scope.free:
        parts.append(f"a{first['attentions']}")
    if "student" not in scope.free and first["student"] != RunConfig().student:
        parts.append(first["student"])
    return "-".join(parts)


__all__ = [
    "FIGURES",
    "KEY_METHODS",
    "SCOPES",
    "accuracy_cost",
    "accuracy_cost_table",
    "architecture_gain",
    "architecture_gain_table",
    "attention_maps",
    "attention_maps_table",
    "attentions_gain",
    "attentions_gain_table",
    "calibration",
    "calibration_table",
    "class_changes",
    "class_changes_table",
    "correct_incorrect",
    "correct_incorrect_table",
    "detection_ablations",
    "detection_ablations_table",
    "detection_cost",
    "detection_cost_table",
    "detection_gain",
    "detection_gain_table",
    "detection_iou",
    "detection_iou_table",
    "detection_weights",
    "detection_weights_table",
    "draw_all",
    "error_types",
    "error_types_table",
    "figure_provenance",
    "map_spectra",
    "map_spectra_table",
    "method_accuracy",
    "method_accuracy_table",
    "noise_gauge",
    "noise_gauge_table",
    "paired_differences",
    "paired_differences_table",
    "relevance_by_stage",
    "relevance_by_stage_table",
    "robustness",
    "robustness_table",
    "save_figure",
    "ssim_by_stage",
    "ssim_by_stage_table",
    "training_curves",
    "training_curves_table",
    "transform_ablation",
    "transform_ablation_table",
    "weight_ablation",
    "weight_ablation_table",
    "weight_sensitivity",
    "weight_sensitivity_table",
]
