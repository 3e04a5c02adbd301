"""Knowledge review, ReviewKD (Chen 2021, arXiv 2104.09044), and FAM-KD's frequency attention."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdlib.losses.attention import aligned, for_layer, pooled, pooled_alike, working_precision

if TYPE_CHECKING:
    from kdlib.data.batches import Batch
    from kdlib.distill import TeacherOutput
    from kdlib.losses.pair import Pair
    from kdlib.models.output import Output

CONTEXTS = (4, 2, 1)
"""Sides of the pooled features."""


def hcl_per_image(student: Tensor, teacher: Tensor) -> Tensor:
    """Hierarchical context loss of one stage: (B, C, H, W), (B, C, H', W') -> (B,).

    Mean squared differences of the features and of their poolings to 4 x 4, 2 x 2 and 1 x 1
    (those that are smaller than the features), with weights 1, 1/2, 1/4, 1/8 over their sum.
    """
    mine, theirs = pooled_alike(student, teacher)
    difference = mine - theirs  # pooling is linear: the pooled difference is that of the pooled
    smaller = [side for side in CONTEXTS if side < min(difference.shape[-2:])]
    levels = [difference, *(pooled(difference, (side, side)) for side in smaller)]
    losses = [level.square().flatten(1).mean(dim=1) for level in levels]
    total = sum(0.5**index for index in range(len(losses)))
    return torch.stack([0.5**i / total * loss for i, loss in enumerate(losses)]).sum(dim=0)


class AttentionFusion(nn.Module):
    """Brings a stage to ``middle`` channels and fuses it, by attention, with deeper ones (ABF)."""

    def __init__(self, inputs: int, middle: int, deepest: bool) -> None:
        super().__init__()
        self.reduce = nn.Sequential(
            nn.Conv2d(inputs, middle, 1, bias=False), nn.BatchNorm2d(middle)
        )
        self.attention = None if deepest else nn.Conv2d(2 * middle, 2, 1)

    def forward(self, features: Tensor, deeper: Tensor | None) -> Tensor:
        """(B, inputs, H, W), (B, middle, h, w) or ``None`` -> (B, middle, H, W)."""
        own = self.reduce(for_layer(self.reduce, features))
        if self.attention is None or deeper is None:
            return own
        enlarged = functional.interpolate(deeper, own.shape[-2:], mode="nearest")
        maps = self.attention(torch.cat([own, enlarged], dim=1)).sigmoid()
        return own * maps[:, :1] + enlarged * maps[:, 1:]


def convolution(inputs: int, outputs: int, size: tuple[int, int]) -> nn.Module:
    """From the fused features to the teacher's channels: a 3 x 3 convolution, at any ``size``."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)
    )


class ReviewLoss(nn.Module):
    """Hierarchical context losses of stages that were fused from deep to fine, per image.

    The embedding counts as the deepest stage.

    ``to_teacher`` builds what turns fused features into the teacher's. ``middle`` is the number of
    channels of the fused features; ``None`` for that of the student's embedding, 64 to 512.
    """

    def __init__(
        self,
        pair: "Pair",
        to_teacher: Callable[[int, int, tuple[int, int]], nn.Module] = convolution,
        /,
        *,
        middle: int | None = None,
    ) -> None:
        super().__init__()
        middle = middle or min(512, max(64, pair.student.embedding))
        shapes = aligned(
            (*pair.student.stages, (pair.student.embedding, 1, 1)),
            (*pair.teacher.stages, (pair.teacher.embedding, 1, 1)),
        )[::-1]
        self.fusions = nn.ModuleList(
            AttentionFusion(mine[0], middle, deepest=index == 0)
            for index, (mine, _) in enumerate(shapes)
        )
        self.to_teacher = nn.ModuleList(
            to_teacher(middle, theirs[0], (mine[1], mine[2])) for mine, theirs in shapes
        )

    def forward(self, student: "Output", teacher: "TeacherOutput", batch: "Batch") -> Tensor:
        """(B,), unweighted: the sum over stages."""
        pairs = aligned(_with_embedding(student), _with_embedding(teacher))[::-1]
        losses, deeper = [], None
        for (mine, theirs), fuse, turn in zip(pairs, self.fusions, self.to_teacher, strict=True):
            deeper = fuse(mine, deeper)
            losses.append(hcl_per_image(turn(deeper), theirs))
        return torch.stack(losses).sum(dim=0)


def _with_embedding(output: "Output | TeacherOutput") -> Sequence[Tensor]:
    return (*output.stages, output.embedding[:, :, None, None])


CUT = 0.1
"""Share of the highest frequency below which frequencies count as low: a choice of this project."""


def high_pass(size: tuple[int, int]) -> Tensor:
    """1 where a frequency is kept: (H, W // 2 + 1), in the order of ``rfft2``.

    Those below ``CUT`` times the highest, in both directions, are left out; so the mean always is.
    """
    rows = torch.fft.fftfreq(size[0]).abs() * 2
    columns = torch.fft.rfftfreq(size[1]) * 2
    return (~((rows[:, None] < CUT) & (columns[None] < CUT))).float()


class FrequencyAttention(nn.Module):
    """FAM (Pham 2024, arXiv 2403.05894): a learned filter of features, for maps of one size.

    For each frequency a complex matrix turns the student's channels into the teacher's; low
    frequencies are then left out, since a 1 x 1 convolution carries them. A weighted sum of both.
    """

    mask: Tensor

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int]) -> None:
        super().__init__()
        # Real and imaginary part apart: that is how optimisers and files take complex numbers.
        # Half of the frequencies: a filter's other half could change the imaginary part alone.
        mask = high_pass(size)
        scale = 1 / (inputs * outputs) ** 0.5
        self.filter = nn.Parameter(scale * torch.rand(*mask.shape, inputs, outputs, 2))
        self.local = nn.Conv2d(inputs, outputs, 1)
        self.shares = nn.Parameter(torch.ones(2))
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        local = self.local(for_layer(self.local, features))
        with torch.autocast(features.device.type, enabled=False):
            filtered = self._filtered(working_precision(features))
        return self.shares[0] * filtered + self.shares[1] * local

    def _filtered(self, features: Tensor) -> Tensor:
        spectrum = torch.fft.rfft2(features, norm="ortho")
        matrices = torch.view_as_complex(self.filter.float()) * self.mask[..., None, None]
        # A product of matrices for each frequency: (H, W', B, inputs) by (H, W', inputs, outputs).
        turned = (spectrum.permute(2, 3, 0, 1) @ matrices).permute(2, 3, 0, 1)
        return torch.fft.irfft2(turned, s=features.shape[-2:], norm="ortho")


def frequency_review(pair: "Pair", *, middle: int | None = None) -> ReviewLoss:
    """ReviewKD with frequency attention where it has its last convolutions.

    The paper fuses stages by cross attention; here they are fused as in ReviewKD, so that the two
    methods differ in the attention to frequencies alone.
    """
    return ReviewLoss(pair, FrequencyAttention, middle=middle)
