"""Attention maps, and attention transfer (AT): Zagoruyko, Komodakis 2017, arXiv 1612.03928."""

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdlib.losses.numeric import divide, working_precision
from kdlib.losses.stages import aligned, pool_to_common_size


class HasStages(Protocol):
    """What the losses need of a network's output: stage features (B, C, H, W), fine to coarse."""

    @property
    def stages(self) -> tuple[Tensor, ...]:
        """Features of each resolution."""
        ...


def attention_map(features: Tensor, power: int = 2) -> Tensor:
    """Channel mean of ``|F|^power``: (B, C, H, W) -> (B, H, W), float32 (float64 stays)."""
    if power == 2:
        return _ChannelEnergy.apply(features)
    return working_precision(features).abs().pow(power).mean(dim=1)


def attention_maps(stages: Iterable[Tensor]) -> tuple[Tensor, ...]:
    """The attention map of every stage, fine to coarse."""
    return tuple(attention_map(features) for features in stages)


def maps_of(output: HasStages) -> tuple[Tensor, ...]:
    """Attention maps of a network's output; those it carries as ``maps`` are not recomputed.

    A teacher's output carries them, so that all students of a step share one computation.
    """
    maps = getattr(output, "maps", None)
    return attention_maps(output.stages) if maps is None else tuple(maps)


def paired_maps(student: HasStages, teacher: HasStages) -> list[tuple[Tensor, Tensor]]:
    """Student's and teacher's map of each stage; the teacher's are cut off from its graph."""
    pairs = aligned(maps_of(student), maps_of(teacher))
    return [(mine, theirs.detach()) for mine, theirs in pairs]


def at_loss_per_image(student_map: Tensor, teacher_map: Tensor) -> Tensor:
    """Mean squared difference of two maps of unit L2 norm: (B, H, W), (B, H', W') -> (B,).

    Maps of unequal size: the larger is pooled to the smaller. A zero map stays zero and gets no
    gradient. Follows the mean over pixels of the authors' experiments, whose usual weight is
    1000, rather than the norm of equation 2.
    """
    student, teacher = map(_unit_norm, pool_to_common_size(student_map, teacher_map))
    return (student - teacher).square().mean(dim=1)


def _unit_norm(maps: Tensor) -> Tensor:
    vectors = working_precision(maps).flatten(1)
    return divide(vectors, torch.linalg.vector_norm(vectors, dim=1, keepdim=True))


class _ChannelEnergy(torch.autograd.Function):
    """``mean_c F^2`` and its gradient ``2 F g / C`` in one pass each.

    This reads every activation of every stage, so it is nearly all that attention methods cost.
    Autograd's own chain of square and mean takes three passes and, in bfloat16, two copies.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        ctx.save_for_backward(features)
        if features.stride(1) == 1:
            # Channels are innermost (channels_last): a norm along them is vectorised and needs
            # no temporary. Across strided channels the same norm is ten times slower.
            dtype = torch.float64 if features.dtype == torch.float64 else torch.float32
            norm = torch.linalg.vector_norm(features, dim=1, dtype=dtype)
            return norm.square_().div_(features.shape[1])
        return working_precision(features).square().mean(dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (features,) = ctx.saved_tensors
        scale = (gradient * (2 / features.shape[1])).unsqueeze(1)
        # Not `features * scale.to(bfloat16)`: with few channels that kernel is six times slower.
        return (features * scale).to(features.dtype)
