"""Answers for each pixel from the levels of a pyramid; and a self-teacher that gives them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdlib.losses.numeric import working_precision
from kdlib.models.output import Output
from kdlib.models.residual import initialise
from kdlib.models.self_teacher import SelfTeacher, separable_block


class PixelHead(nn.Module):
    """Classes of pixels from the sum of a pyramid's levels (Kirillov 2019, arXiv 1901.02446).

    All levels are read, because the finest of a single pyramid knows nothing of its way up.

    Args:
        width: channels of each level.
        classes: number of classes K.
        depth: separable convolutions before the classifier.
    """

    def __init__(self, width: int, classes: int, depth: int = 1) -> None:
        super().__init__()
        self.refine = separable_block(width, depth)
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, levels: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Levels (B, width, h, w), fine to coarse, before any ReLU -> logits (B, K, *size)."""
        finest = (levels[0].shape[-2], levels[0].shape[-1])
        summed = torch.stack([_bilinear(functional.relu(one), finest) for one in levels]).sum(0)
        refined = functional.relu(self.refine(summed))
        # Its losses are in float32, and the few coarse values are converted sooner than the many.
        return _bilinear(working_precision(self.classifier(refined)), size)


def _bilinear(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(maps, size, mode="bilinear", align_corners=False)


class PixelSelfTeacher(SelfTeacher):
    """A self-teacher whose answer is a class for each pixel.

    Its pyramids go on from those of a :class:`~kdlib.models.segmenter.Segmenter`, whose stages they
    read, and its head is made like that one's.

    Args:
        channels: of each stage of the student, fine to coarse.
        classes: number of classes K.
        pixels: a side of the answer.
        width: as of :class:`SelfTeacher`, like all that follow.
        common: one number of channels for all levels instead.
        depth: separable convolutions in a node of a pyramid.
        repeat: how many pyramids follow one another.

    Raises:
        KdlibError: a number that is below 1.
    """

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        pixels: int,
        *,
        width: int = 2,
        common: int | None = None,
        depth: int = 2,
        repeat: int = 1,
    ) -> None:
        super().__init__(channels, classes, width=width, common=common, depth=depth, repeat=repeat)
        self.size = (pixels, pixels)
        self.classifier = PixelHead(self.widths[0], classes)
        initialise(self.classifier)

    def forward(self, stages: Sequence[Tensor]) -> Output:
        """Stages (B, C, h, w), fine to coarse -> logits (B, K, H, W), refined maps, pooled."""
        features = self.refined(stages)
        logits = self.classifier(features, self.size)
        return Output(logits, features, features[-1].mean((2, 3)))
