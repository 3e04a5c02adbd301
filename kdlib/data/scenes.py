"""The embedded data set: scenes of several objects, made to test the paper's claim.

A scene shows ``attentions`` objects of its class, and distractors that make no other class. Image
i of a split is always the same image, and which object is seen at each of its pixels is known.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdlib.data.cache import Arrays, cached
from kdlib.data.image_data import Colour, ImageData
from kdlib.data.render import Integers, ObjectBank, difficulty, render, uniforms
from kdlib.data.roots import IMAGE_SIZES, fingerprint
from kdlib.errors import KdlibError, check_range
from kdlib.seeds import derive_seed

ATLAS = Path(__file__).parent / "atlas" / "sprites.npz"
SIZES = {"train": 24000, "test": 10000}
SAMPLE = 256  # training images that the statistics for normalisation are taken from
ATTENTIONS, DISTRACTORS = (1, 4), (0, 12)

SCENE_CLASSES: dict[str, tuple[str, ...]] = {
    "bathroom": ("bathtub", "toilet", "toothbrush", "soap"),
    "bedroom": ("bed", "teddy bear", "alarm clock", "window"),
    "kitchen": ("frying pan", "knife", "teapot", "bread"),
    "office": ("laptop", "printer", "paperclip", "cabinet"),
    "laboratory": ("microscope", "test tube", "alembic", "petri dish"),
    "music room": ("guitar", "piano", "violin", "drum"),
    "street": ("car", "traffic light", "bicycle", "bus"),
    "station": ("locomotive", "ticket", "suitcase", "alarm clock"),
    "harbour": ("anchor", "sailing boat", "ship", "crab"),
    "beach": ("parasol", "shell", "palm", "crab"),
    "farm": ("cow", "tractor", "chicken", "maize"),
    "campsite": ("tent", "fire", "axe", "backpack"),
    "garden": ("sunflower", "butterfly", "tulip", "snail"),
    "birthday party": ("balloon", "cake", "gift", "teddy bear"),
    "sports ground": ("football", "trophy", "basketball", "tennis ball"),
    "hospital": ("pill", "stethoscope", "syringe", "ambulance"),
}
"""Scene class -> its characteristic objects. Two classes share at most one object, so two objects
of a class never say another class."""
NEUTRAL = ("umbrella", "crown", "gem", "key", "star", "puzzle piece", "lollipop")
"""Objects that belong to no class: the only distractors where one object decides a class."""


@cache
def sprite_bank() -> ObjectBank:
    """The sprites that the package ships as objects, one exemplar of each kind."""
    with np.load(ATLAS) as atlas:
        pictures, source = torch.from_numpy(atlas["pictures"]), str(atlas["source"])
    kinds = dict.fromkeys(name for own in SCENE_CLASSES.values() for name in own)
    return ObjectBank((*kinds, *NEUTRAL), pictures.unsqueeze(1), source=source)


@dataclass(frozen=True)
class Recipe:
    """What scenes consist of; a number out of its range is refused."""

    classes: Mapping[str, tuple[str, ...]]  # scene class -> names of its objects
    attentions: int = 2  # objects of its class that an image shows, 1 to 4
    distractors: int = 4  # objects of other classes, or of none; 0 to 12
    size: int = 64  # pixels a side, 16 to 512

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_range("attentions", self.attentions, *ATTENTIONS)
        check_range("distractors", self.distractors, *DISTRACTORS)
        check_range("image_size", self.size, *IMAGE_SIZES)


def scene_recipe(attentions: int = 2, distractors: int = 4, size: int = 64) -> Recipe:
    """The recipe of the embedded scenes."""
    return Recipe(SCENE_CLASSES, attentions, distractors, size)


def membership(bank: ObjectBank, recipe: Recipe) -> NDArray[np.bool_]:
    """(kinds, classes): which object belongs to which class."""
    for name in (name for objects in recipe.classes.values() for name in objects):
        if name not in bank.kinds:
            raise KdlibError(f"There is no object '{name}'. Valid: {', '.join(bank.kinds)}.")
    return np.array([[kind in own for own in recipe.classes.values()] for kind in bank.kinds])


def choose_objects(
    bank: ObjectBank, recipe: Recipe, seed: int, indices: Integers, labels: Integers
) -> Integers:
    """(B, n) kinds: ``attentions`` of the class first, then the distractors; none twice."""
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
    table: NDArray[np.bool_], present: NDArray[np.bool_], labels: Integers, attentions: int
) -> NDArray[np.bool_]:
    """(B, kinds): objects that would not complete the quorum of a class other than the label."""
    nearly = present.astype(np.int64) @ table >= attentions - 1
    nearly[np.arange(len(labels)), labels] = False
    return nearly.astype(np.int64) @ table.T == 0


def _too_few(recipe: Recipe, slot: int, label: np.int64) -> KdlibError:
    if slot < recipe.attentions:
        return KdlibError(
            f"Class '{list(recipe.classes)[label]}' cannot show attentions={recipe.attentions} of "
            f"its objects without showing another class too; valid here: at most {slot}."
        )
    return KdlibError(
        f"distractors is {recipe.distractors}, but with attentions={recipe.attentions} there are "
        f"too few objects that make no other class; valid here: 0 to {slot - recipe.attentions}."
    )


class Scenes(NamedTuple):
    """A batch of scenes with the ground truth that photographs lack."""

    images: Tensor  # (B, 3, H, W) uint8
    labels: Tensor  # (B,) int64
    objects: Tensor  # (B, n) int64: the kind of each, the class's own ``attentions`` first
    owners: Tensor  # (B, H, W) uint8: the object seen at a pixel, 1 + its position; 0: background
    attentions: int  # how many objects of each image define its class

    @property
    def masks(self) -> Tensor:
        """(B, n, H, W) bool: the visible pixels of each object."""
        positions = torch.arange(1, self.objects.shape[1] + 1).view(1, -1, 1, 1)
        return self.owners.unsqueeze(1) == positions

    @property
    def kinds(self) -> Tensor:
        """(B, H, W) uint8: 1 + the kind of the object that is seen at a pixel; 0: background."""
        found = torch.cat([torch.zeros(len(self.objects), 1).long(), self.objects + 1], dim=1)
        return found.gather(1, self.owners.flatten(1).long()).view_as(self.owners).byte()

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
        lines = (masks.any(2), masks.any(3))  # columns, rows
        first = [line.int().argmax(-1) for line in lines]
        last = [line.shape[-1] - line.flip(-1).int().argmax(-1) for line in lines]
        return torch.stack([*first, *last], dim=-1) * masks.flatten(2).any(2).unsqueeze(-1)


def compose(bank: ObjectBank, recipe: Recipe, seed: int, indices: Integers) -> Scenes:
    """Compose the scenes at ``indices`` (B,) of ``seed``; a recipe that cannot be is refused."""
    labels = (indices % len(recipe.classes)).astype(np.int64)
    objects = choose_objects(bank, recipe, seed, indices, labels)
    images, owners = render(bank, objects, recipe.size, seed, indices)
    shown, truth, kinds, seen = map(torch.from_numpy, (images, labels, objects, owners))
    return Scenes(shown, truth, kinds, seen, recipe.attentions)


def split_seed(split: str) -> int:
    """Seed of a split's images; no two splits share an image."""
    return derive_seed(0, "scenes", split)


def scenes(split: str, attentions: int, distractors: int, size: int, indices: Tensor) -> Scenes:
    """Embedded scenes at ``indices`` of a split, with all their ground truth."""
    recipe = scene_recipe(attentions, distractors, size)
    return compose(sprite_bank(), recipe, split_seed(split), indices.numpy())


class Composition(NamedTuple):
    """A split of a data set of scenes."""

    name: str  # of the data set
    recipe: Recipe
    split: str  # ``train`` or ``test``
    size: int | None  # number of images; ``None`` for the split's own number
    bank: ObjectBank
    train_bank: ObjectBank  # of training images, by whose colours all images are normalised

    @property
    def fingerprint(self) -> str:
        """Changes with whatever changes the images."""
        return fingerprint((difficulty(), self.bank.source, self.recipe, self.split))

    def cached(self, kind: str, taken: Callable[[Scenes], Arrays]) -> Arrays:
        """What is ``taken`` from each of its scenes, through the cache of that ``kind``."""
        count = self.size or SIZES[self.split]

        def make(rows: Integers) -> Arrays:
            return taken(compose(self.bank, self.recipe, split_seed(self.split), rows))

        return cached(f"{self.name}{kind}-{self.fingerprint}-{count}", count, make)

    def colours(self) -> tuple[Colour, Colour]:
        """Mean and standard deviation of each colour over the first training images, in 0..1."""
        sample = compose(self.train_bank, self.recipe, split_seed("train"), np.arange(SAMPLE))
        images = sample.images.double() / 255
        return _rounded(images.mean((0, 2, 3))), _rounded(images.std((0, 2, 3)))


def _rounded(values: Tensor) -> Colour:
    red, green, blue = (round(value, 3) for value in values.tolist())
    return red, green, blue


def embedded(
    split: str, size: int | None, image_size: int, attentions: int, distractors: int, **others: Any
) -> Composition:
    """The embedded scenes: made on the fly, no data root needed."""
    recipe = scene_recipe(attentions, distractors, image_size)
    return Composition("scenes", recipe, split, size, sprite_bank(), sprite_bank())


def load_scenes(found: Callable[..., Composition], split: str, **options: Any) -> ImageData:
    """Composed scenes, ``found`` under some options, with their labels and relevance."""
    return labelled(found(split, **options))


def labelled(composition: Composition) -> ImageData:
    """The images of a composition with their labels and relevance."""
    arrays, size = composition.cached("", _taken), composition.recipe.size

    def relevance(indices: Tensor) -> Tensor:
        bits = np.unpackbits(arrays["relevance"][indices.cpu().numpy()], axis=1, count=size * size)
        return torch.from_numpy(bits.astype(bool)).view(-1, size, size)

    images, labels = torch.from_numpy(arrays["images"]), torch.from_numpy(arrays["labels"])
    facts = (tuple(composition.recipe.classes), *composition.colours(), composition.fingerprint)
    return ImageData(images, labels, *facts, relevance)


def _taken(batch: Scenes) -> Arrays:
    relevance = np.packbits(batch.relevance.flatten(1).numpy(), axis=1)
    return {"images": batch.images.numpy(), "labels": batch.labels.numpy(), "relevance": relevance}


def load_scene_masks(found: Callable[..., Composition], split: str, **options: Any) -> ImageData:
    """As :func:`load_scenes`, but each pixel has a class: background, or the kind of its object."""
    composition = found(split, **options)
    arrays = composition.cached("-masks", lambda batch: {"masks": batch.kinds.numpy()})
    masks, classes = torch.from_numpy(arrays["masks"]), ("background", *composition.bank.kinds)
    return unlabelled(labelled(composition), "masks", classes=classes, masks=masks)


def unlabelled(data: ImageData, truth: str, **changes: Any) -> ImageData:
    """The same images with another ``truth`` in the place of their labels."""
    labels, digest = torch.zeros_like(data.labels), fingerprint((truth, data.fingerprint))
    return replace(data, labels=labels, fingerprint=digest, relevance=None, **changes)
