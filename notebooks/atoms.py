"""Which objects of a scene the atoms of SRM's dictionaries fire on."""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdlib.data.image_data import ImageData
from kdlib.srm.losses import Blocks, local_labels
from kdlib.srm.probe import outputs


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
