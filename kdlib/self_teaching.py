"""What a self-teacher is worth and what it costs, beside the student that it teaches."""

from typing import Any

import torch

from kdlib.data.image_data import ImageData
from kdlib.distributed import ALONE, Team
from kdlib.evaluate import evaluate_students
from kdlib.models import count_parameters, flops
from kdlib.models.refined import RefinedNetwork

ACCURACIES = {"classification": ("top1", "top5", "mca"), "segmentation": ("miou", "pixel_accuracy")}


def measure_self_teacher(
    network: RefinedNetwork,
    data: ImageData,
    image_size: int,
    *,
    device: torch.device | str = "cpu",
    precision: str = "float32",
    team: Team = ALONE,
) -> dict[str, Any]:
    """The ``self_teacher`` of a record.

    Returns:
        ``top1``, ``top5`` and ``mca``, or ``miou`` and ``pixel_accuracy``, as fractions;
        ``relevance`` of the refined maps, as a student's, ``None`` without ground truth;
        ``parameters`` of the self-teacher alone and the ``flops`` of one image that it adds to the
        student's.
    """
    place: dict[str, Any] = {"device": device, "precision": precision, "team": team}
    (quality,) = evaluate_students([network], None, data, **place)
    relevance = quality["relevance"]
    return {
        **{name: quality["results"][name] for name in ACCURACIES[data.task]},
        "relevance": relevance and relevance["student"],
        "parameters": count_parameters(network.self_teacher),
        "flops": flops(network, image_size) - flops(network.student, image_size),
    }
