"""KD_loc: what a predicted box cuts out of an image, beside what the object's own box does.

Source: Guo, Alvarez, Salzmann 2021, arXiv 2106.05209, section 3.2. torchvision's ``roi_align``
has no gradient to its boxes, so crops are sampled by a spatial transformer (Jaderberg 2015, arXiv
1506.02025): the pixels move with the box, and the loss with the pixels.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from kdlib.losses.numeric import working_precision


def sampled_crops(images: Sequence[Tensor], boxes: Tensor, owners: Tensor, size: int) -> Tensor:
    """The inside of each box, stretched to a square; differentiable to the boxes.

    Bilinear, without antialiasing. Boxes are clamped to their image: an edge beyond it gets no
    gradient, and what has no area there is a crop of one repeated row or column.

    Args:
        images: B of them, (3, h, w) each, of any size.
        boxes: (P, 4) x1, y1, x2, y2 as fractions of their image's width and height.
        owners: (P,) int64, the image of each box.
        size: pixels S a side of a crop.

    Returns:
        (P, 3, S, S), in the images' own range.
    """
    if len(boxes) == 0:
        return images[0].new_zeros(0, 3, size, size)
    stacked, extents = _stacked(images)
    inside = working_precision(boxes).clamp(0, 1) * extents[owners].repeat(1, 2)
    places, rank, most = _places(owners, len(images))
    maps = inside.new_zeros(len(images), most, 2, 3).index_put(places, _placement(inside))
    grid = functional.affine_grid(
        maps.flatten(0, 1), [maps[..., 0, 0].numel(), 3, size, size], False
    )
    found = functional.grid_sample(
        stacked.to(grid.dtype),
        grid.view(len(images), most * size, size, 2),
        padding_mode="border",
        align_corners=False,
    )
    return found.unflatten(2, (most, size))[owners, :, rank]


def _stacked(images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Images on one canvas (B, 3, H, W), and the share (B, 2) of its width and height of each."""
    sides = [max(image.shape[axis] for image in images) for axis in (-2, -1)]
    canvas = [
        functional.pad(image, (0, sides[1] - image.shape[-1], 0, sides[0] - image.shape[-2]))
        for image in images
    ]
    shares = [[image.shape[-1] / sides[1], image.shape[-2] / sides[0]] for image in images]
    return torch.stack(canvas), torch.tensor(shares, device=images[0].device)


def _placement(boxes: Tensor) -> Tensor:
    """Boxes (P, 4) as fractions -> the affine maps (P, 2, 3) of the square -1..1 onto them."""
    left, top, right, bottom = boxes.unbind(-1)
    none = torch.zeros_like(left)
    across = torch.stack([right - left, none, left + right - 1], dim=-1)
    down = torch.stack([none, bottom - top, top + bottom - 1], dim=-1)
    return torch.stack([across, down], dim=-2)


def _places(owners: Tensor, images: int) -> tuple[tuple[Tensor, Tensor], Tensor, int]:
    """Where each crop stands: (image, rank among that image's), and the most that any image has."""
    counts = torch.bincount(owners, minlength=images)
    order = owners.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    ranked = torch.arange(len(owners), device=owners.device) - starts[owners[order]]
    rank = torch.empty_like(ranked).index_put((order,), ranked)
    return (owners, rank), rank, int(counts.max())


def pooled(features: Tensor, cells: int) -> Tensor:
    """Means of ``cells`` by ``cells`` parts: (P, C, h, w) -> (P, C, cells, cells), in float32.

    Maps that have fewer cells stay as they are.
    """
    return functional.adaptive_avg_pool2d(
        working_precision(features), min(cells, features.shape[-1])
    )


def crop_distance(predicted: Tensor, target: Tensor) -> Tensor:
    """L1 distance of pooled feature maps: (P, C, c, c) twice -> (P,), a mean over their elements.

    No gradient reaches the target. Equation 5.
    """
    return (predicted - target.detach()).abs().flatten(1).mean(1)
