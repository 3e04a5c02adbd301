"""All figures by name, and which runs each is drawn from."""

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from kdlib.figures import (
    ablations,
    answers,
    attention,
    classes,
    comparison,
    cost,
    detection,
    trust,
)

FIGURES: dict[str, Callable[[pd.DataFrame], Figure]] = {
    draw.__name__: draw
    for draw in (
        comparison.method_accuracy, comparison.paired_differences, attention.ssim_by_stage,
        attention.relevance_by_stage, comparison.training_curves, comparison.noise_gauge,
        comparison.attentions_gain, comparison.architecture_gain, attention.attention_maps,
        attention.map_spectra, trust.calibration, trust.robustness, ablations.weight_ablation,
        ablations.weight_sensitivity, ablations.transform_ablation, classes.class_changes,
        answers.correct_incorrect, cost.accuracy_cost, detection.detection_gain,
        detection.error_types, detection.detection_iou, detection.detection_ablations,
        detection.detection_weights, cost.detection_cost,
    )
}  # fmt: skip


class Scope(NamedTuple):
    """The runs that one figure is drawn from.

    Attributes:
        split: ``train`` for runs that the test set judged, ``dev`` for those that chose weights.
        free: fields of the configuration in which they may differ; none: runs of one setting.
        task: what was asked of the networks (``kdlib.tasks``).
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
