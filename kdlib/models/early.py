"""The first stages of a classifier: where it can stop there, what lies behind costs nothing."""

import copy
from typing import cast

from torch import Tensor, fx, nn

from kdlib.models.segmenter import StagedBackbone
from kdlib.models.staged import StagedNetwork
from kdlib.models.tapped import TappedNetwork


class EarlyStages(nn.Module):
    """Runs a classifier, with its own weights, up to one of its stages.

    Args:
        network: a classifier of ours or of torchvision; one that cannot stop on the way runs to its
            end.
        count: the stages that are asked for; 0 for none.
    """

    def __init__(self, network: nn.Module, count: int) -> None:
        super().__init__()
        self.count, self.network = count, network
        if isinstance(network, StagedNetwork):
            self.network = StagedBackbone(network, count)
        if isinstance(network, TappedNetwork):
            self.network = _stopped(network.network, count)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Images (B, 3, H, W), normalised -> the first ``count`` stages (B, C, h, w)."""
        if self.count == 0:
            return ()
        found = self.network(images)
        return (found.stages if hasattr(found, "stages") else found)[: self.count]


def _stopped(network: fx.GraphModule, count: int) -> fx.GraphModule:
    """A traced network whose output is its first ``count`` stages; the modules are the same."""
    stopped = fx.GraphModule(network, copy.deepcopy(network.graph))
    output = stopped.graph.output_node()
    named = cast("dict[str, fx.Node]", output.args[0])
    output.args = (tuple(named[f"stage{index}"] for index in range(count)),)
    stopped.graph.eliminate_dead_code()
    stopped.recompile()
    return stopped
