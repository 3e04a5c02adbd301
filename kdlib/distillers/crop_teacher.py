"""The teacher of a detector: a classifier that is shown objects, cut out by their boxes."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kdlib.data.detection_batches import DetectionBatch
from kdlib.errors import KdlibError
from kdlib.losses.crops import sampled_crops
from kdlib.models.early import EarlyStages

Colour = tuple[float, float, float]


class CropLesson(NamedTuple):
    """What is known of the G objects of a batch, image after image; nothing has a gradient.

    Attributes:
        crops: (G, 3, S, S), 0 to 1, cut out by their own boxes.
        starts: (B,) int64, the row of each image's first object.
        logits: (G, C) of the classifier; ``None`` without one.
        stages: its feature maps (G, C, h, w), fine to coarse; empty without one.
    """

    crops: Tensor
    starts: Tensor
    logits: Tensor | None
    stages: tuple[Tensor, ...]


class CropTeacher(nn.Module):
    """Cuts objects out and asks a frozen classifier about them, once for all students of a step.

    It is frozen as a :class:`~kdlib.distillers.base.FrozenTeacher` is; of its gradients only those
    with respect to crops exist, which go on to the boxes that cut them.

    Args:
        network: the classifier; ``None`` where crops are compared as they are.
        size: pixels a side of a crop, those that the classifier was trained with.
        mean: of each channel, 0 to 1, as in the classifier's training.
        std: standard deviation of each channel.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module | None, size: int, mean: Colour, std: Colour) -> None:
        super().__init__()
        self.network = None if network is None else network.eval().requires_grad_(False)
        self.size = size
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))
        self._early: dict[int, nn.Module] = {}

    def train(self, mode: bool = True) -> "CropTeacher":
        """Stay in eval mode, whatever ``mode`` says."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, batch: DetectionBatch) -> CropLesson:
        """What is known of a batch's objects; images without any have no rows."""
        counts = [len(target["boxes"]) for target in batch.targets]
        rows = torch.tensor(counts, device=batch.images[0].device)
        owners = torch.arange(len(counts), device=rows.device).repeat_interleave(rows)
        crops = self.cut(batch.images, _fractions(batch), owners)
        starts = rows.cumsum(0) - rows
        if self.network is None or len(crops) == 0:
            return CropLesson(crops, starts, None, ())
        answer = self.network(self._normalised(crops))
        return CropLesson(crops, starts, answer.logits, tuple(answer.stages))

    def teach(self, batch: DetectionBatch) -> "tuple[CropTeacher, CropLesson]":
        """What is known of a batch's objects, and who can be asked about other crops."""
        return self, self(batch)

    def cut(self, images: Sequence[Tensor], boxes: Tensor, owners: Tensor) -> Tensor:
        """Crops (P, 3, S, S) of boxes (P, 4), fractions, out of their images; differentiable."""
        return sampled_crops(images, boxes, owners, self.size)

    def stages_of(self, crops: Tensor, count: int) -> tuple[Tensor, ...]:
        """The first ``count`` stages of crops (P, 3, S, S), with the gradient to the crops.

        Raises:
            KdlibError: there is no classifier, or it has fewer stages.
        """
        if count == 0:
            return ()
        if self.network is None:
            raise KdlibError("Features are compared, but there is no teacher: name one.")
        if count not in self._early:
            self._early[count] = EarlyStages(self.network, count).eval()
        stages = self._early[count](self._normalised(crops))
        if len(stages) < count:
            raise KdlibError(
                f"The teacher has {len(stages)} stages, so layers may be -1 (pixels) to "
                f"{len(stages) - 1}; one is {count - 1}."
            )
        return stages

    def _normalised(self, crops: Tensor) -> Tensor:
        return (crops - self.mean) / self.std


def _fractions(batch: DetectionBatch) -> Tensor:
    """All objects' boxes (G, 4), in the width and height of their images."""
    parts = [
        target["boxes"] / image.new_tensor([image.shape[-1], image.shape[-2]] * 2)
        for image, target in zip(batch.images, batch.targets, strict=True)
    ]
    return torch.cat(parts)
