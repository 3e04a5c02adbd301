"""Knowledge review, ReviewKD (Chen 2021, arXiv 2104.09044), and FAM-KD's frequency attention."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdlib.losses.attention import aligned, for_layer, pool_to_common_size, working_precision
from kdlib.models.cifar import conv_norm
from kdlib.models.output import NetworkPair, Output

Turn = Callable[[int, int, tuple[int, int]], nn.Module]  # by channels before and after, and size


def hcl_per_image(student: Tensor, teacher: Tensor) -> Tensor:
    """Hierarchical context loss of one stage: (B, C, H, W), (B, C, H', W') -> (B,).

    Weighted mean of squared differences: features (1), pooled to 4 x 4 (1/2), 2 x 2 (1/4), 1 (1/8).
    """
    mine, theirs = pool_to_common_size(working_precision(student), working_precision(teacher))
    difference = mine - theirs  # pooling is linear: the pooled difference is that of the pooled
    sides = [side for side in (4, 2, 1) if side < min(difference.shape[-2:])]
    levels = [difference, *(functional.adaptive_avg_pool2d(difference, side) for side in sides)]
    weights = [0.5**index for index in range(len(levels))]
    losses = [level.square().flatten(1).mean(dim=1) for level in levels]
    terms = [weight / sum(weights) * loss for weight, loss in zip(weights, losses, strict=True)]
    return torch.stack(terms).sum(dim=0)


class AttentionFusion(nn.Module):
    """Brings a stage to ``middle`` channels and fuses it, by attention, with deeper ones (ABF)."""

    def __init__(self, inputs: int, middle: int, deepest: bool) -> None:
        super().__init__()
        self.reduce = conv_norm(inputs, middle, 1, activation=None)
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
    """A 3 x 3 convolution, for maps of any ``size``."""
    return conv_norm(inputs, outputs, activation=None)


class ReviewLoss(nn.Module):
    """Hierarchical context losses of stages that were fused from deep to fine, per image.

    The embedding counts as the deepest stage. ``middle`` is the number of channels of the fused
    features; ``None`` for that of the student's embedding, 64 to 512.
    """

    def __init__(
        self, pair: NetworkPair, to_teacher: Turn = convolution, /, *, middle: int | None = None
    ) -> None:
        super().__init__()
        middle = middle or min(512, max(64, pair.student.embedding))
        mine, theirs = ((*s.stages, (s.embedding, 1, 1)) for s in (pair.student, pair.teacher))
        shapes = aligned(mine, theirs)[::-1]
        fusions = [AttentionFusion(own[0], middle, n == 0) for n, (own, _) in enumerate(shapes)]
        self.fusions = nn.ModuleList(fusions)
        turns = [to_teacher(middle, other[0], own[1:]) for own, other in shapes]
        self.to_teacher = nn.ModuleList(turns)

    def forward(self, student: Output, teacher: Output, batch: object) -> Tensor:
        """(B,), unweighted: the sum over stages."""
        mine, theirs = ((*o.stages, o.embedding[..., None, None]) for o in (student, teacher))
        losses, fused, pairs = [], None, aligned(mine, theirs)[::-1]
        for fuse, turn, (own, other) in zip(self.fusions, self.to_teacher, pairs, strict=True):
            fused = fuse(own, fused)
            losses.append(hcl_per_image(turn(fused), other))
        return torch.stack(losses).sum(dim=0)


class FrequencyAttention(nn.Module):
    """FAM (Pham 2024, arXiv 2403.05894): a learned filter of features, for maps of one size.

    For each high frequency a complex matrix turns the student's channels into the teacher's; a
    1 x 1 convolution carries the low ones. A weighted sum of both.
    """

    def __init__(self, inputs: int, outputs: int, size: tuple[int, int]) -> None:
        super().__init__()
        # Low is below a tenth of the highest frequency, on both axes: a choice of this project.
        rows, columns = torch.fft.fftfreq(size[0]).abs() * 2, torch.fft.rfftfreq(size[1]) * 2
        mask = (~((rows[:, None] < 0.1) & (columns[None] < 0.1))).float()
        # Real and imaginary part apart: that is how optimisers and files take complex numbers.
        # Half of the frequencies: a filter's other half could change the imaginary part alone.
        scale = 1 / (inputs * outputs) ** 0.5
        self.filter = nn.Parameter(scale * torch.rand(*mask.shape, inputs, outputs, 2))
        self.local = nn.Conv2d(inputs, outputs, 1)
        self.shares = nn.Parameter(torch.ones(2))
        self.mask = nn.Buffer(mask, persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        local = self.local(for_layer(self.local, features))
        with torch.autocast(features.device.type, enabled=False):
            spectrum = torch.fft.rfft2(working_precision(features), norm="ortho")
            matrices = torch.view_as_complex(self.filter.float()) * self.mask[..., None, None]
            # Products for each frequency: (H, W', B, inputs) by (H, W', inputs, outputs).
            turned = (spectrum.permute(2, 3, 0, 1) @ matrices).permute(2, 3, 0, 1)
            filtered = torch.fft.irfft2(turned, s=features.shape[-2:], norm="ortho")
        return self.shares[0] * filtered + self.shares[1] * local


def frequency_review(pair: NetworkPair, *, middle: int | None = None) -> ReviewLoss:
    """ReviewKD with frequency attention for its last convolutions; the paper's fusion differs."""
    return ReviewLoss(pair, FrequencyAttention, middle=middle)
