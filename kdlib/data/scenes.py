"""The embedded data set: scenes of several objects, made to test the paper's claim."""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from kdlib.data.cache import Arrays, cached
from kdlib.data.image_data import ImageData
from kdlib.data.roots import IMAGE_SIZES, checked_root, fingerprint
from kdlib.errors import KdlibError
from kdlib.seeds import derive_seed

if TYPE_CHECKING:
    from kdlib.detection.data import Objects


# How hard scenes are: the one place where it is decided.
VERSION = 2
"""To be raised when the composer itself changes what it draws."""

SCALE = (0.26, 0.40)
"""Side of an object's picture."""
ROTATION = 12.0
"""Largest turn, degrees, either way."""
BRIGHTNESS = (0.85, 1.10)
"""Factor of an object's colours."""
DIFFICULTY_BACKGROUND = (80.0, 170.0)
"""Each colour of the background."""
TEXTURE = 25.0
"""Largest deviation of the background's soft texture."""
CELLS = 7
"""Cells of that texture a side."""
NOISE = 5.0
"""Standard deviation of the noise of a pixel."""
JITTER = 0.7
"""How far objects stray from their grid, in cells; more of it hides more of them."""


def difficulty() -> tuple[object, ...]:
    """All of the above."""
    return (
        VERSION,
        SCALE,
        ROTATION,
        BRIGHTNESS,
        DIFFICULTY_BACKGROUND,
        TEXTURE,
        CELLS,
        NOISE,
        JITTER,
    )


# The objects that scenes are composed of.
SHRINK = 0.45
"""Side of a shrunk picture as a share of the scene's; just above the largest scale."""


@dataclass(frozen=True, eq=False)
class ObjectBank:
    """Objects by kind: sprites, garments, anything with an opacity.

    Attributes:
        kinds: names of the kinds.
        pictures: (kinds, exemplars, 4, S, S) uint8: red, green, blue, opacity.
        tinted: give each object a random colour (for objects that come without one).
    """

    kinds: tuple[str, ...]
    pictures: Tensor
    tinted: bool = False

    @cache  # noqa: B019 - banks live as long as the process
    def at_size(self, size: int) -> "ObjectBank":
        """The same objects, premultiplied by their opacity and as small as scenes need them.

        Shrinking first by area leaves at most a factor of two to the bilinear sampler, which
        would otherwise alias. Bytes, not floats: 60,000 garments stay under 200 MB.
        """
        side = max(8, round(SHRINK * size))
        return replace(self, pictures=torch.stack([_shrunk(kind, side) for kind in self.pictures]))


def _shrunk(pictures: Tensor, side: int) -> Tensor:
    """(E, 4, S, S) uint8 -> the same premultiplied, at most ``side`` pixels a side."""
    pictures = pictures.float()
    pictures[:, :3] *= pictures[:, 3:] / 255
    if side < pictures.shape[-1]:
        pictures = functional.interpolate(pictures, size=side, mode="area")
    return pictures.round().byte()


# The sprites that the package ships: one picture, one square tile an object.
ATLAS = Path(__file__).parent / "atlas" / "sprites.webp"
INDEX = ATLAS.with_name("index.json")
COLUMNS = 8
TILE = 64


@cache
def sprite_bank() -> ObjectBank:
    """The sprites as objects for the composer, one exemplar of each kind."""
    picture = torch.from_numpy(np.asarray(Image.open(ATLAS).convert("RGBA")).copy())
    rows = picture.shape[0] // TILE
    tiles = picture.view(rows, TILE, COLUMNS, TILE, 4).permute(0, 2, 4, 1, 3).flatten(0, 1)
    names = tuple(json.loads(INDEX.read_text(encoding="utf-8")))
    return ObjectBank(names, tiles[: len(names)].unsqueeze(1).contiguous())


# Random numbers that are a function of an image's index: no state, no order, no batch size.
GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def uniforms(seed: int, indices: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """``count`` uniform numbers in [0, 1) for each image, (B, count).

    SplitMix64 (Steele 2014, doi 10.1145/2660193.2660195) over the triple (seed, index, draw).
    """
    with np.errstate(over="ignore"):
        streams = _mix(np.uint64(seed) + indices.astype(np.uint64) * GOLDEN)
        draws = np.arange(1, count + 1, dtype=np.uint64) * GOLDEN
        bits = _mix(streams[:, None] + draws[None, :])
    return (bits >> np.uint64(11)).astype(np.float64) / 2.0**53


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


# Which objects an image shows: its class's own, and distractors that make no other class.
ATTENTIONS = (1, 4)
DISTRACTORS = (0, 12)


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


# The composer: scenes of several objects, with the ground truth that photographs lack.
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
    from kdlib.data.render import render

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


# What the embedded scenes consist of: sprites by Unicode code point, classes by their objects.
SCENE_CLASSES: dict[str, dict[str, str]] = {
    "bathroom": {"bathtub": "1f6c1", "toilet": "1f6bd", "toothbrush": "1faa5", "soap": "1f9fc"},
    "bedroom": {"bed": "1f6cf", "teddy bear": "1f9f8", "alarm clock": "23f0", "window": "1fa9f"},
    "kitchen": {"frying pan": "1f373", "knife": "1f52a", "teapot": "1fad6", "bread": "1f35e"},
    "office": {"laptop": "1f4bb", "printer": "1f5a8", "paperclip": "1f4ce", "cabinet": "1f5c4"},
    "laboratory": {"microscope": "1f52c", "test tube": "1f9ea", "alembic": "2697",
                   "petri dish": "1f9eb"},
    "music room": {"guitar": "1f3b8", "piano": "1f3b9", "violin": "1f3bb", "drum": "1f941"},
    "street": {"car": "1f697", "traffic light": "1f6a6", "bicycle": "1f6b2", "bus": "1f68c"},
    "station": {"locomotive": "1f682", "ticket": "1f3ab", "suitcase": "1f9f3",
                "alarm clock": "23f0"},
    "harbour": {"anchor": "2693", "sailing boat": "26f5", "ship": "1f6a2", "crab": "1f980"},
    "beach": {"parasol": "26f1", "shell": "1f41a", "palm": "1f334", "crab": "1f980"},
    "farm": {"cow": "1f404", "tractor": "1f69c", "chicken": "1f413", "maize": "1f33d"},
    "campsite": {"tent": "26fa", "fire": "1f525", "axe": "1fa93", "backpack": "1f392"},
    "garden": {"sunflower": "1f33b", "butterfly": "1f98b", "tulip": "1f337", "snail": "1f40c"},
    "birthday party": {"balloon": "1f388", "cake": "1f382", "gift": "1f381",
                       "teddy bear": "1f9f8"},
    "sports ground": {"football": "26bd", "trophy": "1f3c6", "basketball": "1f3c0",
                      "tennis ball": "1f3be"},
    "hospital": {"pill": "1f48a", "stethoscope": "1fa7a", "syringe": "1f489",
                 "ambulance": "1f691"},
}  # fmt: skip
"""Scene class -> its characteristic objects -> their code points. Two classes share at most one
object, so two objects of a class never say another class."""

NEUTRAL: dict[str, str] = {
    "umbrella": "2602", "crown": "1f451", "gem": "1f48e", "key": "1f511",
    "star": "2b50", "puzzle piece": "1f9e9", "lollipop": "1f36d",
}  # fmt: skip
"""Objects that belong to no class: the only distractors where one object decides a class."""


def sprites() -> dict[str, str]:
    """Every object's name and code point, each once, in the order of the atlas."""
    found = {name: code for objects in SCENE_CLASSES.values() for name, code in objects.items()}
    return found | NEUTRAL


TRAIN_SIZE, TEST_SIZE = 24000, 10000
SAMPLE = 256
"""Training images that the statistics for normalisation are taken from."""
Colour = tuple[float, float, float]


def scene_recipe(attentions: int = 2, distractors: int = 4, size: int = 64) -> Recipe:
    """The recipe of the embedded scenes."""
    classes = {name: tuple(objects) for name, objects in SCENE_CLASSES.items()}
    return Recipe(classes, attentions, distractors, size)


def scenes(split: str, attentions: int, distractors: int, size: int, indices: Tensor) -> Scenes:
    """Embedded scenes at ``indices`` of a split, with all their ground truth."""
    recipe = scene_recipe(attentions, distractors, size)
    return compose(sprite_bank(), recipe, split_seed(split), indices.numpy())


def load_scenes(
    split: str,
    *,
    size: int | None = None,
    image_size: int = 64,
    attentions: int = 2,
    distractors: int = 4,
    data_root: Path | None = None,
) -> ImageData:
    """The embedded scenes: made on the fly, no data root needed."""
    recipe = scene_recipe(attentions, distractors, image_size)
    count = size or (TRAIN_SIZE if split == "train" else TEST_SIZE)
    source = hashlib.sha256(ATLAS.read_bytes() + INDEX.read_bytes()).hexdigest()
    return composed("scenes", sprite_bank(), recipe, split, count, source)


def composed(
    name: str, bank: ObjectBank, recipe: Recipe, split: str, count: int, source: str
) -> ImageData:
    """``count`` composed scenes of a split, through the cache.

    Args:
        name: of the data set.
        bank: the objects.
        recipe: the scenes.
        split: ``train`` or ``test``: different seeds.
        count: number of images.
        source: digest of what the bank was made from.
    """
    parts = (difficulty(), source, recipe, split)
    fingerprint = hashlib.sha256(repr(parts).encode()).hexdigest()[:16]
    arrays = cached(
        f"{name}-{fingerprint}-{count}", count, lambda rows: _rows(bank, recipe, split, rows)
    )
    mean, std = statistics(bank, recipe)
    return ImageData(
        images=torch.from_numpy(arrays["images"]),
        labels=torch.from_numpy(arrays["labels"]),
        classes=tuple(recipe.classes),
        mean=mean,
        std=std,
        fingerprint=fingerprint,
        relevance=lambda indices: _unpacked(arrays["relevance"], indices, recipe.size),
    )


def statistics(bank: ObjectBank, recipe: Recipe) -> tuple[Colour, Colour]:
    """Mean and standard deviation of each colour over the first training images, in 0..1."""
    images = compose(bank, recipe, split_seed("train"), np.arange(SAMPLE)).images.double() / 255
    mean = [round(value, 3) for value in images.mean((0, 2, 3)).tolist()]
    std = [round(value, 3) for value in images.std((0, 2, 3)).tolist()]
    return (mean[0], mean[1], mean[2]), (std[0], std[1], std[2])


def split_seed(split: str) -> int:
    """Seed of a split's images; no two splits share an image."""
    return derive_seed(0, "scenes", split)


def _rows(bank: ObjectBank, recipe: Recipe, split: str, rows: NDArray[np.int64]) -> Arrays:
    batch = compose(bank, recipe, split_seed(split), rows)
    relevance = np.packbits(batch.relevance.flatten(1).numpy(), axis=1)
    return {"images": batch.images.numpy(), "labels": batch.labels.numpy(), "relevance": relevance}


def _unpacked(packed: NDArray[np.uint8], indices: Tensor, size: int) -> Tensor:
    bits = np.unpackbits(packed[indices.cpu().numpy()], axis=1, count=size * size)
    return torch.from_numpy(bits.astype(bool)).view(-1, size, size)


# Composed scenes with more of the truth about them than a class.
Adding: TypeAlias = Callable[[str, ImageData, ObjectBank, Recipe, str], ImageData]
"""From a data set's name, its images, what they were composed of and the split to more truth."""


def scenes_with(
    adding: Adding,
    split: str,
    *,
    attentions: int = 2,
    distractors: int = 4,
    image_size: int = 64,
    size: int | None = None,
    data_root: Path | None = None,
) -> ImageData:
    """The embedded scenes and what ``adding`` adds: the other arguments as ``load_scenes``."""
    data = load_scenes(
        split, size=size, image_size=image_size, attentions=attentions, distractors=distractors
    )
    recipe = scene_recipe(attentions, distractors, image_size)
    return adding("scenes", data, sprite_bank(), recipe, split)


def fashion_scenes_with(
    adding: Adding,
    split: str,
    *,
    attentions: int = 2,
    distractors: int = 4,
    image_size: int = 64,
    size: int | None = None,
    data_root: Path | None = None,
) -> ImageData:
    """Scenes of garments and what ``adding`` adds: the others as ``load_fashion_scenes``."""
    from kdlib.data.fashion import garment_bank, load_fashion_scenes, outfit_recipe

    data = load_fashion_scenes(
        split,
        size=size,
        image_size=image_size,
        attentions=attentions,
        distractors=distractors,
        data_root=data_root,
    )
    bank, _ = garment_bank(checked_root(data_root).resolve(), split)
    recipe = outfit_recipe(attentions, distractors, image_size)
    return adding("fashion_scenes", data, bank, recipe, split)


# Composed scenes with the class of each pixel, as the composer itself knows it.
SCENE_MASKS_BACKGROUND = "background"


def kind_masks(scenes: Scenes) -> Tensor:
    """(B, H, W) uint8: 1 + the kind of the object that is seen at a pixel; 0 is background."""
    kinds = torch.cat([torch.zeros(len(scenes.objects), 1).long(), scenes.objects + 1], dim=1)
    return kinds.gather(1, scenes.owners.flatten(1).long()).view_as(scenes.owners).byte()


def _with_masks(
    name: str, data: ImageData, bank: ObjectBank, recipe: Recipe, split: str
) -> ImageData:
    """The same images with masks in the place of labels."""

    def make(rows: NDArray[np.int64]) -> Arrays:
        return {"masks": kind_masks(compose(bank, recipe, split_seed(split), rows)).numpy()}

    arrays = cached(f"{name}-masks-{data.fingerprint}-{len(data)}", len(data), make)
    return replace(
        data,
        labels=torch.zeros(len(data), dtype=torch.int64),
        classes=(SCENE_MASKS_BACKGROUND, *bank.kinds),
        fingerprint=fingerprint(("masks", data.fingerprint), ()),
        relevance=None,
        masks=torch.from_numpy(arrays["masks"]),
    )


load_scene_masks = partial(scenes_with, _with_masks)
load_fashion_scene_masks = partial(fashion_scenes_with, _with_masks)


# Composed scenes with their objects' boxes and kinds, as the composer itself knows them.
SMALLEST_SEEN = 20 / 64**2
"""Share of the image's pixels that must be seen of an object: 20 pixels of 64 x 64."""
SIDES = (17.3 / 64, 20 / 64)
"""Sides, as shares of the image's, of the squares that part the objects' areas in equal thirds."""


def seen_pixels(scenes: Scenes) -> NDArray[np.int64]:
    """(B, n): pixels at which each object is seen."""
    return scenes.masks.flatten(2).sum(2).numpy()


def _with_objects(
    name: str, data: ImageData, bank: ObjectBank, recipe: Recipe, split: str
) -> ImageData:
    """The same images with objects in the place of labels."""

    def make(rows: NDArray[np.int64]) -> Arrays:
        scenes = compose(bank, recipe, split_seed(split), rows)
        boxes, kinds = scenes.boxes.short().numpy(), scenes.objects.short().numpy()
        return {"boxes": boxes, "kinds": kinds, "seen": seen_pixels(scenes).astype(np.int32)}

    arrays = cached(f"{name}-objects-{data.fingerprint}-{len(data)}", len(data), make)
    return replace(
        data,
        labels=torch.zeros(len(data), dtype=torch.int64),
        classes=bank.kinds,
        fingerprint=fingerprint(("objects", data.fingerprint), ()),
        relevance=None,
        objects=_tabled(arrays, recipe.size),
    )


def _tabled(arrays: Arrays, side: int) -> "Objects":
    from kdlib.detection.data import Objects

    images, most = arrays["kinds"].shape
    kinds = torch.from_numpy(arrays["kinds"]).long().flatten()
    every = Objects(
        boxes=torch.from_numpy(arrays["boxes"]).float().view(-1, 4),
        kinds=kinds,
        crowd=torch.zeros_like(kinds, dtype=torch.bool),
        starts=torch.arange(images + 1) * most,
        sizes=((SIDES[0] * side) ** 2, (SIDES[1] * side) ** 2),
    )
    return every.chosen(torch.from_numpy(arrays["seen"]).flatten() >= SMALLEST_SEEN * side**2)


load_scene_objects = partial(scenes_with, _with_objects)
load_fashion_scene_objects = partial(fashion_scenes_with, _with_objects)
