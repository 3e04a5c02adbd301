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
from kdlib.losses.numeric import for_layer
from kdlib.models.output import Output
from kdlib.models.residual import initialise

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
