"""Attention transfer (Zagoruyko, Komodakis 2017, arXiv 1612.03928)."""

from collections.abc import Sequence

from torch import Tensor, nn

from kdlib.data.batches import Batch
from kdlib.errors import checked_options
from kdlib.losses.attention import HasStages, at_loss_per_image, paired_maps
from kdlib.losses.levels import LevelBalance


class AttentionLoss(nn.Module):
    """Squared difference of unit-norm attention maps, summed over stages, per image.

    With ``level_weights="equal_scale"`` this is the control ``at_equal_scale``: plain AT grows
    with the inverse square of a map's pixel count, so its last stage outweighs the others.

    Raises:
        KdlibError: an unknown option, or invalid ``level_weights``.
    """

    def __init__(
        self, level_weights: str | Sequence[float] = "equal_weight", **others: object
    ) -> None:
        checked_options(others, ("level_weights",), "attention transfer")
        super().__init__()
        self.balance = LevelBalance(level_weights)

    def forward(self, student: HasStages, teacher: HasStages, batch: Batch) -> Tensor:
        """(B,), unweighted."""
        pairs = paired_maps(student, teacher)
        return self.balance([at_loss_per_image(mine, theirs) for mine, theirs in pairs])
