"""Stages fused from deep to fine: ReviewKD (Chen 2021), and FAM-KD's frequency attention."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdlib.losses.attention import aligned, for_layer, working_precision
from kdlib.losses.hints import feature_mse
from kdlib.models.cifar import conv_norm
from kdlib.models.output import NetworkPair, Output


def hcl_per_image(student: Tensor, teacher: Tensor) -> Tensor:
    """Hierarchical context loss of one stage: (B, C, H, W) twice -> (B,).

    Weighted mean of squared differences: features (1), pooled to 4 x 4 (1/2), 2 x 2 (1/4), 1 (1/8).
    """
    # Pooling is linear: the pooled difference is that of the pooled.
    difference = working_precision(student) - working_precision(teacher)
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
        enlarged = functional.interpolate(deeper, own.shape[-2:])
        maps = self.attention(torch.cat([own, enlarged], dim=1)).sigmoid()
        return own * maps[:, :1] + enlarged * maps[:, 1:]


class Review(nn.Module):
    """Distances of stages that are fused from deep to fine; the embedding is the deepest stage.

    Subclasses make ``fusions``, of a stage and the deeper ones that were fused, and ``to_teacher``,
    from what is fused, brought to the teacher's size by nearest pixels, to the teacher's channels.
    """

    distance: Callable[[Tensor, Tensor], Tensor]
    targets = "stages"  # the teacher's maps that the student's are compared with

    def __init__(self, pair: NetworkPair) -> None:
        super().__init__()
        mine, theirs = ((*s.stages, (s.embedding, 1, 1)) for s in (pair.student, pair.teacher))
        self.shapes = aligned(mine, theirs)[::-1]
        self.fusions, self.to_teacher = nn.ModuleList(), nn.ModuleList()

    def forward(self, student: Output, teacher: Output, batch: object) -> Tensor:
        """(B,), unweighted: the sum over stages."""
        stages = student.stages, getattr(teacher, self.targets, teacher.stages)
        deepest = tuple(made.embedding[..., None, None] for made in (student, teacher))
        losses, fused, pairs = [], None, [deepest, *aligned(*stages)[::-1]]
        for fuse, turn, (own, other) in zip(self.fusions, self.to_teacher, pairs, strict=True):
            fused = functional.interpolate(fuse(own, fused), other.shape[-2:])
            losses.append(self.distance(turn(fused), other))
        return torch.stack(losses).sum(dim=0)


class ReviewLoss(Review):
    """ReviewKD (Chen 2021, arXiv 2104.09044): HCL of stages fused by attention (ABF).

    A teacher's target is what its last ReLU is given. Fused features have ``middle`` channels;
    ``None`` for as many as the student's embedding, 512 at most.
    """

    distance, targets = staticmethod(hcl_per_image), "before"

    def __init__(self, pair: NetworkPair, *, middle: int | None = None) -> None:
        super().__init__(pair)
        middle = middle or min(512, pair.student.embedding)
        for number, (own, other) in enumerate(self.shapes):
            self.fusions.append(AttentionFusion(own[0], middle, deepest=number == 0))
            self.to_teacher.append(conv_norm(middle, other[0], activation=None))


class FrequencyAttention(nn.Module):
    """FAM (Pham 2024, arXiv 2403.05894): a learned filter of features of one size.

    At each frequency a complex matrix turns the student's channels into the teacher's; a 1 x 1
    convolution works beside it. Of the filter's answer the low frequencies are left out: a tenth,
    from -r to r - 1 on both axes, which at sizes below 20 is none, as released.
    """

    def __init__(self, inputs: int, outputs: int, size: Sequence[int]) -> None:
        super().__init__()
        # Real and imaginary part apart: that is how optimisers and files take complex numbers.
        self.filter = nn.Parameter(torch.rand(*size, inputs, outputs, 2) / (inputs * outputs))
        self.local = nn.Conv2d(inputs, outputs, 1)
        self.shares = nn.Parameter(torch.full((2,), 0.5))
        mask, middles = torch.ones(*size), [side // 2 for side in size]
        mask[tuple(slice(n - int(0.1 * n), n + int(0.1 * n)) for n in middles)] = 0
        self.mask = nn.Buffer(torch.fft.ifftshift(mask), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H, W)."""
        local = self.local(for_layer(self.local, features))
        with torch.autocast(features.device.type, enabled=False):
            spectrum = torch.fft.fft2(working_precision(features), norm="ortho")
            matrices = torch.view_as_complex(working_precision(self.filter))
            # Products for each frequency: (H, W, B, inputs) by (H, W, inputs, outputs).
            turned = spectrum.permute(2, 3, 0, 1) @ (matrices * self.mask[..., None, None])
            filtered = torch.fft.ifft2(turned.permute(2, 3, 0, 1), norm="ortho").real
        return self.shares[0] * filtered + self.shares[1] * local


class LocalAttention(nn.Module):
    """FAM-KD's fusion: 3 x 3 pixels of a stage, weighted by what ``deeper`` features ask for.

    Each channel has a softmax of its own over the nine; their places have learned offsets. The
    deepest stage, whose ``deeper`` is None, stays as it is.
    """

    def __init__(self, channels: int, deeper: int | None) -> None:
        super().__init__()
        if deeper is None:
            return
        self.narrow = nn.Identity() if deeper == channels else conv_norm(deeper, channels, 1)
        layers = (nn.Conv2d(channels, channels, 1, bias=False) for _ in range(3))
        self.query, self.key, self.value = layers
        self.rows = nn.Parameter(torch.randn(channels // 2, 3, 1))
        self.columns = nn.Parameter(torch.randn(channels - channels // 2, 1, 3))

    def forward(self, features: Tensor, deeper: Tensor | None) -> Tensor:
        """(B, C, H, W), (B, deeper, h, w) -> (B, C, H, W)."""
        if deeper is None:
            return features
        own, narrow = for_layer(self.key, features), self.narrow(for_layer(self.query, deeper))
        query = self.query(functional.interpolate(narrow, own.shape[-2:]))
        made = (functional.unfold(layer(own), 3, padding=1) for layer in (self.key, self.value))
        key, value = (pixels.view(*query.shape[:2], 9, *query.shape[2:]) for pixels in made)
        places = torch.cat([self.rows.expand(-1, 3, 3), self.columns.expand(-1, 3, 3)]).flatten(1)
        shares = (query[:, :, None] * (key + places[..., None, None])).softmax(dim=2)
        return (shares * value).sum(dim=2)


class FrequencyReview(Review):
    """FAM-KD (Pham 2024, arXiv 2403.05894): squared differences of fused, then filtered, stages.

    As released: batch norm and ReLU behind :class:`FrequencyAttention`, no hierarchy of poolings.
    """

    distance = staticmethod(feature_mse)

    def __init__(self, pair: NetworkPair) -> None:
        super().__init__(pair)
        deeper = None
        for (channels, *_), (outputs, *size) in self.shapes:
            self.fusions.append(LocalAttention(channels, deeper))
            filtered = FrequencyAttention(channels, outputs, size)
            self.to_teacher.append(nn.Sequential(filtered, nn.BatchNorm2d(outputs), nn.ReLU()))
            deeper = channels
