"""What each figure shows, as the table that it is drawn from.

One function a figure, of the same name. Each takes runs of :func:`kdlib.run_table.load_records`
(which ones, :data:`kdlib.figures.SCOPES` says: of one setting, unless it is named there) and
returns a tidy table that is empty where the runs have nothing to show. Accuracies and shares are
fractions.
"""

from kdlib.figure_tables.ablations import transform_ablation, weight_ablation, weight_sensitivity
from kdlib.figure_tables.answers import correct_incorrect
from kdlib.figure_tables.attention import (
    attention_maps,
    map_spectra,
    relevance_by_stage,
    ssim_by_stage,
)
from kdlib.figure_tables.classes import class_changes
from kdlib.figure_tables.common import KEY_METHODS
from kdlib.figure_tables.comparison import (
    architecture_gain,
    attentions_gain,
    method_accuracy,
    noise_gauge,
    paired_differences,
    training_curves,
)
from kdlib.figure_tables.cost import accuracy_cost, detection_cost
from kdlib.figure_tables.detection import (
    detection_ablations,
    detection_gain,
    detection_iou,
    detection_weights,
    error_types,
)
from kdlib.figure_tables.trust import calibration, robustness

__all__ = [
    "KEY_METHODS",
    "accuracy_cost",
    "architecture_gain",
    "attention_maps",
    "attentions_gain",
    "calibration",
    "class_changes",
    "correct_incorrect",
    "detection_ablations",
    "detection_cost",
    "detection_gain",
    "detection_iou",
    "detection_weights",
    "error_types",
    "map_spectra",
    "method_accuracy",
    "noise_gauge",
    "paired_differences",
    "relevance_by_stage",
    "robustness",
    "ssim_by_stage",
    "training_curves",
    "transform_ablation",
    "weight_ablation",
    "weight_sensitivity",
]
