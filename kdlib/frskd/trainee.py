"""A student that brings its own teacher: what that is worth, what it costs, and its weights."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch

from kdlib.data.batches import output_count
from kdlib.distill import create_distiller
from kdlib.errors import KdlibError
from kdlib.evaluate import evaluate_students, trained_network
from kdlib.files import load_weights, save_tensors
from kdlib.frskd.losses import RefinementLoss
from kdlib.frskd.self_teacher import RefinedNetwork
from kdlib.losses.pair import Pair
from kdlib.models.output import count_parameters, flops, output_shapes
from kdlib.runs import RunConfig, run_directory
from kdlib.trainee import Trainee

FILE = "self_teacher.safetensors"
ACCURACIES = {"classification": ("top1", "top5", "mca"), "segmentation": ("miou", "pixel_accuracy")}


class SelfTaught(Trainee):
    """A student whose loss holds a self-teacher: that is measured and kept, but not deployed."""

    @property
    def self_teacher(self) -> torch.nn.Module:
        """The pyramid that is trained beside the student."""
        return cast("RefinementLoss", self.distiller.method_loss).self_teacher

    @staticmethod
    def measure(trainees: Sequence[Trainee]) -> list[dict[str, Any]]:
        """As of any student, with ``self_teacher``."""
        qualities = Trainee.measure(trainees)
        pairs = zip(cast("Sequence[SelfTaught]", trainees), qualities, strict=True)
        return [{**found, "self_teacher": one._self_measured()} for one, found in pairs]

    def _self_measured(self) -> dict[str, Any] | None:
        """Accuracies (fractions), relevance of the refined maps, cost; ``None`` if it diverged.

        ``flops`` are the operations of one image that it adds to the student's.
        """
        if self.failure is not None:
            return None
        network = RefinedNetwork(self.student, self.self_teacher, self.classes)
        (quality,) = evaluate_students([network], None, self.evaluation, **self._shared)
        relevance, size = quality["relevance"], self.config.input_size
        return {
            **{name: quality["results"][name] for name in ACCURACIES[self.evaluation.task]},
            "relevance": relevance and relevance["student"],
            "parameters": count_parameters(network.self_teacher),
            "flops": flops(network, size) - flops(network.student, size),
        }

    def finish(self) -> None:
        """Write the self-teacher's weights too, in a file of their own, to be looked at."""
        super().finish()
        if self.failure is None:
            tensors = self.self_teacher.state_dict()
            save_tensors(self.directory / FILE, tensors, {"classes": self.classes})


def refined_network(config: RunConfig, root: Path, classes: int) -> RefinedNetwork:
    """The student of a finished self-taught run with its self-teacher, in eval mode.

    Raises:
        KdlibError: the run is not finished, or its method has no self-teacher.
    """
    student = trained_network(config, root, classes)
    outputs = output_count(classes, config.augmentation)
    shapes = output_shapes(student, config.image_size)
    pair = Pair(shapes, None, torch.zeros(0), config.batch_size, 0, outputs, config.pixels)
    loss = create_distiller(config, pair).method_loss
    if not isinstance(loss, RefinementLoss):
        raise KdlibError(f"'{config.method}' has no self-teacher; ask for one such as 'frskd'.")
    load_weights(loss.self_teacher, run_directory(config, Path(root)) / FILE, classes)
    return RefinedNetwork(student, loss.self_teacher, classes).eval()
