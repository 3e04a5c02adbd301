"""A frozen teacher with its batch norms folded into the convolutions before them.

In eval mode a batch norm is a fixed scale and shift of each channel, which a convolution can have
in its own weights: the same function up to rounding, with fewer passes over the features. Numbers
differ from the reference's in their last digits, so it is done only where it is asked for.
"""

import copy

from torch import nn
from torch.fx.experimental.optimization import fuse

from kdlib.distillers.base import FrozenTeacher
from kdlib.errors import KdlibError


def folded(teacher: FrozenTeacher) -> FrozenTeacher:
    """A copy of a teacher, folded; the given one stays as it is.

    Raises:
        KdlibError: its network cannot be traced, so that what follows what is unknown.
    """
    try:
        return FrozenTeacher(_fused(teacher.network))
    except Exception as error:
        raise KdlibError(
            f"The batch norms of this {type(teacher.network).__name__} cannot be folded: {error}. "
            "Train with the teacher as it is."
        ) from error


def _fused(network: nn.Module) -> nn.Module:
    """A copy of the network; its weights stay in the memory format that they have."""
    copied = copy.deepcopy(network).eval()  # the copy of a network that was traced would train
    return fuse(copied, inplace=True)
