"""Sparse codes of feature maps, the labels that they give, and the losses against those labels.

Sparse Representation Matching, SRM (Tran 2021, arXiv 2103.17012, section 3). At one pixel, x is
the vector of its D channels and C (D, M) a dictionary of M atoms; a code says how much of each
atom is in x.
"""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdlib.data.batches import Batch
from kdlib.distill import TeacherOutput
from kdlib.losses.attention import aligned, pool_to_common_size, working_precision
from kdlib.models.output import NetworkPair, Output, Shapes
from kdlib.srm.options import SrmOptions

SAFE = 1e-6
"""Distance that probabilities keep from 0 and 1, where the logarithm and its slope are infinite."""


def keep_largest(codes: Tensor, count: int) -> Tensor:
    """Codes (..., M) of which all below the ``count``-th largest are 0; ties with it survive."""
    threshold = codes.topk(count, dim=-1).values[..., -1:]
    return torch.where(codes >= threshold, codes, torch.zeros_like(codes))


def local_labels(codes: Tensor) -> Tensor:
    """Which atom dominates at each pixel, the first of equals: (B, H, W, M) -> (B, H, W)."""
    return codes.argmax(dim=-1)


def global_labels(codes: Tensor) -> Tensor:
    """How much of each atom an image holds, 0 to 1: (B, H, W, M) -> (B, M)."""
    return codes.mean(dim=(1, 2))


def image_loss(codes: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of mean codes with global labels, mean over atoms.

    Codes (B, H, W, M) of the student and labels (B, M), both 0 to 1 -> (B,).
    """
    mean = global_labels(codes).clamp(SAFE, 1 - SAFE)
    with torch.autocast(mean.device.type, enabled=False):
        return functional.binary_cross_entropy(mean, labels, reduction="none").mean(dim=1)


def pixel_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of pixels with local labels, mean over pixels: (B, H, W, M), (B, H, W) -> (B,).

    The authors' release gives it the codes for logits, which lie between 0 and 1; the loss then
    cannot fall below ``log(e + M - 1) - 1``.
    """
    # Rows of atoms: over any but the last dimension a softmax would move them all, there and back.
    losses = functional.cross_entropy(logits.flatten(0, 2), labels.flatten(), reduction="none")
    return losses.view_as(labels).mean(dim=(1, 2))


class SparseBlock(nn.Module):
    """Describes pixels of D ``channels`` by their ``kept`` largest similarities to M ``atoms``."""

    def __init__(self, channels: int, atoms: int, kept: int | None = None) -> None:
        super().__init__()
        self.kept = kept
        self.atoms = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(channels, atoms)))
        self.intercept = nn.Parameter(torch.empty(()).uniform_(-1, 1))

    def logits(self, features: Tensor) -> Tensor:
        """``C^T x + b`` of every pixel, before the sigmoid: (B, D, H, W) -> (B, H, W, M).

        In float32 (or float64) whatever the network's precision: a code decides between atoms
        whose similarities can be close.
        """
        pixels = working_precision(features).movedim(1, -1)
        with torch.autocast(pixels.device.type, enabled=False):
            # One pass over the many similarities, where a product and a sum would take two.
            bias = self.intercept.to(pixels.dtype).expand(self.atoms.shape[1])
            return functional.linear(pixels, self.atoms.to(pixels.dtype).T, bias)

    def forward(self, features: Tensor) -> Tensor:
        """Codes: (B, D, H, W) -> (B, H, W, M), each 0 to 1."""
        codes = self.logits(features).sigmoid()
        return codes if self.kept is None else keep_largest(codes, self.kept)

    def restored(self, features: Tensor) -> Tensor:
        """What the codes of features (B, D, H, W) stand for, ``C k``, of the same shape."""
        codes = self(features)
        with torch.autocast(codes.device.type, enabled=False):
            return (codes @ self.atoms.to(codes.dtype).T).movedim(-1, 1)

    def errors(self, features: Tensor) -> Tensor:
        """Mean squared error (B,) of what the codes of features (B, D, H, W) give back."""
        difference = self.restored(features) - working_precision(features)
        return difference.square().mean(dim=(1, 2, 3))


class Blocks(nn.ModuleList):
    """Blocks of several stages, fine to coarse."""

    def __iter__(self) -> Iterator[SparseBlock]:
        return cast("Iterator[SparseBlock]", super().__iter__())


def dictionaries(teacher: Shapes, options: SrmOptions) -> Blocks:
    """A block with sparse codes for each stage of a teacher, not yet learned."""
    sizes = [(channels, options.atoms(channels)) for channels, _, _ in teacher.stages]
    return Blocks(SparseBlock(d, m, options.kept(m)) for d, m in sizes)


class ReconstructionLoss(nn.Module):
    """How badly the sparse codes describe the teacher's stages: summed over stages, per image."""

    def __init__(self, pair: NetworkPair, **given: Any) -> None:
        super().__init__()
        self.blocks = dictionaries(pair.teacher, SrmOptions(**given))

    def forward(self, student: object, teacher: TeacherOutput, batch: Batch) -> Tensor:
        """(B,), mean squared errors."""
        pairs = zip(self.blocks, teacher.stages, strict=True)
        return torch.stack([block.errors(stage) for block, stage in pairs]).sum(dim=0)


class InitialisationLoss(nn.Module):
    """How far a student's stages are from the labels that the teacher's codes give, per image.

    The deepest stages are paired, the larger map is pooled, and labels are made of the pooled
    teacher's features.
    """

    def __init__(self, pair: NetworkPair, **given: Any) -> None:
        super().__init__()
        self.options = SrmOptions(**given)
        # Learned before, by a run of their own; frozen here.
        self.teachers = dictionaries(pair.teacher, self.options).requires_grad_(False)
        sizes = [(mine, self.options.atoms(theirs)) for mine, theirs in pair.channels]
        self.students = Blocks(SparseBlock(*size) for size in sizes)

    def forward(self, student: Output, teacher: TeacherOutput, batch: Batch) -> Tensor:
        """(B,), unweighted: the sum of :meth:`terms`."""
        return torch.stack(list(self.terms(student, teacher).values())).sum(dim=0)

    def terms(self, student: Output, teacher: TeacherOutput) -> dict[str, Tensor]:
        """``global`` and ``local``, as far as they are targets: (B,) each, summed over stages."""
        found: dict[str, list[Tensor]] = {}
        blocks = aligned(list(self.students), list(self.teachers))
        stages = aligned(student.stages, teacher.stages)
        for (block, teaching), stage in zip(blocks, stages, strict=True):
            mine, theirs = pool_to_common_size(*stage)
            for name, loss in self._losses(block.logits(mine), teaching(theirs)):
                found.setdefault(name, []).append(loss)
        return {name: torch.stack(losses).sum(dim=0) for name, losses in found.items()}

    def _losses(self, logits: Tensor, codes: Tensor) -> Iterator[tuple[str, Tensor]]:
        mine, targets = logits.sigmoid(), self.options.targets.split("-")
        if "global" in targets:
            yield "global", image_loss(mine, global_labels(codes))
        if "local" in targets:
            taken = mine if self.options.release else logits
            yield "local", pixel_loss(taken, local_labels(codes))
