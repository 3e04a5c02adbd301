"""Figures from records: one function a figure, each drawn from its namesake in figure_tables.

Every function takes a table of runs (:func:`kdlib.run_table.load_records`), which ones
:data:`kdlib.figures.registry.SCOPES` says, and raises a KdlibError where these runs have nothing
to show. :func:`draw_all` draws whatever a folder of records can show.
"""

from kdlib.figure_files import figure_provenance, save_figure
from kdlib.figures.ablations import transform_ablation, weight_ablation, weight_sensitivity
from kdlib.figures.answers import correct_incorrect
from kdlib.figures.attention import (
    attention_maps,
    map_spectra,
    relevance_by_stage,
    ssim_by_stage,
)
from kdlib.figures.batch import draw_all
from kdlib.figures.classes import class_changes
from kdlib.figures.comparison import (
    architecture_gain,
    attentions_gain,
    method_accuracy,
    noise_gauge,
    paired_differences,
    training_curves,
)
from kdlib.figures.cost import accuracy_cost, detection_cost
from kdlib.figures.detection import (
    detection_ablations,
    detection_gain,
    detection_iou,
    detection_weights,
    error_types,
)
from kdlib.figures.registry import FIGURES, SCOPES
from kdlib.figures.trust import calibration, robustness

__all__ = [
    "FIGURES",
    "SCOPES",
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
    "draw_all",
    "error_types",
    "figure_provenance",
    "map_spectra",
    "method_accuracy",
    "noise_gauge",
    "paired_differences",
    "relevance_by_stage",
    "robustness",
    "save_figure",
    "ssim_by_stage",
    "training_curves",
    "transform_ablation",
    "weight_ablation",
    "weight_sensitivity",
]
