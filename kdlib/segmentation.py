"""How well pixels are classified: IoU of each class and their mean, by torchmetrics."""

from typing import Any

from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from kdlib.distributed import ALONE, Team
from kdlib.errors import KdlibError
from kdlib.tasks import IGNORED


class SegmentationMarks:
    """What is known of one network's masks, batch after batch: a table of confusions.

    Args:
        classes: number of classes K.
        team: the processes that each add a part of the batches; results are of all of them.
    """

    def __init__(self, classes: int, team: Team = ALONE) -> None:
        # Checking arguments would look for the different values of every mask, which takes longer
        # than counting them; ``add`` checks what could be wrong.
        options: dict[str, Any] = {
            "ignore_index": IGNORED,
            "validate_args": False,
            "sync_on_compute": team.size > 1,
            "dist_sync_fn": lambda counts, group: team.gathered(counts),
        }
        self.metrics = MetricCollection(
            {
                "confusion": MulticlassConfusionMatrix(classes, **options),
                "miou": MulticlassJaccardIndex(classes, average="macro", **options),
                "per_class": MulticlassJaccardIndex(classes, average="none", **options),
            },
            compute_groups=[["confusion", "miou", "per_class"]],  # counted once for all three
        )
        self.classes = classes

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count a batch: logits (B, K, H, W), labels (B, H, W).

        Raises:
            KdlibError: a label that has no logit.
        """
        largest = int(labels.where(labels != IGNORED, 0).max())
        if largest >= self.classes or logits.shape[1] != self.classes:
            raise KdlibError(
                f"Masks of {self.classes} classes, the largest {largest}, do not fit logits of "
                f"{logits.shape[1]}; evaluate with the classes that the network was made for."
            )
        self.metrics.update(logits.argmax(1).cpu(), labels.cpu())

    def results(self) -> dict[str, Any]:
        """Fractions over all pixels that count.

        Returns:
            ``miou``, the mean over the classes that occur in the truth or in the answers;
            ``pixel_accuracy``; ``per_class``, the IoU of each class, ``None`` where it occurs in
            neither.

        Raises:
            KdlibError: no pixel counts.
        """
        found = self.metrics.compute()
        confusion = found["confusion"]
        if confusion.sum() == 0:
            raise KdlibError(
                f"No pixel of these masks counts (all are {IGNORED}); evaluate at least one mask "
                "with a pixel that does."
            )
        occurs = (confusion.sum(0) + confusion.sum(1) > 0).tolist()
        values = zip(found["per_class"].tolist(), occurs, strict=True)
        return {
            "miou": found["miou"].item(),
            "pixel_accuracy": (confusion.diag().sum() / confusion.sum()).item(),
            "per_class": [iou if occurring else None for iou, occurring in values],
        }
