"""What a network is asked for, how that is judged, and what its images may go through."""

from typing import NamedTuple


class Measures(NamedTuple):
    """How well a task is done: fractions. What it names, it names as ``module:name``."""

    metric: str  # of a record's results, the one that runs are judged by
    metrics: tuple[str, ...]  # all that are one number, in the order in which tables show them
    monitored: str  # column of history.csv with that metric on some of the evaluation set
    state: str | None = None  # what trains its networks, where methods do not say it
    marks: str = "kdlib.evaluate:ClassificationMarks"  # what counts a network's answers


_IMAGES = Measures("top1", ("top1", "top5", "mca", "mca_all"), "accuracy")
_PIXELS = Measures("miou", ("miou", "pixel_accuracy"), "miou")
_BOXES = Measures("map", ("map", "map50", "map75"), "map50")
TASKS: dict[str, Measures] = {
    "classification": _IMAGES,
    "segmentation": _PIXELS._replace(marks="kdlib.frskd.segmentation:SegmentationMarks"),
    "detection": _BOXES._replace(state="kdlib.detection.train_state:DetectorState"),
    "crops": _IMAGES,  # classification of objects that are cut out by their boxes
}
JOINT, ROTATIONS = "sla", 4  # logit r K + k is class k of K, turned by r right angles
MIXING = ("mixup", "cutmix", JOINT)  # change what an image is labelled, ``sla`` to its rotation
OF_LABELLED_IMAGES = ("black_crop", "resized_crop")  # augmentations for which masks are not moved
AUGMENTATIONS = ("flip", "crop", "random_crop", *OF_LABELLED_IMAGES, *MIXING)
IGNORED = 255  # value of a mask where a pixel counts neither in a loss nor in a result
