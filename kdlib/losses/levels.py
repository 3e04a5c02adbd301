"""How the terms of the stages ("levels") are weighted against each other."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdlib.errors import KdlibError

LEVEL_WEIGHTS = ("equal_weight", "equal_scale")
# The buffer has a fixed length so that a checkpoint loads before the first batch is seen.
MAX_LEVELS = 16


class LevelBalance(nn.Module):
    """Weighted sum over levels of per-image terms.

    Args:
        level_weights: ``equal_weight`` (1 each), ``equal_scale`` (each level's term is divided
            by its running mean, so that every level contributes about 1), or one explicit
            weight a level.
        momentum: share of a new batch in the running mean, once that has seen
            ``1 / momentum`` batches; until then it is the plain mean of all batches.

    Raises:
        KdlibError: an unknown value, or weights that are negative or not numbers.
    """

    means: Tensor
    batches: Tensor

    def __init__(
        self, level_weights: str | Sequence[float] = "equal_weight", momentum: float = 0.01
    ) -> None:
        super().__init__()
        self.level_weights = _checked(level_weights)
        self.momentum = momentum
        if self.level_weights == "equal_scale":
            self.register_buffer("means", torch.ones(MAX_LEVELS))
            self.register_buffer("batches", torch.zeros(()))

    def forward(self, terms: Sequence[Tensor]) -> Tensor:
        """One term (B,) a level, fine to coarse -> (B,).

        The running mean moves in training mode only, and includes the batch at hand.

        Raises:
            KdlibError: explicit weights that are not one a level.
        """
        stacked = torch.stack(tuple(terms))
        if self.level_weights == "equal_scale":
            return self._equal_scale(stacked)
        if self.level_weights == "equal_weight":
            return stacked.sum(dim=0)
        if len(self.level_weights) != len(terms):
            raise KdlibError(
                f"{len(self.level_weights)} level_weights for {len(terms)} stages; give one each."
            )
        # Not a matrix product: autocast would make it one of bfloat16.
        return (stacked.new_tensor(self.level_weights)[:, None] * stacked).sum(dim=0)

    def _equal_scale(self, terms: Tensor) -> Tensor:
        means = self.means[: len(terms)]
        if self.training:
            self.batches += 1
            share = (1 / self.batches).clamp_min(self.momentum)
            means.lerp_(terms.detach().mean(dim=1).to(means.dtype), share)
        # A level whose mean is 0 has had no difference to weigh: its terms are 0 as well.
        return (terms / means.clone().masked_fill(means == 0, 1)[:, None]).sum(dim=0)


def _checked(level_weights: str | Sequence[float]) -> str | tuple[float, ...]:
    if level_weights in LEVEL_WEIGHTS:
        return level_weights
    try:
        weights = tuple(float(weight) for weight in level_weights)
    except (TypeError, ValueError):
        weights = ()
    if isinstance(level_weights, str) or not weights or min(weights) < 0:
        raise KdlibError(
            f"Invalid level_weights {level_weights!r}. Valid: {', '.join(LEVEL_WEIGHTS)}, or a "
            "list of non-negative numbers, one a stage from fine to coarse."
        )
    return weights
