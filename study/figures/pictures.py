"""Pictures for the notebooks: images, attention laid over them, maps and masks side by side."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import hsv_to_rgb
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kdlib.data.image_data import IGNORED
from study.figures.style import figure_style, new_figure
from study.names import PALETTE

HEAT, SIGNED = "inferno", "RdBu_r"
HEAT_OPACITY = 0.55
LEGIBLE_TITLE = 0.95  # inches of a side above which titles have their full size
SMALLEST_RANGE = 1e-12
HUE_STEP = 0.618034  # the golden ratio: no two of the first hues are alike
BACKGROUND_GREY = 0.12


def as_picture(image: Tensor) -> NDArray[np.uint8]:
    """An image (3, H, W) as matplotlib shows it, (H, W, 3)."""
    return image.permute(1, 2, 0).numpy()


def enlarged(attention: Tensor, image: Tensor) -> NDArray[np.float32]:
    """A map (h, w) at the size of an image (3, H, W), cell by cell."""
    maps, size = attention[None, None].float(), tuple(image.shape[1:])
    return functional.interpolate(maps, size=size, mode="nearest")[0, 0].numpy()


def picture_panels(rows: int, columns: int, width: float, height: float) -> tuple[Figure, NDArray]:
    """A figure of ``width`` and ``height`` inches, and its panels (rows, columns), without axes."""
    tight = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02)
    figure, panels = new_figure(width, height, columns, rows, bare=True, layout=tight)
    return figure, np.array(panels).reshape(rows, columns)


@figure_style()
def image_grid(
    images: Tensor, titles: Sequence[str] = (), columns: int = 8, side: float = 0.95
) -> Figure:
    """Images (N, 3, H, W) uint8 in rows of ``columns``, each ``side`` inches, under its title."""
    rows = -(-len(images) // columns)
    height = side + (0.17 if titles else 0.04)
    figure, panels = picture_panels(rows, columns, (side + 0.06) * columns, height * rows)
    for axes, image in zip(panels.flat, images, strict=False):
        axes.imshow(as_picture(image))
    for axes, title in zip(panels.flat, titles, strict=False):
        axes.set_title(title, pad=2, fontsize=8 * min(1, side / LEGIBLE_TITLE))
    return figure


@figure_style()
def named_maps(
    maps: Mapping[str, Tensor],
    *,
    signed: bool = False,
    one_scale: bool = False,
    columns: int = 8,
    side: float = 1.25,
) -> Figure:
    """Maps (H, W) by name in rows of ``columns``, each ``side`` inches; NaN is left blank.

    Colours run from the least value (dark) to the largest (bright) of each map, or of all with
    ``one_scale``; ``signed``: from minus to plus the largest magnitude, white at 0.
    """
    columns = min(columns, len(maps))
    rows = -(-len(maps) // columns)
    figure, panels = picture_panels(rows, columns, (side + 0.1) * columns, (side + 0.3) * rows)
    together = torch.cat([values.flatten() for values in maps.values()])
    for axes, (name, values) in zip(panels.flat, maps.items(), strict=False):
        low, high = _limits(together if one_scale else values, signed)
        axes.imshow(values.numpy(), cmap=SIGNED if signed else HEAT, vmin=low, vmax=high)
        axes.set_title(name)
    return figure


def _limits(values: Tensor, signed: bool) -> tuple[float, float]:
    """Values at the ends of the colour scale; never equal, so that a flat map can be drawn."""
    values = values[values.isfinite()]
    if signed:
        largest = max(float(values.abs().max()), SMALLEST_RANGE)
        return -largest, largest
    low = float(values.min())
    return low, max(float(values.max()), low + SMALLEST_RANGE)


@figure_style()
def attention_overlays(image: Tensor, maps: Mapping[str, Sequence[Tensor]]) -> Figure:
    """A network a row, a stage a column: its maps (h, w) laid over the image (3, H, W) uint8."""
    columns = 1 + max(map(len, maps.values()))
    figure, panels = picture_panels(len(maps), columns, 1.4 * columns, 1.5 * len(maps))
    for (first, *others), (name, stages) in zip(panels, maps.items(), strict=True):
        first.imshow(as_picture(image))
        first.set_title(name)
        for number, (axes, values) in enumerate(zip(others, stages, strict=False), 1):
            axes.imshow(as_picture(image).mean(2), cmap="gray")
            axes.imshow(enlarged(values, image), cmap=HEAT, alpha=HEAT_OPACITY)
            axes.set_title(f"stage {number}: {values.shape[0]} px")
    return figure


def draw_boxes(axes: Axes, boxes: Tensor, names: Sequence[str], relevant: int) -> None:
    """Outline objects with boxes (n, 4) of x1, y1, x2, y2; the first ``relevant`` stand out."""
    for position, ((x1, y1, x2, y2), name) in enumerate(zip(boxes.tolist(), names, strict=True)):
        colour = PALETTE[1] if position < relevant else "white"
        corner = (x1 - 0.5, y1 - 0.5)
        axes.add_patch(Rectangle(corner, x2 - x1, y2 - y1, fill=False, color=colour))
        axes.text(x1, y1 - 1, name, color=colour, fontsize=6, va="bottom")


def mask_pictures(masks: Tensor) -> Tensor:
    """Masks (N, H, W) as images (N, 3, H, W): background dark, ``IGNORED`` white, a hue a class."""
    numbers = np.arange(IGNORED + 1)
    saturations = np.where(numbers % 2, 0.55, 0.85)
    hues = [numbers * HUE_STEP % 1, saturations, np.full(len(numbers), 0.95)]
    colours = hsv_to_rgb(np.stack(hues, axis=1))
    colours[0], colours[IGNORED] = BACKGROUND_GREY, 1.0
    table = torch.from_numpy((255 * colours).round().astype(np.uint8))
    return table[masks.long()].permute(0, 3, 1, 2)
