"""Which objects an image shows: its class's own, and distractors that make no other class."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdlib.data.object_bank import ObjectBank
from kdlib.data.random_numbers import uniforms
from kdlib.errors import KdlibError
from kdlib.seeds import derive_seed

ATTENTIONS = (1, 4)
DISTRACTORS = (0, 12)
IMAGE_SIZES = (16, 512)


@dataclass(frozen=True)
class Recipe:
    """What scenes consist of.

    Attributes:
        classes: scene class -> names of its objects.
        attentions: objects of its class that an image shows, 1 to 4.
        distractors: objects of other classes, or of none; 0 to 12.
        size: pixels a side, 16 to 512.

    Raises:
        KdlibError: a number out of its range.
    """

    classes: Mapping[str, tuple[str, ...]]
    attentions: int = 2
    distractors: int = 4
    size: int = 64

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check_range("attentions", self.attentions, *ATTENTIONS)
        _check_range("distractors", self.distractors, *DISTRACTORS)
        _check_range("image_size", self.size, *IMAGE_SIZES)


def membership(bank: ObjectBank, recipe: Recipe) -> NDArray[np.bool_]:
    """(kinds, classes): which object belongs to which class.

    Raises:
        KdlibError: an object that the bank does not have.
    """
    table = np.zeros((len(bank.kinds), len(recipe.classes)), dtype=bool)
    for column, objects in enumerate(recipe.classes.values()):
        for name in objects:
            if name not in bank.kinds:
                raise KdlibError(f"There is no object '{name}'. Valid: {', '.join(bank.kinds)}.")
            table[bank.kinds.index(name), column] = True
    return table


def choose_objects(
    bank: ObjectBank,
    recipe: Recipe,
    seed: int,
    indices: NDArray[np.int64],
    labels: NDArray[np.int64],
) -> NDArray[np.int64]:
    """(B, n) kinds: ``attentions`` of the class first, then the distractors; none twice.

    Raises:
        KdlibError: the bank runs out of objects that make no other class's quorum.
    """
    table = membership(bank, recipe)
    own, rows = table[:, labels].T, np.arange(len(indices))
    present = np.zeros_like(own)
    chosen = []
    for slot in range(recipe.attentions + recipe.distractors):
        wanted = own if slot < recipe.attentions else ~own
        allowed = wanted & ~present & _harmless(table, present, labels, recipe.attentions)
        if not allowed.any(1).all():
            raise _too_few(recipe, slot, labels[~allowed.any(1)][0])
        draws = uniforms(derive_seed(seed, "object", slot), indices, len(bank.kinds))
        kinds = np.where(allowed, draws, -1.0).argmax(1)
        present[rows, kinds] = True
        chosen.append(kinds)
    return np.stack(chosen, axis=1)


def _harmless(
    table: NDArray[np.bool_],
    present: NDArray[np.bool_],
    labels: NDArray[np.int64],
    attentions: int,
) -> NDArray[np.bool_]:
    """(B, kinds): objects that would not complete the quorum of a class other than the label."""
    counts = present.astype(np.int64) @ table
    nearly = counts >= attentions - 1
    nearly[np.arange(len(labels)), labels] = False
    return nearly.astype(np.int64) @ table.T == 0


def _too_few(recipe: Recipe, slot: int, label: np.int64) -> KdlibError:
    name = list(recipe.classes)[label]
    if slot < recipe.attentions:
        return KdlibError(
            f"Class '{name}' cannot show attentions={recipe.attentions} of its objects without "
            f"showing another class too; valid here: at most {slot}."
        )
    return KdlibError(
        f"distractors is {recipe.distractors}, but with attentions={recipe.attentions} there are "
        f"too few objects that make no other class; valid here: 0 to {slot - recipe.attentions}."
    )


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not (isinstance(value, int) and low <= value <= high):
        raise KdlibError(f"{name} is {value}; it must be a whole number, {low} to {high}.")
