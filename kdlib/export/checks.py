"""Whether an exported network is the network: the same answers, and as many of them right."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from kdlib.data.image_data import ImageData
from kdlib.evaluate import BATCH_SIZE, ClassificationMarks, Marks, images_at_once
from kdlib.export.deployed import pixel_batches
from kdlib.export.errors import ExportError
from kdlib.export.formats import Answer
from kdlib.export.networks import Exported
from kdlib.export.plan import Plan
from kdlib.segmentation import SegmentationMarks
from kdlib.tasks import TASKS

MOST_LOST = 0.01
"""By which a score may differ from its record's, which can have been measured in bfloat16."""
MOST_IMAGES = 2
"""Or by so many images, of a small test set."""


@torch.inference_mode()
def compare(network: Exported, images: Tensor, plan: Plan) -> dict[str, Any]:
    """The largest difference of any logit from PyTorch's, in batches of each of the plan's sizes.

    Args:
        network: in its two forms.
        images: (N, 3, H, W) uint8; of a batch size that does not divide N the last is smaller.
        plan: the sizes, and the tolerance.

    Raises:
        ExportError: more than that, or no number at all; names the first such batch size.
    """
    wanted = network.deployed(images)
    largest, found = wanted.abs().max().item(), {}
    for size in plan.batch_sizes:
        logits = torch.cat([network.answer(batch) for batch in images.split(size)])
        found[str(size)] = difference = (logits - wanted).abs().max().item()
        if not difference <= plan.tolerance * max(1.0, largest):
            raise ExportError(
                f"In batches of {size} the exported network's logits differ from PyTorch's by up "
                f"to {difference:.2g}, where the largest is {largest:.3g}. Nothing was written."
            )
    known = {"largest_logit": largest, "tolerance": plan.tolerance, "images": len(images)}
    return {"largest_difference": found, **known}


@torch.inference_mode()
def score(answer: Answer, data: ImageData, bar: Callable[..., tqdm]) -> float:
    """The metric that the task of ``data`` is judged by, 0 to 1, over all its images."""
    dense = data.task == "segmentation"
    marks: Marks = SegmentationMarks(len(data.classes)) if dense else ClassificationMarks()
    with bar(total=len(data)) as shown:
        for images, labels in pixel_batches(data, images_at_once(data, BATCH_SIZE)):
            marks.add(answer(images), labels)
            shown.update(len(images))
    return marks.results()[TASKS[data.task].metric]


def check_score(name: str, found: float, recorded: float, images: int) -> None:
    """Refuse a score of the network ``name`` that is not its record's.

    Raises:
        ExportError: the weights are not those of the record, or the data are others.
    """
    if not abs(found - recorded) <= max(MOST_LOST, MOST_IMAGES / images):
        raise ExportError(
            f"The exported {name} scores {found:.4f} on the test images, its record says "
            f"{recorded:.4f}: these are not the weights of that record, or not its data. Nothing "
            "was written. Train the run again, or name its data with --data-root."
        )
