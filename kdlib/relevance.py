"""Does attention lie on the objects that define the class? Measured against ground truth.

Relevance masks are area-pooled to the size of a map, rather than the map being enlarged: the
pooled mask holds each cell's relevant share, so no interpolation is invented, and an attention
map that knows nothing scores exactly the mean relevant area in both measures.
"""

from torch import Tensor
from torch.nn import functional


def relevant_share(relevance: Tensor, height: int, width: int) -> Tensor:
    """Masks (B, H, W) bool -> relevant share of each cell (B, height, width) in 0..1."""
    return functional.adaptive_avg_pool2d(relevance.float(), (height, width))


def energy_share(maps: Tensor, relevance: Tensor) -> Tensor:
    """Share of attention energy on relevant pixels: maps (B, h, w), masks (B, H, W) -> (B,).

    Equal to the share of the map enlarged block by block. A zero map counts as uniform.
    """
    share = relevant_share(relevance, *maps.shape[1:])
    total = maps.sum((1, 2), keepdim=True)
    weights = (maps / total.masked_fill(total == 0, 1)).where(total != 0, 1 / maps[0].numel())
    return (weights * share).sum((1, 2))


def pointing_hit(maps: Tensor, relevance: Tensor) -> Tensor:
    """Pointing game (Zhang et al. 2018, doi 10.1007/s11263-017-1059-x): -> (B,) in 0..1.

    The chance that a pixel drawn from the map's strongest cell is relevant; cells that tie for
    the strongest count equally. Without the original's tolerance of 15 pixels, which would be a
    quarter of a 64-pixel image.
    """
    peak = (maps == maps.amax((1, 2), keepdim=True)).float()
    share = relevant_share(relevance, *maps.shape[1:])
    return (peak * share).sum((1, 2)) / peak.sum((1, 2))
