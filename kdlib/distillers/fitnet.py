"""FitNets: a hint from the middle of the teacher (Romero 2015, arXiv 1412.6550)."""

from torch import Tensor, nn

from kdlib.data.batches import Batch
from kdlib.distillers.base import TeacherOutput
from kdlib.distillers.pair import Pair
from kdlib.losses.numeric import for_layer, working_precision
from kdlib.losses.stages import aligned, pool_to_common_size
from kdlib.models.output import Output


def feature_mse(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference of features: (B, C, H, W), (B, C, H', W') -> (B,).

    The larger features are average-pooled to the size of the smaller. The mean over elements, in
    place of the paper's half sum, is what the usual weight of 100 belongs to.
    """
    mine, theirs = pool_to_common_size(working_precision(student), working_precision(teacher))
    return (mine - theirs).square().flatten(1).mean(dim=1)


class HintLoss(nn.Module):
    """Squared difference of the middle stage, through a learned 1 x 1 convolution, per image.

    The paper fits the hint first and distils the logits afterwards; as in the benchmarks that
    followed it, both are learned together here.

    Args:
        pair: the networks; of an even number of stages the later middle one is taken.
    """

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.middle = len(pair.channels) // 2
        self.regressor = nn.Conv2d(*pair.channels[self.middle], kernel_size=1)

    def forward(self, student: Output, teacher: TeacherOutput, batch: Batch) -> Tensor:
        """(B,), unweighted."""
        mine, theirs = aligned(student.stages, teacher.stages)[self.middle]
        return feature_mse(self.regressor(for_layer(self.regressor, mine)), theirs)
