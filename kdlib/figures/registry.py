"""All figures by name, and which runs each is drawn from."""

from collections.abc import Callable
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

from kdlib.figures import ablations, answers, attention, classes, comparison, cost, trust

FIGURES: dict[str, Callable[[pd.DataFrame], Figure]] = {
    draw.__name__: draw
    for draw in (
        comparison.method_accuracy, comparison.paired_differences, attention.ssim_by_stage,
        attention.relevance_by_stage, comparison.training_curves, comparison.noise_gauge,
        comparison.attentions_gain, comparison.architecture_gain, attention.attention_maps,
        attention.map_spectra, trust.calibration, trust.robustness, ablations.weight_ablation,
        ablations.weight_sensitivity, ablations.transform_ablation, classes.class_changes,
        answers.correct_incorrect, cost.accuracy_cost,
    )
}  # fmt: skip


class Scope(NamedTuple):
    """The runs that one figure is drawn from.

    Attributes:
        split: ``train`` for runs that the test set judged, ``dev`` for those that chose weights.
        free: fields of the configuration in which they may differ; none: runs of one setting.
    """

    split: str = "train"
    free: tuple[str, ...] = ()


SETTING = Scope()
SCOPES: dict[str, Scope] = {
    "attentions_gain": Scope(free=("attentions", "distractors")),
    "architecture_gain": Scope(free=("student",)),
    "weight_ablation": Scope(split="dev"),
    "weight_sensitivity": Scope(split="dev"),
}
