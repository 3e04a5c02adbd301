"""The embedded data set: scenes of several objects, made to test the paper's claim.

A scene shows ``attentions`` objects of its class, and distractors that make no other class. Image
i of a split is always the same image, and which object is seen at each of its pixels is known.
"""

from collections import namedtuple
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kdlib.data.image_data import IMAGE_SIZES, Colour, ImageData, fingerprint
from kdlib.errors import KdlibError, check_range
from kdlib.files import Arrays, cached
from kdlib.seeds import derive_seed

# How hard scenes are: the one place where it is decided.
VERSION = 2  # to be raised when the composer itself changes what it draws
SCALE = (0.26, 0.40)  # side of an object's picture, as a share of the image's
ROTATION = 12.0  # largest turn, degrees, either way
BRIGHTNESS = (0.85, 1.10)  # factor of an object's colours
BACKGROUND = (80.0, 170.0)  # each colour of the background
TEXTURE = 25.0  # largest deviation of the background's soft texture
CELLS = 7  # cells of that texture a side
NOISE = 5.0  # standard deviation of the noise of a pixel
JITTER = 0.7  # how far objects stray from their grid, in cells; more of it hides more of them

OPAQUE = 0.5  # an object owns the pixels that it covers by more than this
SHRINK = 0.45  # side of a shrunk picture, as a share of the image's; just above the largest scale
DIAGONAL = 1.2  # side of a tile as a multiple of the largest object's, so that a turned one fits
NOISE_SHIFTS = 64  # offsets, each way, at which the field of noise is cut out
GOLDEN = np.uint64(0x9E3779B97F4A7C15)

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]
Poses = namedtuple("Poses", "x y depth exemplar scale angle flip brightness red green blue")
"""How each object stands: (B, n) uniform numbers in [0, 1) of each kind."""


def difficulty() -> tuple[object, ...]:
    """All that decides how hard scenes are; part of their fingerprint."""
    return (VERSION, SCALE, ROTATION, BRIGHTNESS, BACKGROUND, TEXTURE, CELLS, NOISE, JITTER)


def uniforms(seed: int, indices: Integers, count: int) -> Doubles:
    """``count`` uniform numbers in [0, 1) for each image, (B, count): no state, no order.

    SplitMix64 (Steele 2014, doi 10.1145/2660193.2660195) over the triple (seed, index, draw).
    """
    with np.errstate(over="ignore"):
        streams = _mixed(np.uint64(seed) + indices.astype(np.uint64) * GOLDEN)
        draws = np.arange(1, count + 1, dtype=np.uint64) * GOLDEN
        bits = _mixed(streams[:, None] + draws[None, :])
    return (bits >> np.uint64(11)).astype(np.float64) / 2.0**53


def _mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@dataclass(frozen=True, eq=False)
class ObjectBank:
    """Objects by kind: sprites, garments, anything with an opacity."""

    kinds: tuple[str, ...]
    pictures: Tensor  # (kinds, exemplars, 4, S, S) uint8: red, green, blue, opacity
    tinted: bool = False  # give each object a random colour, for objects that come without one
    source: str = ""  # digest of what they were made from

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


def render(
    bank: ObjectBank, objects: Integers, size: int, seed: int, indices: Integers
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Images (B, 3, H, W) and owners (B, H, W) of scenes that show ``objects`` (B, n).

    An owner is 1 + the position of the object that is seen at a pixel, 0 the background.
    """
    shape = (len(indices), len(Poses._fields), objects.shape[1])
    draws = uniforms(derive_seed(seed, "pose"), indices, shape[1] * shape[2])
    poses = Poses(*draws.reshape(shape).transpose(1, 0, 2))
    tiles = _tiles(bank.at_size(size), objects, poses, size)
    corners = _centres(poses, size, seed, indices)
    canvas, owners = _pasted(_backgrounds(size, seed, indices), tiles, corners, poses.depth)
    canvas += _noise(size, seed, indices)
    return canvas.clip(0, 255).astype(np.uint8), owners


def _backgrounds(size: int, seed: int, indices: Integers) -> Floats:
    """(B, 3, H, W), 0 to 255: a colour with a soft texture."""
    colour = _between(BACKGROUND, uniforms(derive_seed(seed, "colour"), indices, 3))
    draws = uniforms(derive_seed(seed, "texture"), indices, 3 * CELLS**2)
    texture = TEXTURE * (2 * draws.reshape(-1, 3, CELLS, CELLS) - 1)
    weights = _interpolation(CELLS, size)
    return weights @ (colour[:, :, None, None] + texture).astype("f4") @ weights.T


@cache
def _interpolation(cells: int, size: int) -> Floats:
    """(size, cells): the matrix of linear interpolation between the cells' values."""
    identity = torch.eye(cells).unsqueeze(0)
    weights = functional.interpolate(identity, size=size, mode="linear", align_corners=True)
    return weights[0].T.numpy()


def _noise(size: int, seed: int, indices: Integers) -> Floats:
    """(B, 3, H, W): pixel noise, cut out of one field at an offset of the image's own."""
    windows = sliding_window_view(_noise_field(size), (size, size), axis=(1, 2))
    shifts = uniforms(derive_seed(seed, "noise"), indices, 2) * NOISE_SHIFTS
    return windows[:, shifts[:, 0].astype(np.int64), shifts[:, 1].astype(np.int64)].swapaxes(0, 1)


@cache
def _noise_field(size: int) -> Floats:
    """Noise of standard deviation NOISE: the sum of three uniforms, equal on every machine."""
    side = size + NOISE_SHIFTS - 1
    draws = uniforms(derive_seed(0, "noise field"), np.arange(3 * side), 3 * side)
    bells = 2 * draws.reshape(3, side, side, 3).sum(-1) - 3
    return (NOISE * bells).astype("f4")


def _centres(poses: Poses, size: int, seed: int, indices: Integers) -> Integers:
    """(B, n, 2) x, y: different cells of a square grid, jittered, so that few objects hide."""
    count = poses.x.shape[1]
    side = int(np.ceil(np.sqrt(count)))
    cells = uniforms(derive_seed(seed, "cell"), indices, side * side).argsort(1)[:, :count]
    grid = np.stack([cells % side, cells // side], axis=-1)
    jitter = JITTER * (np.stack([poses.x, poses.y], axis=-1) - 0.5)
    return np.round((grid + 0.5 + jitter) * size / side).astype(np.int64)


def _tiles(bank: ObjectBank, objects: Integers, poses: Poses, size: int) -> Floats:
    """(B, n, 4, T, T): each object scaled, flipped, turned and lit; opacity 0 to 1."""
    exemplars = (poses.exemplar * bank.pictures.shape[1]).astype(np.int64)
    chosen = bank.pictures[torch.from_numpy(objects), torch.from_numpy(exemplars)]
    side = 2 * int(np.ceil(DIAGONAL * SCALE[1] * size / 2))
    grid = _sampling_grid(poses, size, side)
    tiles = functional.grid_sample(chosen.flatten(0, 1).float(), grid, align_corners=False)
    tiles = tiles.unflatten(0, objects.shape)
    tiles *= torch.from_numpy(_light(poses, bank.tinted)).float()[..., None, None]
    return tiles.numpy()


def _sampling_grid(poses: Poses, size: int, side: int) -> Tensor:
    """(B n, T, T, 2): where in its picture (-1 to 1) each pixel of a tile lies."""
    zoom = side / (_between(SCALE, poses.scale) * size)
    angle = np.deg2rad(ROTATION) * (2 * poses.angle - 1)
    flip = np.where(poses.flip < 0.5, -1.0, 1.0)
    cosine, sine = np.cos(angle) * zoom, np.sin(angle) * zoom
    line = torch.arange(1 - side, side, 2) / side
    across, down = _columns(flip * cosine, -sine), _columns(flip * sine, cosine)
    return across[:, None, None] * line[:, None] + down[:, None, None] * line[:, None, None]


def _columns(x: Doubles, y: Doubles) -> Tensor:
    return torch.from_numpy(np.stack([x.ravel(), y.ravel()], axis=1)).float()


def _light(poses: Poses, tinted: bool) -> Doubles:
    """(B, n, 4): factor of each colour (brightness, and a tint where asked) and of the opacity."""
    tint = np.stack([poses.red, poses.green, poses.blue, poses.red], axis=-1)
    factors = 0.45 + 0.75 * tint if tinted else np.ones_like(tint)
    factors *= _between(BRIGHTNESS, poses.brightness)[..., None]
    factors[..., 3] = 1 / 255
    return factors


def _pasted(
    canvas: Floats, tiles: Floats, centres: Integers, depth: Doubles
) -> tuple[Floats, NDArray[np.uint8]]:
    """Lay the tiles on (B, 3, H, W), the deepest first; also who owns each pixel, (B, H, W).

    The margin takes what lies outside, so that every tile is a whole window of the canvas.
    """
    size, side = canvas.shape[-1], tiles.shape[-1]
    half, rows = side // 2, np.arange(len(canvas))
    padding = ((0, 0), (half, half), (half, half))
    owners = np.pad(np.zeros_like(canvas[:, 0], dtype=np.uint8), padding)
    canvas = np.pad(canvas, ((0, 0), *padding))
    windows = sliding_window_view(canvas, (side, side), axis=(2, 3), writeable=True)
    claims = sliding_window_view(owners, (side, side), axis=(1, 2), writeable=True)
    for slots in depth.argsort(1).T:
        x, y = centres[rows, slots].T
        tile = tiles[rows, slots]
        windows[rows, :, y, x] = windows[rows, :, y, x] * (1 - tile[:, 3:]) + tile[:, :3]
        names = (slots + 1).astype(np.uint8)[:, None, None]
        claims[rows, y, x] = np.where(tile[:, 3] > OPAQUE, names, claims[rows, y, x])
    inside = slice(half, half + size)
    return canvas[..., inside, inside], np.ascontiguousarray(owners[:, inside, inside])


def _between(limits: tuple[float, float], draws: Doubles) -> Doubles:
    return limits[0] + (limits[1] - limits[0]) * draws


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
