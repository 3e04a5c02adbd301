"""The self-teacher of FRSKD: a small feature pyramid on a network's own stages.

A BiFPN (Tan 2020, arXiv 1911.09070) refines the stages top-down and back bottom-up; a classifier
reads the coarsest refined map (Ji 2021, arXiv 2103.08273), or a head reads them all where each
pixel has a class. It is trained with any network of ``kdlib.models`` and thrown away afterwards.
Stages and every refined map pass a ReLU, as in the release, whose values and gradients it has.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdlib.errors import KdlibError, shown
from kdlib.losses.attention import for_layer, working_precision
from kdlib.models.cifar import conv_norm, initialise
from kdlib.models.output import Output

EPSILON = 1e-6  # of the fusion's weights; from BiFPN's paper
LARGEST = 1024
"""Of a size: with a slip of a zero, or of twenty, building would never end."""


class RefinedNetwork(nn.Module):
    """A student with its self-teacher as one network, whose answer is the self-teacher's.

    Logits beyond ``classes``, of rotated images, are left out.
    """

    def __init__(self, student: nn.Module, self_teacher: nn.Module, classes: int) -> None:
        super().__init__()
        self.student, self.self_teacher, self.classes = student, self_teacher, classes

    def forward(self, images: Tensor) -> Output:
        """Images (B, 3, H, W), normalised -> the self-teacher's logits, refined maps, features."""
        refined = self.self_teacher(self.student(images).stages)
        return refined._replace(logits=refined.logits[:, : self.classes])


def _resized_block(inputs: int, outputs: int) -> nn.Module:
    return nn.Identity() if inputs == outputs else conv_norm(inputs, outputs, 1)


def separable_block(channels: int, depth: int) -> nn.Sequential:
    """``depth`` times depthwise 3 x 3, pointwise 1 x 1, batch norm, ReLU."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        layers += [depthwise, pointwise, nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class Fusion(nn.Module):
    """Mean of maps, each with a learned weight: fast normalised fusion."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(inputs))

    def forward(self, *features: Tensor) -> Tensor:
        """Maps (B, C, H, W), as many as there are weights -> (B, C, H, W)."""
        weights = functional.relu(self.weights)
        shares = weights / (weights.sum() + EPSILON)
        return torch.stack([s * one for s, one in zip(shares, features, strict=True)]).sum(0)


def enlarged(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest pixels at ``size``, the next finer level's; exactly twice as large, as a rule."""
    return functional.interpolate(features, size=size, mode="nearest")


def reduced(features: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    """Largest values at ``size``: 3 x 3 at stride 2 where that gives it (None), else adaptive.

    Windows of an even side begin at its pixels 0, 2, ...; the last reaches beyond it.
    """
    halved = (-(-features.shape[-2] // 2), -(-features.shape[-1] // 2))
    if size in (None, halved):
        odd = [side % 2 for side in _size(features)]
        return functional.max_pool2d(features, 3, stride=2, padding=odd, ceil_mode=True)
    return functional.adaptive_max_pool2d(features, size)


class BiFPN(nn.Module):
    """One pass down the levels and one up: from ``inputs`` to ``widths`` channels, fine to coarse.

    ``depth`` separable convolutions are in a node.
    """

    def __init__(self, inputs: Sequence[int], widths: Sequence[int], depth: int = 2) -> None:
        super().__init__()
        steps = list(pairwise(widths))  # from a level to the next coarser
        own = [conv_norm(*pair, 1) for pair in zip(inputs, widths, strict=True)]
        again = [conv_norm(*pair, 1) for pair in zip(inputs[1:], widths[1:], strict=True)]
        self.laterals_down, self.laterals_up = nn.ModuleList(own), nn.ModuleList(again)
        self.narrow = nn.ModuleList(_resized_block(coarse, fine) for fine, coarse in steps)
        self.widen = nn.ModuleList(_resized_block(fine, coarse) for fine, coarse in steps)
        self.fuse_down = nn.ModuleList(Fusion(2) for _ in steps)
        # The coarsest level starts the way down, and so has nothing from it to fuse on the way up.
        self.fuse_up = nn.ModuleList(Fusion(3 if left else 2) for left in range(len(steps))[::-1])
        self.refine_down = nn.ModuleList(separable_block(fine, depth) for fine, _ in steps)
        self.refine_up = nn.ModuleList(separable_block(coarse, depth) for _, coarse in steps)

    def forward(self, features: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps (B, C, H, W), fine to coarse -> refined maps of the same sizes, after a ReLU."""
        down = [self.laterals_down[-1](features[-1])]
        for level in reversed(range(len(features) - 1)):
            lateral = self.laterals_down[level](features[level])
            # Narrowed before it is enlarged, not after as published: the same numbers, since
            # repeated pixels have the same statistics, for a quarter of the operations.
            above = enlarged(self.narrow[level](down[0]), _size(lateral))
            down.insert(0, self.refine_down[level](self.fuse_down[level](lateral, above)))
        refined = [down[0]]
        for step, coarser in enumerate(features[1:]):
            lateral = self.laterals_up[step](coarser)
            below = self.widen[step](reduced(refined[-1], _size(lateral)))
            beside = [down[step + 1]] if step + 2 < len(features) else []
            refined.append(self.refine_up[step](self.fuse_up[step](lateral, *beside, below)))
        return tuple(refined)


def _size(features: Tensor) -> tuple[int, int]:
    return features.shape[-2], features.shape[-1]


class PixelHead(nn.Module):
    """Classes of pixels from the sum of a pyramid's levels (Kirillov 2019, arXiv 1901.02446).

    All levels are read, because the finest of a single pyramid knows nothing of its way up.
    """

    def __init__(self, width: int, classes: int, depth: int = 1) -> None:
        super().__init__()
        self.refine = separable_block(width, depth)
        self.classifier = nn.Conv2d(width, classes, 1)

    def forward(self, levels: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
        """Levels (B, width, h, w), fine to coarse, after a ReLU -> logits (B, K, *size)."""
        finest = _size(levels[0])
        refined = self.refine(torch.stack([_bilinear(one, finest) for one in levels]).sum(0))
        # Its losses are in float32, and the few coarse values are converted sooner than the many.
        return _bilinear(working_precision(self.classifier(refined)), size)


def _bilinear(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return functional.interpolate(maps, size, mode="bilinear", align_corners=False)


class SelfTeacher(nn.Module):
    """Refined maps of a network's stages, and a classification of the coarsest of them.

    Each level works in ``width`` times its stage's ``channels``, or all in a ``common`` number;
    ``depth`` separable convolutions are in a node, and ``repeat`` pyramids follow one another.
    ``pixels`` is a side of the answer where each pixel has a class: a head like that of a
    :class:`~kdlib.frskd.segmentation.Segmenter` then reads all refined maps.
    """

    def __init__(
        self,
        channels: Sequence[int],
        classes: int,
        pixels: int | None = None,
        *,
        width: int = 2,
        common: int | None = None,
        depth: int = 2,
        repeat: int = 1,
    ) -> None:
        super().__init__()
        sizes = {"width": width, "common": common or 1, "depth": depth, "repeat": repeat}
        for name, number in sizes.items():
            if not 1 <= number <= LARGEST:
                problem = f"{name} of the self-teacher is {shown(number)}"
                raise KdlibError(f"{problem}; it must be 1 to {LARGEST}.")
        self.widths = tuple(common or width * number for number in channels)
        inputs = [tuple(channels), *[self.widths] * (repeat - 1)]
        self.pyramids = nn.ModuleList(BiFPN(one, self.widths, depth) for one in inputs)
        self.classifier: nn.Module = nn.Linear(self.widths[-1], classes)
        initialise(self)
        self.pixels = pixels
        if pixels is not None:
            self.classifier = initialise(PixelHead(self.widths[0], classes))

    def forward(self, stages: Sequence[Tensor]) -> Output:
        """Stages (B, C, H, W), fine to coarse -> logits, refined maps, pooled features.

        Logits are (B, K), or (B, K, ``pixels``, ``pixels``).
        """
        features = tuple(functional.relu(for_layer(self.classifier, s)) for s in stages)
        for pyramid in self.pyramids:
            features = pyramid(features)
        embedding = features[-1].mean((2, 3))
        if self.pixels is None:
            return Output(self.classifier(embedding), features, embedding)
        return Output(self.classifier(features, (self.pixels,) * 2), features, embedding)
