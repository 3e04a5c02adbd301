"""The self-teacher of FRSKD: a small feature pyramid on a classifier's own stages.

A BiFPN (Tan 2020, arXiv 1911.09070) refines the stages top-down and back bottom-up; a classifier
reads the coarsest refined map (Ji 2021, arXiv 2103.08273). It attaches to any network of
``kdlib.models``, is trained beside it and thrown away afterwards. Every level works in its own
multiple of the stage's channels (``BiFPNc``, the paper's), or all of them in one common number.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdlib.errors import KdlibError, shown
from kdlib.losses.attention import for_layer, working_precision
from kdlib.models.cifar import initialise
from kdlib.models.output import Output


# A classifier together with its self-teacher, as one network.
class RefinedNetwork(nn.Module):
    """What a self-teacher makes of a student's stages, measured like any network.

    Args:
        student: the classifier; its own logits are not read.
        self_teacher: from the student's stages to an ``Output``.
        classes: logits beyond these, of rotated images, are left out.
    """

    def __init__(self, student: nn.Module, self_teacher: nn.Module, classes: int) -> None:
        super().__init__()
        self.student, self.self_teacher, self.classes = student, self_teacher, classes

    def forward(self, images: Tensor) -> Output:
        """Images (B, 3, H, W), normalised -> the self-teacher's logits, refined maps, features."""
        refined = self.self_teacher(self.student(images).stages)
        return refined._replace(logits=refined.logits[:, : self.classes])


EPSILON = 1e-6  # of the fusion's weights; from BiFPN's paper

LARGEST = 1024
"""Of a size: with a slip of a zero, or of twenty, building would never end."""


def point_block(inputs: int, outputs: int) -> nn.Sequential:
    """1 x 1 convolution, batch norm, ReLU."""
    convolution = nn.Conv2d(inputs, outputs, 1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True))


def separable_block(channels: int, depth: int) -> nn.Sequential:
    """``depth`` times depthwise 3 x 3, pointwise 1 x 1, batch norm; ReLU between, none after."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        layers += [depthwise, pointwise, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers[:-1])


class Fusion(nn.Module):
    """Mean of maps after a ReLU, each with a learned weight: fast normalised fusion."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(inputs))

    def forward(self, *features: Tensor) -> Tensor:
        """Maps (B, C, H, W), as many as there are weights -> (B, C, H, W)."""
        weights = functional.relu(self.weights)
        shares = weights / (weights.sum() + EPSILON)
        pairs = zip(shares, features, strict=True)
        return torch.stack([share * functional.relu(one) for share, one in pairs]).sum(0)


def enlarged(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest pixels at ``size``, the next finer level's; exactly twice as large, as a rule."""
    return functional.interpolate(features, size=size, mode="nearest")


def reduced(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Largest values at ``size``: 3 x 3 at stride 2 where that gives it, else adaptive."""
    halved = (-(-features.shape[-2] // 2), -(-features.shape[-1] // 2))
    if size == halved:
        return functional.max_pool2d(features, 3, stride=2, padding=1)
    return functional.adaptive_max_pool2d(features, size)


class BiFPN(nn.Module):
    """One pass down the levels and one up again.

    Args:
        inputs: channels of each level that comes in, fine to coarse.
        widths: channels that each level works in and goes out with.
        depth: separable convolutions in a node.
    """

    def __init__(self, inputs: Sequence[int], widths: Sequence[int], depth: int = 2) -> None:
        super().__init__()
        steps = list(pairwise(widths))  # from a level to the next coarser
        own = [point_block(*pair) for pair in zip(inputs, widths, strict=True)]
        again = [point_block(*pair) for pair in zip(inputs[1:], widths[1:], strict=True)]
        self.laterals_down, self.laterals_up = nn.ModuleList(own), nn.ModuleList(again)
        self.narrow = nn.ModuleList(_changed(coarse, fine) for fine, coarse in steps)
        self.widen = nn.ModuleList(_changed(fine, coarse) for fine, coarse in steps)
        self.fuse_down = nn.ModuleList(Fusion(2) for _ in steps)
        # The coarsest level starts the way down, and so has nothing from it to fuse on the way up.
        self.fuse_up = nn.ModuleList(Fusion(3 if left else 2) for left in range(len(steps))[::-1])
        self.refine_down = nn.ModuleList(separable_block(fine, depth) for fine, _ in steps)
        self.refine_up = nn.ModuleList(separable_block(coarse, depth) for _, coarse in steps)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps (B, C, H, W), fine to coarse -> refined maps of the same sizes, before any ReLU."""
        return self._bottom_up(features, self._top_down(features))

    def _top_down(self, features: Sequence[Tensor]) -> list[Tensor]:
        found = [self.laterals_down[-1](features[-1])]
        for level in reversed(range(len(features) - 1)):
            lateral = self.laterals_down[level](features[level])
            # Narrowed before it is enlarged, not after as published: the same numbers, since
            # repeated pixels have the same statistics, for a quarter of the operations.
            above = enlarged(self.narrow[level](found[0]), _size(lateral))
            found.insert(0, self.refine_down[level](self.fuse_down[level](lateral, above)))
        return found

    def _bottom_up(self, features: Sequence[Tensor], down: Sequence[Tensor]) -> tuple[Tensor, ...]:
        refined, coarsest = [down[0]], len(features) - 1
        for step, level in enumerate(range(1, coarsest + 1)):
            lateral = self.laterals_up[step](features[level])
            below = self.widen[step](reduced(refined[-1], _size(lateral)))
            inputs = (lateral, below) if level == coarsest else (lateral, down[level], below)
            refined.append(self.refine_up[step](self.fuse_up[step](*inputs)))
        return tuple(refined)


def _changed(inputs: int, outputs: int) -> nn.Module:
    """Between levels of one width there is nothing to change."""
    return nn.Identity() if inputs == outputs else point_block(inputs, outputs)


def _size(features: Tensor) -> tuple[int, int]:
    return features.shape[-2], features.shape[-1]


class SelfTeacher(nn.Module):
    """Refined maps of a classifier's stages, and a classification of the coarsest of them.

    Args:
        channels: of each stage of the classifier, fine to coarse.
        classes: number of classes K.
        width: each level works in ``width`` times its stage's channels.
        common: all levels work in so many channels instead; ``None`` for ``width``.
        depth: separable convolutions in a node of the pyramid.
        repeat: how many pyramids follow one another.

    Raises:
        KdlibError: a number that is below 1.
    """

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        *,
        width: int = 2,
        common: int | None = None,
        depth: int = 2,
        repeat: int = 1,
    ) -> None:
        super().__init__()
        _check_sizes(width=width, common=common or 1, depth=depth, repeat=repeat)
        self.widths = tuple(common or width * number for number in channels)
        inputs = [tuple(channels), *[self.widths] * (repeat - 1)]
        self.pyramids = nn.ModuleList(BiFPN(one, self.widths, depth) for one in inputs)
        self.classifier: nn.Module = nn.Linear(self.widths[-1], classes)
        initialise(self)

    def forward(self, stages: Sequence[Tensor]) -> Output:
        """Stages (B, C, H, W), fine to coarse -> logits (B, K), refined maps, pooled features."""
        features = self.refined(stages)
        embedding = features[-1].mean((2, 3))
        return Output(self.classifier(embedding), features, embedding)

    def refined(self, stages: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """The stages as all pyramids, one after the other, leave them."""
        features = tuple(for_layer(self.classifier, stage) for stage in stages)
        for pyramid in self.pyramids:
            features = pyramid(features)
        return features


def _check_sizes(**numbers: int) -> None:
    for name, number in numbers.items():
        if not 1 <= number <= LARGEST:
            raise KdlibError(
                f"{name} of the self-teacher is {shown(number)}; it must be 1 to {LARGEST}."
            )


# Answers for each pixel from the levels of a pyramid; and a self-teacher that gives them.
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

    Its pyramids go on from those of a :class:`~.segmentation.Segmenter`, whose stages they
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
