"""How well dictionaries describe features that they were not learned from."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from kdlib.data.image_data import ImageData
from kdlib.distillers.sparse_representation import SparseBlock
from kdlib.losses.numeric import working_precision
from kdlib.srm.features import outputs


class StageTally:
    """What is known of one stage's dictionary, batch after batch."""

    def __init__(self, block: SparseBlock) -> None:
        self.block = block
        self.images = 0
        self.energy = self.error = 0.0
        self.used = torch.zeros(block.atoms.shape[1], dtype=torch.bool)

    def add(self, features: Tensor) -> None:
        """Count features (B, D, H, W)."""
        self.images += len(features)
        per_image = working_precision(features).square().mean(dim=(1, 2, 3))
        self.energy += per_image.double().sum().item()
        self.error += self.block.errors(features).double().sum().item()
        self.used |= (self.block(features) > 0).flatten(0, 2).any(0).cpu()

    def summary(self) -> dict[str, Any]:
        """Sizes; mean squares of features and of errors; share explained; atoms never kept."""
        channels, atoms = self.block.atoms.shape
        explained = 1 - self.error / self.energy if self.energy else 0.0
        return {
            "channels": channels,
            "atoms": atoms,
            "kept": self.block.kept or atoms,
            "energy": self.energy / self.images,
            "error": self.error / self.images,
            "explained": explained,
            "dead_atoms": int((~self.used).sum()),
        }


@torch.no_grad()
def dictionary_quality(
    blocks: Iterable[SparseBlock],
    teacher: nn.Module,
    data: ImageData,
    *,
    device: torch.device | str = "cpu",
    precision: str = "float32",
) -> list[dict[str, Any]]:
    """:meth:`StageTally.summary` of each stage's dictionary over all images of ``data``.

    ``explained`` is 1 where the features come back whole, 0 where nothing does, and negative
    where the dictionary does worse than to say nothing.
    """
    tallies = [StageTally(block) for block in blocks]
    for answer in outputs(teacher, data, device=device, precision=precision):
        for tally, stage in zip(tallies, answer.stages, strict=True):
            tally.add(stage)
    return [tally.summary() for tally in tallies]
