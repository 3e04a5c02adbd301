"""The composer: scenes of several objects, with the ground truth that photographs lack.

    scenes = compose(bank, Recipe(classes, attentions=2, distractors=4, size=64), seed, indices)
    scenes.images, scenes.labels, scenes.objects     # what a classifier and a detector see
    scenes.boxes, scenes.masks, scenes.relevance     # the truth about it

``bank`` is any ``ObjectBank``: (kinds, exemplars, 4, S, S) pictures with opacity, one exemplar a
kind (the sprites) or thousands (garments). ``classes`` maps a scene class to the kinds that belong
to it; classes may share kinds, and kinds may belong to no class. An image of class c shows
``attentions`` objects of c and ``distractors`` others, never as many as ``attentions`` of another
class: the class is what occurs together, and no single object gives it away unless it is the only
one. Image ``i`` of a seed is a function of (seed, i) and of the recipe, of nothing else; its label
is ``i`` modulo the number of classes.

``kdlib.data.difficulty`` says how hard the images are, ``kdlib.data.scenes.composed`` makes a
data set with a cache of any bank and recipe.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdlib.data.object_bank import ObjectBank
from kdlib.data.recipe import Recipe, choose_objects, membership
from kdlib.data.render import render

__all__ = ["ObjectBank", "Recipe", "Scenes", "choose_objects", "compose", "membership"]


class Scenes(NamedTuple):
    """A batch of scenes with ground truth.

    Attributes:
        images: (B, 3, H, W) uint8.
        labels: (B,) int64.
        objects: (B, n) int64, the kind of each object, the class's own ``attentions`` first.
        owners: (B, H, W) uint8: which object is seen at a pixel, 1 + its position; 0 is background.
        attentions: how many objects of each image define its class.
    """

    images: Tensor
    labels: Tensor
    objects: Tensor
    owners: Tensor
    attentions: int

    @property
    def masks(self) -> Tensor:
        """(B, n, H, W) bool: the visible pixels of each object."""
        positions = torch.arange(1, self.objects.shape[1] + 1).view(1, -1, 1, 1)
        return self.owners.unsqueeze(1) == positions

    @property
    def relevance(self) -> Tensor:
        """(B, H, W) bool: the visible pixels of the objects that define the class."""
        return (self.owners > 0) & (self.owners <= self.attentions)

    @property
    def boxes(self) -> Tensor:
        """(B, n, 4) int64: x1, y1, x2, y2 of each object's visible pixels (x2, y2 exclusive).

        A wholly hidden object has the box 0, 0, 0, 0.
        """
        masks = self.masks
        columns, rows = masks.any(2), masks.any(3)
        return torch.stack([_first(columns), _first(rows), _last(columns), _last(rows)], dim=-1)


def compose(bank: ObjectBank, recipe: Recipe, seed: int, indices: NDArray[np.int64]) -> Scenes:
    """Compose the scenes at ``indices`` (B,) of ``seed``.

    Raises:
        KdlibError: the recipe names unknown objects, or asks for more than the bank can give.
    """
    labels = (indices % len(recipe.classes)).astype(np.int64)
    objects = choose_objects(bank, recipe, seed, indices, labels)
    images, owners = render(bank, objects, recipe.size, seed, indices)
    return Scenes(
        torch.from_numpy(images),
        torch.from_numpy(labels),
        torch.from_numpy(objects),
        torch.from_numpy(owners),
        recipe.attentions,
    )


def _first(lines: Tensor) -> Tensor:
    """Position of the first true of each line; 0 if there is none."""
    return lines.int().argmax(-1)


def _last(lines: Tensor) -> Tensor:
    """One past the position of the last true of each line; 0 if there is none."""
    return torch.where(lines.any(-1), lines.shape[-1] - lines.flip(-1).int().argmax(-1), 0)
