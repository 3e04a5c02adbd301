"""What a network is asked for, how that is judged, and what its images may go through."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Measures:
    """How well a task is done.

    Attributes:
        metric: of a record's results, the one that runs are judged by.
        metrics: all that are one number, fractions, in the order in which tables show them.
        trainee: what trains its networks, as ``module:name``, where methods do not say it.
        monitored: column of ``history.csv`` with that metric on some of the evaluation set.
        marks: what counts a network's answers, as ``module:name``.
    """

    metric: str
    metrics: tuple[str, ...]
    monitored: str
    trainee: str | None = None
    marks: str = "kdlib.evaluate:ClassificationMarks"


TASKS: dict[str, Measures] = {
    "classification": Measures("top1", ("top1", "top5", "mca", "mca_all"), "accuracy"),
    "segmentation": Measures(
        "miou",
        ("miou", "pixel_accuracy"),
        "miou",
        marks="kdlib.frskd.segmentation:SegmentationMarks",
    ),
    "detection": Measures(
        "map", ("map", "map50", "map75"), "map50", "kdlib.detection.trainee:DetectorTrainee"
    ),
    "crops": Measures("top1", ("top1", "top5", "mca", "mca_all"), "accuracy"),
}
"""``crops`` is the classification of objects that are cut out by their boxes."""

MIXTURES = {"mixup": 0.2, "cutmix": 1.0}
"""Both parameters of the Beta distribution of the share, as FRSKD's paper has them."""
JOINT = "sla"
MIXING = (*MIXTURES, JOINT)
"""Augmentations that change what an image is labelled: rotations are classes with ``sla``."""
AUGMENTATIONS = ("flip", "crop", "random_crop", *MIXING)
IGNORED = 255
"""Value of a mask where a pixel counts neither in a loss nor in a result."""
