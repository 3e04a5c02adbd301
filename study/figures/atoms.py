"""Pictures of pixel labels over the images that they belong to."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor

from study.figures.pictures import as_picture
from study.figures.style import PALETTE, figure_style

SIDE = 1.15  # inches of a picture's side
OTHERS = "#e6e6e6"


@figure_style()
def label_pictures(images: Tensor, maps: Mapping[str, Tensor]) -> Figure:
    """An image a column; below it the atoms that dominate its pixels, a stage a row.

    Within a row a colour is one atom in all images. The most frequent atoms of these images have
    a colour each; the others share a light one.

    Args:
        images: (N, 3, H, W) uint8.
        maps: name of a stage -> (N, h, w), the dominating atom.
    """
    rows, columns = 1 + len(maps), len(images)
    size = (SIDE * columns, 1.08 * SIDE * rows)
    figure, grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    for axes, image in zip(grid[0], images, strict=True):
        axes.imshow(as_picture(image))
    for line, (name, labels) in zip(grid[1:], maps.items(), strict=True):
        for axes, ranks in zip(line, _ranked(labels), strict=True):
            axes.imshow(
                ranks.numpy(), cmap=COLOURS, vmin=0, vmax=len(PALETTE), interpolation="nearest"
            )
        line[0].set_ylabel(name)
    for axes in grid.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    plt.close(figure)
    return figure


COLOURS = ListedColormap([*(c for c in PALETTE), OTHERS])


def _ranked(labels: Tensor) -> Tensor:
    """Labels by how frequent they are, the most frequent 0; all that have no colour share one."""
    counts = torch.bincount(labels.flatten())
    ranks = torch.empty_like(counts)
    ranks[counts.argsort(descending=True, stable=True)] = torch.arange(len(counts))
    return ranks[labels].clamp_max(len(PALETTE))
