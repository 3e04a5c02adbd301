"""Which objects of a scene the atoms of SRM's dictionaries fire on."""

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn import functional

from kdlib.data.image_data import ImageData
from kdlib.srm.losses import Blocks, local_labels
from kdlib.srm.probe import outputs
from study.figures.pictures import as_picture
from study.figures.style import figure_style, new_figure
from study.names import PALETTE

SIDE = 1.15  # inches of a picture's side
COLOURS = ListedColormap([*PALETTE, "#e6e6e6"])  # of the most frequent atoms, and of all others


@torch.no_grad()
def label_maps(blocks: Blocks, teacher: nn.Module, data: ImageData) -> tuple[Tensor, ...]:
    """The dominating atom at each pixel of each stage: (N, h, w) each, for all images."""
    batches = [
        [local_labels(block(stage)) for block, stage in zip(blocks, found.stages, strict=True)]
        for found in outputs(teacher, data)
    ]
    return tuple(torch.cat(stage) for stage in zip(*batches, strict=True))


def atom_table(labels: Tensor, masks: Tensor, classes: Sequence[str], atoms: int) -> pd.DataFrame:
    """For each atom the object on which it fires more than chance would have it.

    A pixel of a stage counts for all pixels of the image that lie under it.

    Args:
        labels: (N, h, w), the dominating atom.
        masks: (N, H, W), the class of each pixel, as data for segmentation have them.
        classes: their names, the background among them.
        atoms: M.

    Returns:
        A row for each atom that dominates anywhere, the most frequent first: ``atom``,
        ``frequency`` (its share of all pixels), ``fires on`` (the object, or the background, whose
        share exceeds its own share of all pixels most), ``share`` (of the atom's pixels that lie
        there), ``chance`` (of all pixels), ``times chance``.
    """
    counts = _counts(labels, masks, atoms, len(classes)).double()
    chance = counts.sum(0) / counts.sum()
    shares = counts / counts.sum(1, keepdim=True).clamp_min(1)
    best = (shares - chance).argmax(1)
    table = pd.DataFrame(
        {
            "atom": range(atoms),
            "frequency": (counts.sum(1) / counts.sum()).tolist(),
            "fires on": [classes[kind] for kind in best.tolist()],
            "share": shares.gather(1, best[:, None])[:, 0].tolist(),
            "chance": chance[best].tolist(),
        }
    )
    table["times chance"] = table["share"] / table["chance"]
    alive = table[table["frequency"] > 0]
    return alive.sort_values("frequency", ascending=False, kind="stable", ignore_index=True)


def _counts(labels: Tensor, masks: Tensor, atoms: int, classes: int) -> Tensor:
    """Pixels (M, classes) at which an atom and a class meet."""
    size = (masks.shape[-2], masks.shape[-1])
    spread = functional.interpolate(labels[:, None].double(), size=size, mode="nearest")[:, 0]
    together = spread.long() * classes + masks.long()
    return torch.bincount(together.flatten(), minlength=atoms * classes).view(atoms, classes)


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
    figure, panels = new_figure(SIDE * columns, 1.08 * SIDE * rows, columns, rows)
    for axes in panels:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    for axes, image in zip(panels, images, strict=False):
        axes.imshow(as_picture(image))
    for row, (name, labels) in enumerate(maps.items(), 1):
        line = panels[row * columns : (row + 1) * columns]
        line[0].set_ylabel(name)
        for axes, ranks in zip(line, _ranked(labels), strict=True):
            scale = {"vmin": 0, "vmax": len(PALETTE), "interpolation": "nearest"}
            axes.imshow(ranks.numpy(), cmap=COLOURS, **scale)
    return figure


def _ranked(labels: Tensor) -> Tensor:
    """Labels by how frequent they are, the most frequent 0; all that have no colour share one."""
    counts = torch.bincount(labels.flatten())
    ranks = counts.argsort(descending=True, stable=True).argsort()
    return ranks[labels].clamp_max(len(PALETTE))
