"""Feature refinement by self-knowledge distillation, FRSKD (Ji 2021, arXiv 2103.08273).

No teacher is trained beforehand: a small pyramid on the student's own stages is trained on the
labels beside it, and its refined maps and soft labels are what the student matches.
"""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from kdlib.data.batches import Batch
from kdlib.distill import TeacherOutput, create_distiller
from kdlib.errors import KdlibError, unknown
from kdlib.evaluate import evaluate_student, trained_network
from kdlib.files import load_weights, save_tensors
from kdlib.frskd.self_teacher import RefinedNetwork, SelfTeacher
from kdlib.losses.attention import ATLoss, for_layer, pool_to_common_size, working_precision
from kdlib.losses.dct import DCTLoss
from kdlib.losses.hints import feature_mse
from kdlib.losses.logits import kd_per_image
from kdlib.models.output import NetworkPair, Output, count_parameters, flops, output_shapes
from kdlib.runs import RunConfig, run_directory
from kdlib.train_state import TrainState

FILE = "self_teacher.safetensors"
ACCURACIES = {"classification": ("top1", "top5", "mca"), "segmentation": ("miou", "pixel_accuracy")}


WARMUP = 40 / 60  # of the training for segmentation, in which the self-teacher alone learns


def late_bell(share: float) -> float:
    """Weight at a share of the training: 0 for ``WARMUP``, then exp(-5 (1 - t)^2) up to 1.

    t is the share of the rest, step by step (by whole epochs in the release). The rise is that of
    Laine, Aila 2017 (arXiv 1610.02242).
    """
    rest = (share - WARMUP) / (1 - WARMUP)
    return math.exp(-5 * (1 - rest) ** 2) if rest > 0 else 0.0


class ConnectedLoss(nn.Module):
    """A distance (B,) of features behind learned connectors, one a stage, summed over stages."""

    def __init__(
        self, distance: Callable[[Tensor, Tensor], Tensor], connectors: Sequence[nn.Module]
    ) -> None:
        super().__init__()
        self.distance, self.connectors = distance, nn.ModuleList(connectors)

    def forward(self, student: Output, teacher: TeacherOutput, batch: Batch) -> Tensor:
        """(B,), unweighted."""
        levels = zip(self.connectors, student.stages, teacher.stages, strict=True)
        terms = [self.distance(one(for_layer(one, mine)), its) for one, mine, its in levels]
        return torch.stack(terms).sum(0)


def _fitnet(channels: Sequence[tuple[int, int]]) -> nn.Module:
    return ConnectedLoss(feature_mse, [nn.Conv2d(*pair, kernel_size=1) for pair in channels])


def overhaul_per_image(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean partial squared difference to the teacher's margin ReLU: (B, C, H, W) twice -> (B,).

    The margin is the mean of a channel's negative values in this batch. Where the target is not
    positive, a student's lower value counts nothing: an activation would hide the difference. The
    mean is in place of the sum of Heo 2019, arXiv 1904.01866, equation 5.
    """
    mine, theirs = pool_to_common_size(working_precision(student), working_precision(teacher))
    negative, of_channel = theirs < 0, (0, 2, 3)
    total = torch.where(negative, theirs, 0).sum(of_channel, keepdim=True)
    margin = total / negative.sum(of_channel, keepdim=True).clamp_min(1)
    target = torch.maximum(theirs, margin)
    hidden = (mine <= target) & (target <= 0)
    return torch.where(hidden, 0, (mine - target).square()).flatten(1).mean(dim=1)


def _overhaul(channels: Sequence[tuple[int, int]]) -> nn.Module:
    # The paper reads both sides before their activation; stages and refined maps here are read
    # after it (so the margin is 0), and the connector's batch norm gives the student's both signs.
    pairs = [(nn.Conv2d(*pair, 1, bias=False), nn.BatchNorm2d(pair[1])) for pair in channels]
    return ConnectedLoss(overhaul_per_image, [nn.Sequential(*pair) for pair in pairs])


FEATURES: dict[str, tuple[Callable[[Sequence[tuple[int, int]]], nn.Module], float]] = {
    "attention": (lambda channels: ATLoss("none"), 100.0),
    "fitnet": (_fitnet, 0.9),
    "overhaul": (_overhaul, 0.6),
    "dct": (lambda channels: DCTLoss("dct", "none"), 0.7),
}
"""The feature term, and beta. The first is the paper's; the others are as large as it on the
untrained networks of Scenes, so that one weight tuned for the first means the same in all."""


class RefinementLoss(nn.Module):
    """``alpha T^2 KL(q || p) + beta features``, per image; q and the maps are the self-teacher's.

    The cross-entropy of q, from which the self-teacher learns, is a term of its own. ``feature`` is
    ``attention`` (AT), ``fitnet``, ``overhaul`` or ``dct`` (this project's paper); ``beta`` is by
    default that feature's. With ``detach`` the self-teacher's cross-entropy does not train the
    student: another method than the paper's. ``width`` to ``repeat`` are those of
    :class:`SelfTeacher`. Of rotated images (``sla``) the terms are the same; the release has
    further ones, so that its rows with SLA are another method. A ``KdlibError`` for an unknown
    feature or a number out of its range.
    """

    def __init__(
        self,
        pair: NetworkPair,
        *,
        alpha: float = 2.0,
        beta: float | None = None,
        temperature: float = 4.0,
        feature: str = "attention",
        detach: bool = False,
        width: int = 2,
        common: int | None = None,
        depth: int = 2,
        repeat: int = 1,
    ) -> None:
        if feature not in FEATURES:
            raise unknown("feature of FRSKD", feature, FEATURES)
        channels = [shape[0] for shape in pair.student.stages]
        size: dict[str, Any] = {"width": width, "common": common, "depth": depth, "repeat": repeat}
        pyramid = SelfTeacher(channels, pair.classes, pair.pixels, **size)
        super().__init__()
        self.self_teacher, self.detach = pyramid, detach
        build, default = FEATURES[feature]
        self.alpha, self.temperature = alpha, temperature
        self.beta = default if beta is None else beta
        if self.alpha < 0 or self.beta < 0 or temperature <= 0:
            raise KdlibError(
                f"alpha {alpha}, beta {self.beta} and temperature {temperature} of FRSKD: the "
                "weights must be 0 or more and the temperature above 0."
            )
        connected = list(zip(channels, pyramid.widths, strict=True))
        self.features = build(connected) if self.beta else None

    def teach(self, student: Output) -> Output:
        """The self-teacher's output, with its graph."""
        stages = student.stages
        return self.self_teacher([s.detach() for s in stages] if self.detach else stages)

    def forward(self, student: Output, teacher: TeacherOutput, batch: Batch) -> Tensor:
        """(B,): what the student learns from its self-teacher's output."""
        total = torch.zeros(len(student.logits), device=student.logits.device)
        if self.alpha:
            # Of pixels all count, as released: those without a label too.
            divergence = kd_per_image(student.logits, teacher.logits, self.temperature)
            total = total + self.alpha * divergence
        if self.features is not None:
            total = total + self.beta * self.features(student, teacher, batch)
        return total


class SelfTaught(TrainState):
    """A student whose loss holds a self-teacher: that is measured and kept, but not deployed."""

    @property
    def self_teacher(self) -> torch.nn.Module:
        """The pyramid that is trained beside the student."""
        return cast("RefinementLoss", self.distiller.method_loss).self_teacher

    def measure(self) -> dict[str, Any]:
        """As of any student, with ``self_teacher``; that is ``None`` if it diverged.

        Accuracies (fractions), relevance of the refined maps, cost; ``flops`` are the operations of
        one image that it adds to the student's.
        """
        measured = super().measure()
        if self.failure is not None:
            return measured
        network = RefinedNetwork(self.student, self.self_teacher, self.classes)
        quality = evaluate_student(network, None, self.evaluation, **self.shared)
        relevance, size = quality["relevance"], self.config.input_size
        own = {
            **{name: quality["results"][name] for name in ACCURACIES[self.evaluation.task]},
            "relevance": relevance and relevance["student"],
            "parameters": count_parameters(network.self_teacher),
            "flops": flops(network, size) - flops(network.student, size),
        }
        return {**measured, "self_teacher": own}

    def finish(self) -> None:
        """Write the self-teacher's weights too, in a file of their own, to be looked at."""
        super().finish()
        if self.failure is None:
            tensors = self.self_teacher.state_dict()
            facts = {"classes": self.classes, **self.identity}
            save_tensors(self.directory / FILE, tensors, facts)


def refined_network(config: RunConfig, root: Path, classes: int) -> RefinedNetwork:
    """The student of a self-taught run with its self-teacher, in eval mode.

    A ``KdlibError`` if the run is not finished, or its method has no self-teacher.
    """
    student = trained_network(config, root, classes)
    outputs = config.outputs(classes)
    shapes = output_shapes(student, config.image_size)
    pair = NetworkPair(shapes, None, torch.zeros(0), config.batch_size, 0, outputs, config.pixels)
    loss = create_distiller(config, pair).method_loss
    if not isinstance(loss, RefinementLoss):
        raise KdlibError(f"'{config.method}' has no self-teacher; ask for one such as 'frskd'.")
    path = run_directory(config, Path(root)) / FILE
    load_weights(loss.self_teacher, path, classes, {"run": config.run_id})
    return RefinedNetwork(student, loss.self_teacher, classes).eval()
