"""Whether an exported network is the network: the same answers, and as many of them right."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from kdlib.data.image_data import ImageData
from kdlib.evaluate import BATCH_SIZE, ClassificationMarks, Marks, images_at_once
from kdlib.export.deployed import Deployed, pixel_batches
from kdlib.export.errors import ExportError
from kdlib.export.formats import Answer
from kdlib.segmentation import SegmentationMarks
from kdlib.tasks import TASKS

MOST_LOST = 0.01
"""By which a score may differ from its record's, which can have been measured in bfloat16."""
MOST_IMAGES = 2
"""Or by so many images, of a small test set."""


@torch.inference_mode()
def compare(
    network: Deployed,
    answer: Answer,
    images: Tensor,
    batch_sizes: Sequence[int],
    tolerance: float,
) -> dict[str, Any]:
    """The largest difference of any logit from PyTorch's, in batches of each size.

    Args:
        network: PyTorch's.
        answer: the exported one's.
        images: (N, 3, H, W) uint8; in batches of each size, the last of which can be smaller.
        batch_sizes: largest N.
        tolerance: what is allowed, in units of the largest logit (of 1 if it is less).

    Raises:
        ExportError: more than that, or no number at all; names the first such batch size.
    """
    wanted = network(images)
    largest = wanted.abs().max().item()
    found = {}
    for size in batch_sizes:
        logits = torch.cat([answer(batch.contiguous()) for batch in images.split(size)])
        found[str(size)] = difference = (logits - wanted).abs().max().item()
        if not difference <= tolerance * max(1.0, largest):
            raise ExportError(
                f"In batches of {size} the exported network's logits differ from PyTorch's by up "
                f"to {difference:.2g}, where the largest is {largest:.3g}. Nothing was written."
            )
    known = {"largest_logit": largest, "tolerance": tolerance, "images": len(images)}
    return {"largest_difference": found, **known}


def score(answer: Answer, data: ImageData, task: str, progress: bool) -> float:
    """The metric that a task is judged by, 0 to 1, over all images of ``data``."""
    dense = data.task == "segmentation"
    marks: Marks = SegmentationMarks(len(data.classes)) if dense else ClassificationMarks()
    size = images_at_once(data, BATCH_SIZE)
    with torch.inference_mode(), tqdm(total=len(data), unit="image", disable=not progress) as bar:
        for images, labels in pixel_batches(data, size):
            marks.add(answer(images), labels)
            bar.update(len(images))
    return marks.results()[TASKS[task].metric]


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
