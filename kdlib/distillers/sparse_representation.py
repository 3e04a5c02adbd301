"""Sparse Representation Matching, SRM (Tran 2021, arXiv 2103.17012): what its stages learn from."""

from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from kdlib.data.batches import Batch
from kdlib.distillers.base import TeacherOutput
from kdlib.distillers.pair import Pair
from kdlib.distillers.sparse_options import SrmOptions
from kdlib.losses.numeric import working_precision
from kdlib.losses.sparse_codes import (
    atom_logits,
    global_labels,
    image_loss,
    keep_largest,
    local_labels,
    pixel_loss,
    reconstruction,
)
from kdlib.losses.stages import aligned, pool_to_common_size
from kdlib.models.output import Output, Shapes


class SparseBlock(nn.Module):
    """Describes every pixel of a stage by its similarity to M atoms.

    Args:
        channels: D of the stage.
        atoms: M.
        kept: how many of the largest similarities of a pixel are kept; ``None`` for all.
    """

    def __init__(self, channels: int, atoms: int, kept: int | None = None) -> None:
        super().__init__()
        self.kept = kept
        self.atoms = nn.Parameter(nn.init.kaiming_uniform_(torch.empty(channels, atoms)))
        self.intercept = nn.Parameter(torch.empty(()).uniform_(-1, 1))

    def logits(self, features: Tensor) -> Tensor:
        """(B, D, H, W) -> (B, H, W, M), before the sigmoid."""
        return atom_logits(features, self.atoms, self.intercept)

    def forward(self, features: Tensor) -> Tensor:
        """Codes: (B, D, H, W) -> (B, H, W, M), each 0 to 1."""
        codes = self.logits(features).sigmoid()
        return codes if self.kept is None else keep_largest(codes, self.kept)

    def errors(self, features: Tensor) -> Tensor:
        """Mean squared error (B,) of what the codes of features (B, D, H, W) give back."""
        restored = reconstruction(self(features), self.atoms)
        return (restored - working_precision(features)).square().mean(dim=(1, 2, 3))


class Dictionaries(nn.ModuleList):
    """A block with sparse codes for each stage of a teacher, not yet learned.

    Args:
        teacher: its shapes.
        options: how many atoms, and how many of them a code keeps.
    """

    def __init__(self, teacher: Shapes, options: SrmOptions) -> None:
        sizes = [(channels, options.atoms(channels)) for channels, _, _ in teacher.stages]
        super().__init__(SparseBlock(d, m, options.kept(m)) for d, m in sizes)

    def __iter__(self) -> Iterator[SparseBlock]:
        return cast("Iterator[SparseBlock]", super().__iter__())


class ReconstructionLoss(nn.Module):
    """How badly the sparse codes describe the teacher's stages: summed over stages, per image.

    Args:
        pair: the networks; the teacher alone matters.
        given: options of :class:`SrmOptions`.
    """

    def __init__(self, pair: Pair, **given: Any) -> None:
        super().__init__()
        self.blocks = Dictionaries(pair.teacher, SrmOptions.given(given))

    def forward(self, student: object, teacher: TeacherOutput, batch: Batch) -> Tensor:
        """(B,), mean squared errors."""
        pairs = zip(self.blocks, teacher.stages, strict=True)
        return torch.stack([block.errors(stage) for block, stage in pairs]).sum(dim=0)


class InitialisationLoss(nn.Module):
    """How far a student's stages are from the labels that the teacher's codes give, per image.

    Teacher and student may differ in depth, width and size of the maps: the deepest stages are
    paired, the larger map is pooled, and labels are made of the pooled teacher's features.

    Args:
        pair: the networks.
        given: options of :class:`SrmOptions`.
    """

    def __init__(self, pair: Pair, **given: Any) -> None:
        super().__init__()
        self.options = SrmOptions.given(given)
        # Learned before, by a run of their own; frozen here.
        self.teachers = Dictionaries(pair.teacher, self.options).requires_grad_(False)
        sizes = [(mine, self.options.atoms(theirs)) for mine, theirs in pair.channels]
        self.students = nn.ModuleList(SparseBlock(*size) for size in sizes)

    def forward(self, student: Output, teacher: TeacherOutput, batch: Batch) -> Tensor:
        """(B,), unweighted: the sum of :meth:`terms`."""
        return torch.stack(list(self.terms(student, teacher).values())).sum(dim=0)

    def terms(self, student: Output, teacher: TeacherOutput) -> dict[str, Tensor]:
        """``global`` and ``local``, as far as they are targets: (B,) each, summed over stages."""
        found: dict[str, list[Tensor]] = {}
        for block, teaching, mine, theirs in self._stages(student, teacher):
            for name, loss in self._losses(block.logits(mine), teaching(theirs)):
                found.setdefault(name, []).append(loss)
        return {name: torch.stack(losses).sum(dim=0) for name, losses in found.items()}

    def _stages(
        self, student: Output, teacher: TeacherOutput
    ) -> Iterator[tuple[SparseBlock, SparseBlock, Tensor, Tensor]]:
        """Of each pair of stages: its blocks, and its features at one size."""
        blocks = aligned(list(self.students), list(self.teachers))
        stages = aligned(student.stages, teacher.stages)
        for (block, teaching), (mine, theirs) in zip(blocks, stages, strict=True):
            yield cast("SparseBlock", block), teaching, *pool_to_common_size(mine, theirs)

    def _losses(self, logits: Tensor, codes: Tensor) -> Iterator[tuple[str, Tensor]]:
        mine, targets = logits.sigmoid(), self.options.targets.split("-")
        if "global" in targets:
            yield "global", image_loss(mine, global_labels(codes))
        if "local" in targets:
            taken = mine if self.options.release else logits
            yield "local", pixel_loss(taken, local_labels(codes))
