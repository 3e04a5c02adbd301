"""Cross-layer distillation with semantic calibration, SemCKD (Chen 2021, arXiv 2012.03236)."""

from collections.abc import Sequence
from itertools import product
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdlib.losses.attention import for_layer, pool_to_common_size, working_precision
from kdlib.losses.hints import feature_mse

if TYPE_CHECKING:
    from kdlib.data.batches import Batch
    from kdlib.losses.attention import HasStages
    from kdlib.losses.pair import Pair


def layer_attention(queries: Tensor, keys: Tensor) -> Tensor:
    """How much each student stage learns from each teacher stage, for each image.

    (B, S, D), (B, S', D) -> (B, S, S'), which sums to 1 over the teacher's stages.
    """
    return functional.softmax(queries @ keys.transpose(1, 2), dim=2)


class Embedding(nn.Module):
    """An image's similarities to its batch, embedded on the unit sphere.

    Similarities of a batch smaller than ``batch_size`` are filled up with zeros.
    """

    def __init__(self, batch_size: int) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.layers = nn.Sequential(
            nn.Linear(batch_size, 2 * batch_size), nn.ReLU(), nn.Linear(2 * batch_size, batch_size)
        )

    def forward(self, features: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, batch_size)."""
        flat = functional.normalize(working_precision(features).flatten(1), dim=1)
        with torch.autocast(flat.device.type, enabled=False):
            similarities = functional.pad(flat @ flat.T, (0, self.batch_size - len(flat)))
        embedded = self.layers(for_layer(self.layers, similarities))
        return functional.normalize(working_precision(embedded), dim=1)


def projection(inputs: int, outputs: int) -> nn.Sequential:
    """From a student's channels to a teacher's: 1 x 1, 3 x 3 and 1 x 1 convolutions.

    The width of the middle is a choice of this project: that of the student, so it stays cheap.
    """
    return nn.Sequential(
        nn.Conv2d(inputs, inputs, 1, bias=False), nn.BatchNorm2d(inputs), nn.ReLU(),
        nn.Conv2d(inputs, inputs, 3, padding=1, bias=False), nn.BatchNorm2d(inputs), nn.ReLU(),
        nn.Conv2d(inputs, outputs, 1),
    )  # fmt: skip


class SemanticLoss(nn.Module):
    """Squared differences of all pairs of stages, weighted by learned attention, per image."""

    def __init__(self, pair: "Pair") -> None:
        super().__init__()
        mine, theirs = pair.student.stages, pair.teacher.stages
        self.queries = nn.ModuleList(Embedding(pair.batch_size) for _ in mine)
        self.keys = nn.ModuleList(Embedding(pair.batch_size) for _ in theirs)
        self.projections = nn.ModuleList(
            projection(one[0], other[0]) for one, other in product(mine, theirs)
        )

    def forward(self, student: "HasStages", teacher: "HasStages", batch: "Batch") -> Tensor:
        """(B,), unweighted: the mean over the student's stages."""
        queries = _embedded(self.queries, student.stages)
        attention = layer_attention(queries, _embedded(self.keys, teacher.stages))
        pairs = zip(self.projections, product(student.stages, teacher.stages), strict=True)
        distances = torch.stack([_distance(layers, *pair) for layers, pair in pairs], dim=1)
        return (attention.flatten(1) * distances).sum(dim=1) / len(student.stages)


def _distance(layers: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
    # Pooled before it is projected, which costs less than after.
    mine, theirs = pool_to_common_size(student, teacher)
    return feature_mse(layers(for_layer(layers, mine)), theirs)


def _embedded(embeddings: nn.ModuleList, stages: Sequence[Tensor]) -> Tensor:
    pairs = zip(embeddings, stages, strict=True)
    return torch.stack([embed(stage) for embed, stage in pairs], dim=1)
