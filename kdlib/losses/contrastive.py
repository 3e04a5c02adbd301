"""Contrastive representation distillation, CRD (Tian 2020, arXiv 1910.10699)."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdlib.errors import KdlibError
from kdlib.losses.attention import for_layer, working_precision
from kdlib.seeds import generator

if TYPE_CHECKING:
    from kdlib.data.batches import Batch
    from kdlib.distill import TeacherOutput
    from kdlib.losses.pair import Pair
    from kdlib.models.output import Output


def nce_per_image(scores: Tensor, images: int) -> Tensor:
    """Noise-contrastive estimation of which score is the positive's: (B, 1 + K) -> (B,).

    ``-log h(positive) - sum log(1 - h(negative))`` with ``h = e^s / (e^s + K / N)``: the scores s
    are logarithms of the normalised critic, the positive's first, and noise draws each of the N
    ``images`` of the training set with probability 1 / N.
    """
    negatives = scores.shape[1] - 1
    log_odds = scores - torch.tensor(negatives / images).log().to(scores)
    return functional.softplus(-log_odds[:, 0]) + functional.softplus(log_odds[:, 1:]).sum(dim=1)


class Negatives(nn.Module):
    """Draws K images of other classes for each image, uniformly, with replacement.

    From all of the training set, of which ``labels`` (N,) are; the paper's comparison (arXiv
    2205.01997) drew from the first few alone. Step n of a run draws the same after an interruption.
    """

    by_class: Tensor
    starts: Tensor
    sizes: Tensor
    step: Tensor

    def __init__(self, labels: Tensor, count: int, seed: int) -> None:
        super().__init__()
        sizes = torch.bincount(labels)
        if int(sizes.max()) == len(labels):
            raise KdlibError("CRD contrasts classes; the training set needs at least two of them.")
        self.count, self.seed = count, seed
        self.register_buffer("by_class", labels.argsort(stable=True), persistent=False)
        self.register_buffer("starts", sizes.cumsum(0) - sizes, persistent=False)
        self.register_buffer("sizes", sizes, persistent=False)
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    def forward(self, labels: Tensor) -> Tensor:
        """Labels (B,) -> positions in the training set (B, K)."""
        own = self.sizes[labels][:, None]
        stream = generator(self.seed, "negatives", int(self.step))
        self.step += 1
        shares = torch.rand(len(labels), self.count, generator=stream).to(own.device)
        others = len(self.by_class) - own
        place = (shares * others).long().minimum(others - 1)
        # Images are sorted by class: whoever lies at or after the own class moves behind it.
        return self.by_class[place + own * (place >= self.starts[labels][:, None])]


class Memory(nn.Module):
    """Unit embeddings (N, D) of all training images as one network saw them last."""

    bank: Tensor
    log_constant: Tensor

    def __init__(self, images: int, dimensions: int, momentum: float) -> None:
        super().__init__()
        self.momentum = momentum
        bank = functional.normalize(torch.randn(images, dimensions), dim=1)
        self.register_buffer("bank", bank)
        self.register_buffer("log_constant", torch.tensor(float("nan")))

    def scores(self, anchors: Tensor, positions: Tensor, temperature: float) -> Tensor:
        """Log of the normalised critic: anchors (B, D), positions (B, 1 + K) -> (B, 1 + K).

        The constant makes the first batch's critic 1 / N on average, and stays.
        """
        # All images at once, and then a choice: gathering B x K embeddings would move K x D
        # numbers for each image, against N for the product's row.
        similarities = (anchors @ self.bank.T / temperature).gather(1, positions)
        if self.log_constant.isnan():
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
    """Tells an image's embedding in the other network from K of other classes, per image.

    Each network's projected, normalised embedding is an anchor that is contrasted with the
    memory of the other network; the two terms are added. ``momentum`` is the share of the old
    embedding when a memory is updated.
    """

    def __init__(
        self,
        pair: "Pair",
        *,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        dimensions: int = 128,
    ) -> None:
        super().__init__()
        self.temperature = temperature
        self.negatives = Negatives(pair.labels, negatives, pair.seed)
        self.project_student = nn.Linear(pair.student.embedding, dimensions)
        self.project_teacher = nn.Linear(pair.teacher.embedding, dimensions)
        self.memory_student = Memory(len(pair.labels), dimensions, momentum)
        self.memory_teacher = Memory(len(pair.labels), dimensions, momentum)

    def forward(self, student: "Output", teacher: "TeacherOutput", batch: "Batch") -> Tensor:
        """(B,), unweighted. The memories move in training mode only."""
        mine = _anchors(self.project_student, student.embedding)
        theirs = _anchors(self.project_teacher, teacher.embedding)
        positions = torch.cat([batch.indices[:, None], self.negatives(batch.labels)], dim=1)
        with torch.autocast(mine.device.type, enabled=False):
            loss = self._contrast(mine, self.memory_teacher, positions)
            loss = loss + self._contrast(theirs, self.memory_student, positions)
        if self.training:
            self.memory_student.update(mine, batch.indices)
            self.memory_teacher.update(theirs, batch.indices)
        return loss

    def _contrast(self, anchors: Tensor, memory: Memory, positions: Tensor) -> Tensor:
        scores = memory.scores(anchors, positions, self.temperature)
        return nce_per_image(scores, len(memory.bank))


def _anchors(projection: nn.Linear, embedding: Tensor) -> Tensor:
    """Projected embeddings of unit norm: (B, D) -> (B, dimensions)."""
    projected = projection(for_layer(projection, embedding))
    return functional.normalize(working_precision(projected), dim=1)
