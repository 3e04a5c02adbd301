"""Sparse codes of feature maps, the labels that they give, and the losses against those labels.

Sparse Representation Matching, SRM (Tran 2021, arXiv 2103.17012, section 3). At one pixel, x is
the vector of its D channels and C (D, M) a dictionary of M atoms; a code says how much of each
atom is in x.
"""

import torch
from torch import Tensor
from torch.nn import functional

from kdlib.losses.numeric import working_precision

SAFE = 1e-6
"""Distance that probabilities keep from 0 and 1, where the logarithm and its slope are infinite."""


def atom_logits(features: Tensor, atoms: Tensor, intercept: Tensor) -> Tensor:
    """``C^T x + b`` of every pixel: (B, D, H, W), (D, M), () -> (B, H, W, M).

    In float32 (or float64) whatever the network's precision: a code decides between atoms whose
    similarities can be close.
    """
    pixels = working_precision(features).movedim(1, -1)
    with torch.autocast(pixels.device.type, enabled=False):
        # One pass over the many similarities, where a product and a sum would take two.
        bias = intercept.to(pixels.dtype).expand(atoms.shape[1])
        return functional.linear(pixels, atoms.to(pixels.dtype).T, bias)


def keep_largest(codes: Tensor, count: int) -> Tensor:
    """Codes (..., M) of which all below the ``count``-th largest are 0.

    Ties with it survive, so more than ``count`` may be left.
    """
    threshold = codes.topk(count, dim=-1).values[..., -1:]
    return torch.where(codes >= threshold, codes, torch.zeros_like(codes))


def reconstruction(codes: Tensor, atoms: Tensor) -> Tensor:
    """Features that codes stand for, ``C k``: (B, H, W, M), (D, M) -> (B, D, H, W)."""
    with torch.autocast(codes.device.type, enabled=False):
        return (codes @ atoms.to(codes.dtype).T).movedim(-1, 1)


def local_labels(codes: Tensor) -> Tensor:
    """Which atom dominates at each pixel, the first of equals: (B, H, W, M) -> (B, H, W)."""
    return codes.argmax(dim=-1)


def global_labels(codes: Tensor) -> Tensor:
    """How much of each atom an image holds, 0 to 1: (B, H, W, M) -> (B, M)."""
    return codes.mean(dim=(1, 2))


def image_loss(codes: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of an image's mean code with its global labels, per image.

    Args:
        codes: (B, H, W, M) of the student, 0 to 1.
        labels: (B, M), 0 to 1.

    Returns:
        (B,), the mean over atoms.
    """
    mean = global_labels(codes).clamp(SAFE, 1 - SAFE)
    with torch.autocast(mean.device.type, enabled=False):
        return functional.binary_cross_entropy(mean, labels, reduction="none").mean(dim=1)


def pixel_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy of a student's pixels with their local labels, per image.

    Args:
        logits: (B, H, W, M) of the student. The authors' release gives it the codes themselves,
            which lie between 0 and 1; the loss then cannot fall below ``log(e + M - 1) - 1``.
        labels: (B, H, W).

    Returns:
        (B,), the mean over pixels.
    """
    # Rows of atoms: over any but the last dimension a softmax would move them all, there and back.
    losses = functional.cross_entropy(logits.flatten(0, 2), labels.flatten(), reduction="none")
    return losses.view_as(labels).mean(dim=(1, 2))
