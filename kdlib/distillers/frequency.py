"""Frequency attention, FAM-KD (Pham 2024, arXiv 2403.05894)."""

import torch
from torch import Tensor, nn

from kdlib.distillers.pair import Pair
from kdlib.distillers.review import ReviewLoss
from kdlib.losses.numeric import for_layer, working_precision

CUT = 0.1
"""Share of the highest frequency below which frequencies count as low: a choice of this project."""


def high_pass(size: tuple[int, int], cut: float = CUT) -> Tensor:
    """1 where a frequency is kept: (H, W // 2 + 1), in the order of ``rfft2``.

    Those below ``cut`` times the highest, in both directions, are left out; so the mean always is.
    """
    rows = torch.fft.fftfreq(size[0]).abs() * 2
    columns = torch.fft.rfftfreq(size[1]) * 2
    low = (rows[:, None] < cut) & (columns[None] < cut)
    return (~low).float()


class FrequencyAttention(nn.Module):
    """A learned filter of all frequencies, beside a 1 x 1 convolution; their weighted sum.

    For each frequency a complex matrix turns the student's channels into the teacher's; low
    frequencies are then left out, since the convolution carries them.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        size: height and width of the features, which fix the filter's.
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


def frequency_review(pair: Pair, *, middle: int | None = None) -> ReviewLoss:
    """ReviewKD with frequency attention where it has its last convolutions.

    The paper fuses stages by cross attention; here they are fused as in ReviewKD, so that the two
    methods differ in the attention to frequencies alone.
    """
    return ReviewLoss(pair, FrequencyAttention, middle=middle)
