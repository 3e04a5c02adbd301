"""What a network is asked for: the class of an image, of each of its pixels, its objects."""

from dataclasses import dataclass

IGNORED = 255
"""Value of a mask where a pixel counts neither in a loss nor in a result."""


@dataclass(frozen=True)
class Measures:
    """How well a task is done.

    Attributes:
        metric: of a record's results, the one that runs are judged by.
        metrics: all that are one number, fractions, in the order in which tables show them.
        monitored: column of ``history.csv`` with that metric on some of the evaluation set.
    """

    metric: str
    metrics: tuple[str, ...]
    monitored: str


TASKS: dict[str, Measures] = {
    "classification": Measures("top1", ("top1", "top5", "mca", "mca_all"), "accuracy"),
    "segmentation": Measures("miou", ("miou", "pixel_accuracy"), "miou"),
    "detection": Measures("map", ("map", "map50", "map75"), "map50"),
    "crops": Measures("top1", ("top1", "top5", "mca", "mca_all"), "accuracy"),
}
"""``crops`` is the classification of objects that are cut out by their boxes."""
