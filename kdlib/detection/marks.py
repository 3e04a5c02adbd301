"""What is known of one detector, batch after batch, and what a record says of it."""

from collections.abc import Sequence
from typing import Any

import torch

from kdlib.data.objects import Objects
from kdlib.detection.average_precision import coco_measures
from kdlib.detection.error_types import error_types
from kdlib.errors import KdlibError
from kdlib.models.detections import Detections


class DetectionMarks:
    """Collects the detections of N images, in their order.

    Args:
        classes: number of classes C.
        objects: what there is to detect on these images.
    """

    def __init__(self, classes: int, objects: Objects) -> None:
        self.classes = classes
        self.objects = objects
        self.detections: list[Detections] = []

    def add(self, detections: Sequence[Detections]) -> None:
        """Take the detections of the next images.

        Raises:
            KdlibError: a class that there is not, or a number that is not finite.
        """
        for one in detections:
            here = Detections(*(values.detach().cpu() for values in one))
            check(here, self.classes, len(self.detections))
            self.detections.append(here)

    def results(self) -> dict[str, Any]:
        """All measures, fit for JSON; fractions, 0 to 1.

        Returns:
            Those of :func:`~kdlib.detection.average_precision.coco_measures`; ``errors``, what
            :func:`~kdlib.detection.error_types.error_types` returns; ``detections``, how many
            there are.

        Raises:
            KdlibError: there is nothing to detect, or not all images came.
        """
        if len(self.detections) != len(self.objects):
            raise KdlibError(
                f"Detections of {len(self.detections)} images, objects of {len(self.objects)}; add "
                "the detections of every image once, in the order of the objects."
            )
        return {
            **coco_measures(self.detections, self.objects, self.classes),
            "errors": error_types(self.detections, self.objects, self.classes),
            "detections": sum(len(one.scores) for one in self.detections),
        }


def check(one: Detections, classes: int, image: int) -> None:
    """Refuse what cannot be measured.

    Raises:
        KdlibError: a class that there is not, or a number that is not finite.
    """
    if not (torch.isfinite(one.boxes).all() and torch.isfinite(one.scores).all()):
        raise KdlibError(
            f"A box or a score of image {image} is not finite: the detector has diverged; train "
            "it with a lower learning rate."
        )
    strange = one.kinds[(one.kinds < 0) | (one.kinds >= classes)]
    if len(strange):
        raise KdlibError(
            f"Image {image} has a detection of class {int(strange[0])}, but the {classes} classes "
            f"are 0 to {classes - 1}; evaluate with the classes that the detector was made for."
        )
