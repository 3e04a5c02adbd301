"""Contrastive representation distillation, CRD (Tian 2020, arXiv 1910.10699)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdlib.data.batches import Batch
from kdlib.errors import KdlibError
from kdlib.losses.attention import for_layer, working_precision
from kdlib.models.output import NetworkPair, Output
from kdlib.seeds import generator


def nce_per_image(scores: Tensor, images: int) -> Tensor:
    """``-log h(s_0) - sum_k log(1 - h(s_k))``, ``h = e^s / (e^s + K / N)``: (B, 1 + K) -> (B,).

    Scores s are logarithms of the normalised critic, the positive's first; N images can be drawn.
    The release adds 1e-7 to denominators, which changes the value by less than 1e-6.
    """
    log_odds = scores - torch.tensor((scores.shape[1] - 1) / images).log().to(scores)
    return functional.softplus(-log_odds[:, 0]) + functional.softplus(log_odds[:, 1:]).sum(dim=1)


class Negatives(nn.Module):
    """Draws K images of other classes, uniformly; step n is the same after an interruption."""

    def __init__(self, labels: Tensor, count: int, seed: int) -> None:
        super().__init__()
        sizes = torch.bincount(labels)
        if int(sizes.max()) == len(labels):
            raise KdlibError("CRD contrasts classes; the training set needs at least two of them.")
        self.count, self.seed = count, seed
        self.by_class = nn.Buffer(labels.argsort(stable=True), persistent=False)
        self.starts = nn.Buffer(sizes.cumsum(0) - sizes, persistent=False)
        self.sizes = nn.Buffer(sizes, persistent=False)
        self.step = nn.Buffer(torch.zeros((), dtype=torch.int64))

    def forward(self, labels: Tensor) -> Tensor:
        """Labels (B,) -> positions in the training set (B, K)."""
        own = self.sizes[labels][:, None]
        stream = generator(self.seed, "negatives", int(self.step))
        self.step.add_(1)
        shares = torch.rand(len(labels), self.count, generator=stream).to(own.device)
        others = len(self.by_class) - own
        place = (shares * others).long().minimum(others - 1)
        # Images are sorted by class: whoever lies at or after the own class moves behind it.
        return self.by_class[place + own * (place >= self.starts[labels][:, None])]


class Memory(nn.Module):
    """Unit embeddings (N, D) of all training images as one network saw them last."""

    def __init__(self, images: int, dimensions: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        first = torch.randn(images, dimensions)
        self.bank: Tensor = nn.Buffer(functional.normalize(first, dim=1))
        self.log_constant = nn.Buffer(torch.tensor(float("nan")))

    def scores(self, anchors: Tensor, positions: Tensor, temperature: float) -> Tensor:
        """Log of the normalised critic: anchors (B, D), positions (B, 1 + K) -> (B, 1 + K)."""
        # To gather K embeddings for each image moves K x D numbers; a row of this product has N.
        similarities = (anchors @ self.bank.T / temperature).gather(1, positions)
        if self.log_constant.isnan():  # the first batch's critic is 1 / N on average
            mean = similarities.detach().exp().mean()
            self.log_constant.copy_((mean * len(self.bank)).log())
        return similarities - self.log_constant

    @torch.no_grad()
    def update(self, anchors: Tensor, positions: Tensor) -> None:
        """Move the embeddings at ``positions`` (B,) towards ``anchors`` (B, D)."""
        moved = torch.lerp(anchors.detach(), self.bank[positions], self.momentum)
        # A new bank: the backward pass of the scores still needs the old one.
        self.bank = self.bank.index_copy(0, positions, functional.normalize(moved, dim=1))


class ContrastiveLoss(nn.Module):
    """The sum of contrasts of each network's projected embedding with the other's memory."""

    def __init__(
        self,
        pair: NetworkPair,
        *,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,  # share of an old embedding that a memory keeps
        dimensions: int = 128,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.negatives = Negatives(pair.labels, negatives, pair.seed)
        self.project_student = nn.Linear(pair.student.embedding, dimensions)
        self.project_teacher = nn.Linear(pair.teacher.embedding, dimensions)
        self.memory_student = Memory(len(pair.labels), dimensions, momentum)
        self.memory_teacher = Memory(len(pair.labels), dimensions, momentum)

    def forward(self, student: Output, teacher: Output, batch: Batch) -> Tensor:
        """(B,), unweighted. The memories move in training mode only."""
        mine = _anchors(self.project_student, student.embedding)
        theirs = _anchors(self.project_teacher, teacher.embedding)
        positions = torch.cat([batch.indices[:, None], self.negatives(batch.labels)], dim=1)
        with torch.autocast(mine.device.type, enabled=False):
            first, second = (
                nce_per_image(memory.scores(anchors, positions, self.temperature), len(memory.bank))
                for anchors, memory in ((mine, self.memory_teacher), (theirs, self.memory_student))
            )
        if self.training:
            self.memory_student.update(mine, batch.indices)
            self.memory_teacher.update(theirs, batch.indices)
        return first + second


def _anchors(projection: nn.Linear, embedding: Tensor) -> Tensor:
    """Projected embeddings of unit norm: (B, D) -> (B, dimensions)."""
    projected = projection(for_layer(projection, embedding))
    return functional.normalize(working_precision(projected), dim=1)
