"""A detector in training: torchvision's losses, and what a classifier of crops adds to them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from kdlib.data.image_data import ImageData
from kdlib.detection.batches import DetectionBatches
from kdlib.detection.detector import Detector
from kdlib.detection.evaluation import evaluate_detector
from kdlib.detection.losses import CropLoss
from kdlib.detection.objects import crops_fingerprint
from kdlib.detection.teacher import CropTeacher
from kdlib.distill import Learner, method_loss
from kdlib.errors import KdlibError
from kdlib.methods import check_method, weights_of
from kdlib.models import MODELS
from kdlib.models.output import measure_cost
from kdlib.runs import RunConfig
from kdlib.train_state import TrainState

MONITORED, TIMED = 200, 64
"""Images on which an epoch's row is measured, and a finished detector's latency."""


class DetectorState(TrainState):
    """A student that finds objects; otherwise as any other."""

    student: Detector
    batches = DetectionBatches

    @staticmethod
    def teacher_for(
        configs: Sequence[RunConfig], root: Path, data: ImageData, device: torch.device
    ) -> CropTeacher | None:
        """The classifier of a group with what cuts its crops; the latter alone for pixels."""
        sides = [config.crop_size for config in configs if config.method != "student"]
        if sides:  # the teacher learned from crops of these images
            data = replace(data, fingerprint=crops_fingerprint(data, sides[0]))
        found = TrainState.teacher_for(configs, root, data, device)
        network = None if found is None else found.network
        return CropTeacher(network, sides[0], data.mean, data.std).to(device) if sides else found

    def _build(self) -> nn.Module:
        # torchvision's normalise as their backbones were trained; ours as these images are.
        data, self.network_options = self.group.data, {"image_size": self.config.image_size}
        if not MODELS[self.config.student].pretrained:
            self.network_options |= {"mean": data.mean, "std": data.std}
        self.student = cast("Detector", self._untrained())
        self.distiller = create_crop_loss(self.config)
        return DetectorLearner(self.student, self.distiller)

    def monitor(self) -> dict[str, float]:
        """The mAP at an IoU of 0.5 of some held-out images."""
        few = self.evaluation.first(MONITORED)
        name = self.measures.monitored
        return {name: evaluate_detector(self.student, few, **self.shared)["results"][name]}

    def measure(self) -> dict[str, Any]:
        """What the record says of its quality."""
        return evaluate_detector(self.student, self.evaluation, **self.shared)

    def cost(self) -> dict[str, Any]:
        """Of finding objects in evaluation images, with torchvision's resizing and selection."""
        few = self.evaluation.first(TIMED)
        (shown,) = DetectionBatches(few, TIMED, device=self.device).in_order()
        return measure_cost(self.student, shown.images[:1], shown.images)


class DetectorLearner(Learner):
    """A detector, which has losses of its own, and a classifier of crops that adds to them."""

    def forward(self, batch: Any, teacher: Any, progress: float) -> dict[str, Tensor]:
        """As :meth:`Learner.forward`, of a :class:`kdlib.detection.batches.DetectionBatch`."""
        answer = self.student(batch.images, batch.targets)
        return {**answer.losses, **self.distiller(answer, teacher, batch)}


def create_crop_loss(config: RunConfig) -> CropLoss:
    """What a detector learns beside torchvision's own losses: nothing, if it is trained alone.

    A ``KdlibError`` for a wrong method or option, or one that needs a teacher and has none.
    """
    check_method(config)
    found = method_loss(config.method, config.method_options, None)
    loss = cast("CropLoss", found or CropLoss(cls=0.0, loc=0.0))
    if loss.needs_classifier and config.canonical().teacher == "none":
        raise KdlibError(f"'{config.method}' asks a classifier about crops: name a teacher.")
    loss.name, loss.weight = config.method, weights_of(config).method
    return loss
