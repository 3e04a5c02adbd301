"""The teacher of a detector: a classifier that is shown objects, cut out by their boxes.

Crops are cut differentiably, so that a loss of a predicted box's crop moves the box.
"""

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from kdlib.data.image_data import Colour
from kdlib.errors import KdlibError
from kdlib.losses.attention import working_precision
from kdlib.models.output import StagedBackbone, StagedNetwork
from kdlib.models.torchvision import TappedNetwork

if TYPE_CHECKING:
    from kdlib.detection.batches import DetectionBatch


class CropTargets(NamedTuple):
    """What is known of the G objects of a batch, image after image; nothing has a gradient."""

    teacher: "CropTeacher"  # who can be asked about other crops
    crops: Tensor  # (G, 3, S, S), 0 to 1, cut out by their own boxes
    starts: Tensor  # (B,) int64, the row of each image's first object
    logits: Tensor | None  # (G, C) of the classifier; None without one
    stages: tuple[Tensor, ...]  # its feature maps (G, C, h, w), fine to coarse


class CropTeacher(nn.Module):
    """Cuts objects out and asks a frozen classifier about them, once for all students of a step.

    Of its gradients only those with respect to crops exist, which go on to the boxes that cut them.
    ``network`` is ``None`` where crops are compared as they are; ``size`` (of a crop's side),
    ``mean`` and ``std`` (of each channel, 0 to 1) are those of the classifier's training.
    """

    def __init__(self, network: nn.Module | None, size: int, mean: Colour, std: Colour) -> None:
        super().__init__()
        self.network = None if network is None else network.eval().requires_grad_(False)
        self.size = size
        self.mean = nn.Buffer(torch.tensor(mean).view(1, 3, 1, 1))
        self.std = nn.Buffer(torch.tensor(std).view(1, 3, 1, 1))
        self._early: dict[int, Callable[[Tensor], tuple[Tensor, ...]]] = {}

    def train(self, mode: bool = True) -> "CropTeacher":
        """Stay in eval mode, whatever ``mode`` says."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, batch: "DetectionBatch") -> CropTargets:
        """What is known of a batch's objects; images without any have no rows."""
        counts = [len(target["boxes"]) for target in batch.targets]
        rows = torch.tensor(counts, device=batch.images[0].device)
        owners = torch.arange(len(counts), device=rows.device).repeat_interleave(rows)
        shapes = [(image.shape[-1], image.shape[-2]) * 2 for image in batch.images]
        boxes = torch.cat([target["boxes"] for target in batch.targets])
        crops = self.cut(batch.images, boxes / boxes.new_tensor(shapes)[owners], owners)
        starts = rows.cumsum(0) - rows
        if self.network is None or len(crops) == 0:
            return CropTargets(self, crops, starts, None, ())
        answer = self.network(self._normalised(crops))
        return CropTargets(self, crops, starts, answer.logits, tuple(answer.stages))

    teach = forward

    def cut(self, images: Sequence[Tensor], boxes: Tensor, owners: Tensor) -> Tensor:
        """Crops (P, 3, S, S) of boxes (P, 4), fractions, out of their images; differentiable."""
        return sampled_crops(images, boxes, owners, self.size)

    def stages_of(self, crops: Tensor, count: int) -> tuple[Tensor, ...]:
        """The first ``count`` stages of crops (P, 3, S, S), with the gradient to the crops.

        A ``KdlibError`` if there is no classifier, or it has fewer stages.
        """
        if count == 0:
            return ()
        if self.network is None:
            raise KdlibError("Features are compared, but there is no teacher: name one.")
        if count not in self._early:
            self._early[count] = early_stages(self.network, count)
        stages = self._early[count](self._normalised(crops))
        if len(stages) < count:
            raise KdlibError(
                f"The teacher has {len(stages)} stages, so layers may be -1 (pixels) to "
                f"{len(stages) - 1}; one is {count - 1}."
            )
        return stages

    def _normalised(self, crops: Tensor) -> Tensor:
        return (crops - self.mean) / self.std


def early_stages(network: nn.Module, count: int) -> Callable[[Tensor], tuple[Tensor, ...]]:
    """A classifier from normalised images (B, 3, H, W) to its first ``count`` stages (B, C, h, w).

    What lies behind costs nothing in ours and torchvision's; another runs to its end.
    """
    if isinstance(network, StagedNetwork):
        return StagedBackbone(network.stem, network.stages[:count]).eval()
    if isinstance(network, TappedNetwork):
        return _stopped(network.network, count).eval()
    return lambda images: tuple(network(images).stages[:count])


def _stopped(network: fx.GraphModule, count: int) -> fx.GraphModule:
    """A traced network whose output is its first ``count`` stages; the modules are the same."""
    stopped = fx.GraphModule(network, copy.deepcopy(network.graph))
    output = stopped.graph.output_node()
    named = cast("dict[str, fx.Node]", output.args[0])
    output.args = (tuple(named.values())[:count],)
    stopped.graph.eliminate_dead_code()
    stopped.recompile()
    return stopped


def sampled_crops(images: Sequence[Tensor], boxes: Tensor, owners: Tensor, size: int) -> Tensor:
    """The inside of each box, stretched to a square: (P, 3, size, size), in the images' own range.

    Differentiable with respect to the boxes, (P, 4) x1, y1, x2, y2 as fractions of their image's
    width and height, of images (3, h, w) of any size that ``owners`` (P,) name. Bilinear, without
    antialiasing; outside the image lies 0. Boxes are clamped to their image: an edge beyond it gets
    no gradient, and what has no area there is a crop of one repeated row or column.
    """
    if len(boxes) == 0:
        return images[0].new_zeros(0, 3, size, size)
    stacked, extents = _stacked(images)
    inside = working_precision(boxes).clamp(0, 1) * extents[owners].repeat(1, 2)
    rank, most = _ranks(owners, len(images))
    maps = inside.new_zeros(len(images), most, 2, 3)
    maps = maps.index_put((owners, rank), _affine(inside))
    shape = [maps[..., 0, 0].numel(), 3, size, size]
    grid = functional.affine_grid(maps.flatten(0, 1), shape, False)
    grid, wide = grid.view(len(images), most * size, size, 2), stacked.to(grid.dtype)
    found = functional.grid_sample(wide, grid, padding_mode="zeros", align_corners=False)
    return found.unflatten(2, (most, size))[owners, :, rank]


def _stacked(images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Images on one canvas (B, 3, H, W), and the share (B, 2) of its width and height of each."""
    sides = [max(image.shape[axis] for image in images) for axis in (-2, -1)]
    edges = [(0, sides[1] - one.shape[-1], 0, sides[0] - one.shape[-2]) for one in images]
    canvas = [functional.pad(*pair) for pair in zip(images, edges, strict=True)]
    shares = [[image.shape[-1] / sides[1], image.shape[-2] / sides[0]] for image in images]
    return torch.stack(canvas), torch.tensor(shares, device=images[0].device)


def _affine(boxes: Tensor) -> Tensor:
    """Boxes (P, 4) as fractions -> the affine maps (P, 2, 3) of the square -1..1 onto them."""
    left, top, right, bottom = boxes.unbind(-1)
    none = torch.zeros_like(left)
    across = torch.stack([right - left, none, left + right - 1], dim=-1)
    down = torch.stack([none, bottom - top, top + bottom - 1], dim=-1)
    return torch.stack([across, down], dim=-2)


def _ranks(owners: Tensor, images: int) -> tuple[Tensor, int]:
    """Each crop's number (P,) among its image's, from 0, and the most that any image has."""
    counts = torch.bincount(owners, minlength=images)
    order = owners.argsort(stable=True)
    starts = counts.cumsum(0) - counts
    ranked = torch.arange(len(owners), device=owners.device) - starts[owners[order]]
    return torch.empty_like(ranked).index_put((order,), ranked), int(counts.max())
