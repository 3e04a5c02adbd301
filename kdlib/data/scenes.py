"""The embedded data set: scenes of several objects, made to test the paper's claim.

A scene shows ``attentions`` objects of its class, and distractors that make no other class. Image
i of a split is always the same image, and which object is seen at each of its pixels is known.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kdlib.data.image_data import IMAGE_SIZES, ImageData, fingerprint
from kdlib.errors import KdlibError, check_range
from kdlib.files import Arrays, cached
from kdlib.seeds import derive_seed

# How hard scenes are: the one place where it is decided; part of their fingerprint.
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
ATLAS = Path(__file__).parent / "atlas" / "sprites.npz"
SIZES = {"train": 24000, "dev": 10000, "test": 10000}
SAMPLE = 256  # training images that the statistics for normalisation are taken from
Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]

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
"""Scene class -> its objects. Two classes share at most one, so two objects never say both."""
NEUTRAL = ("umbrella", "crown", "gem", "key", "star", "puzzle piece", "lollipop")
"""Objects of no class: the only distractors where one object decides a class."""
GROUPS = {1: (16,), 2: (4, 4), 3: (4, 2, 2), 4: (2, 2, 2, 2)}  # kinds in each, by attentions


@dataclass(frozen=True)
class Recipe:
    """What scenes consist of; a number out of its range is refused."""

    classes: Mapping[str, tuple[str, ...]]  # scene class -> names of its objects
    attentions: int = 2  # objects of its class that an image shows, 1 to 4
    distractors: int = 4  # objects of other classes, or of none; 0 to 12
    size: int = 64  # pixels a side, 16 to 512

    def __post_init__(self) -> None:
        check_range("attentions", self.attentions, 1, 4)
        check_range("distractors", self.distractors, 0, 12)
        check_range("image_size", self.size, *IMAGE_SIZES)


@dataclass(frozen=True, eq=False)
class ObjectBank:
    """Objects by kind: sprites, garments, anything with an opacity."""

    kinds: tuple[str, ...]
    pictures: Tensor  # (kinds, exemplars, 4, S, S) uint8: red, green, blue, opacity
    source: str = ""  # digest of what they were made from


@cache
def sprite_bank() -> ObjectBank:
    """The sprites that the package ships as objects, one exemplar of each kind."""
    with np.load(ATLAS) as atlas:
        pictures, source = torch.from_numpy(atlas["pictures"]), str(atlas["source"])
    kinds = dict.fromkeys(name for own in SCENE_CLASSES.values() for name in own)
    return ObjectBank((*kinds, *NEUTRAL), pictures.unsqueeze(1), source)


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
    def relevance(self) -> Tensor:
        """(B, H, W) bool: the visible pixels of the objects that define the class."""
        return (self.owners > 0) & (self.owners <= self.attentions)

    @property
    def foreground(self) -> Tensor:
        """(B, H, W) bool: the visible pixels of all objects."""
        return self.owners > 0

    @property
    def boxes(self) -> Tensor:
        """(B, n, 4) int64: x1, y1, x2, y2 (exclusive) of the visible pixels; 0 if none."""
        masks = self.masks
        lines = (masks.any(2), masks.any(3))  # columns, rows
        first = [line.int().argmax(-1) for line in lines]
        last = [line.shape[-1] - line.flip(-1).int().argmax(-1) for line in lines]
        return torch.stack([*first, *last], dim=-1) * masks.flatten(2).any(2).unsqueeze(-1)


def scenes(split: str, attentions: int, distractors: int, size: int, indices: Tensor) -> Scenes:
    """Embedded scenes at ``indices`` of a split, with all their ground truth."""
    recipe = Recipe(SCENE_CLASSES, attentions, distractors, size)
    return compose(sprite_bank(), recipe, split_seed(split), indices.numpy())


def split_seed(split: str, sample: int = 0) -> int:
    """Seed of a split's images, or of another sample of them; no two share an image."""
    return derive_seed(0, "scenes", split, *[sample] * (sample > 0))


def compose(
    bank: ObjectBank, recipe: Recipe, seed: int, indices: Integers, without: int | None = None
) -> Scenes:
    """The scenes at ``indices`` (B,) of ``seed``; a recipe that cannot be is refused.

    The object at the position ``without``, relevant ones first, is left out; all else stays.
    """
    labels, size = (indices % len(recipe.classes)).astype(np.int64), recipe.size
    objects = choose_objects(bank, recipe, seed, indices, labels)
    draws = uniforms(derive_seed(seed, "pose"), indices, 8 * objects.shape[1])
    x, y, depth, exemplar, *look = draws.reshape(len(indices), 8, -1).swapaxes(0, 1)  # (B, n)
    exemplars = (exemplar * bank.pictures.shape[1]).astype(np.int64)
    pictures = _shrunk(bank, size)[torch.from_numpy(objects), torch.from_numpy(exemplars)]
    centres = _centres(np.stack([x, y], axis=-1), size, seed, indices)
    canvas = _backgrounds(size, seed, indices)
    tiles = _tiles(pictures, look, size)
    if without is not None:
        tiles[:, without] = 0  # black, and transparent
    canvas, owners = _pasted(canvas, tiles, centres, depth)
    images = (canvas + _noise(size, seed, indices)).clip(0, 255).astype(np.uint8)
    shown, truth, kinds, seen = map(torch.from_numpy, (images, labels, objects, owners))
    return Scenes(shown, truth, kinds, seen, recipe.attentions)


def uniforms(seed: int, indices: Integers, count: int) -> Doubles:
    """``count`` uniform numbers in [0, 1) for each image, (B, count): no state, no order."""

    # SplitMix64 (Steele 2014, doi 10.1145/2660193.2660195) over the triple (seed, index, draw).
    def mixed(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return state ^ (state >> np.uint64(31))

    with np.errstate(over="ignore"):
        streams = mixed(np.uint64(seed) + indices.astype(np.uint64) * GOLDEN)
        bits = mixed(streams[:, None] + np.arange(1, count + 1, dtype=np.uint64) * GOLDEN)
    return (bits >> np.uint64(11)).astype(np.float64) / 2.0**53


def membership(bank: ObjectBank, recipe: Recipe) -> NDArray[np.bool_]:
    """(kinds, classes): which object belongs to which class."""
    if lacking := {name for own in recipe.classes.values() for name in own} - {*bank.kinds}:
        raise KdlibError(f"There is no object '{min(lacking)}'. Valid: {', '.join(bank.kinds)}.")
    return np.array([[kind in own for own in recipe.classes.values()] for kind in bank.kinds])


def choose_objects(
    bank: ObjectBank, recipe: Recipe, seed: int, indices: Integers, labels: Integers
) -> Integers:
    """(B, n) kinds: ``attentions`` of the class first, then the distractors; none twice."""
    table, rows, chosen = membership(bank, recipe), np.arange(len(indices)), []
    own = table[:, labels].T
    present = np.zeros_like(own)
    for slot in range(recipe.attentions + recipe.distractors):
        # No object may complete the quorum of a class other than the label.
        nearly = present.astype(np.int64) @ table >= recipe.attentions - 1
        nearly[rows, labels] = False
        harmless = nearly.astype(np.int64) @ table.T == 0
        allowed = (own if slot < recipe.attentions else ~own) & ~present & harmless
        if not allowed.any(1).all():
            label, asked = list(recipe.classes)[labels[~allowed.any(1)][0]], recipe.attentions
            raise KdlibError(
                f"Class '{label}' cannot show attentions={asked} of its objects without showing "
                f"another class too; valid here: at most {slot}."
                if slot < asked
                else f"distractors is {recipe.distractors}, but with attentions={asked} there are "
                f"too few objects that make no other class; valid here: 0 to {slot - asked}."
            )
        draws = uniforms(derive_seed(seed, "object", slot), indices, len(bank.kinds))
        kinds = np.where(allowed, draws, -1.0).argmax(1)
        present[rows, kinds] = True
        chosen.append(kinds)
    return np.stack(chosen, axis=1)


@cache
def _shrunk(bank: ObjectBank, size: int) -> Tensor:
    """A bank's pictures, premultiplied by their opacity and as small as scenes need them."""
    side, kinds = max(8, round(SHRINK * size)), []
    for pictures in bank.pictures:  # as bytes, and by kind: 60,000 garments stay under 200 MB
        pictures = pictures.float()
        pictures[:, :3] *= pictures[:, 3:] / 255
        if side < pictures.shape[-1]:  # the sampler would alias: it gets a factor of 2 at most
            pictures = functional.interpolate(pictures, size=side, mode="area")
        kinds.append(pictures.round().byte())
    return torch.stack(kinds)


def _tiles(pictures: Tensor, look: list[Doubles], size: int) -> Floats:
    """(B, n, 4, T, T): each picture scaled, turned, flipped and lit; opacity 0 to 1."""
    scale, angle, flip, light = look
    side = 2 * int(np.ceil(DIAGONAL * SCALE[1] * size / 2))
    zoom = side / (_between(SCALE, scale) * size)
    turn = np.deg2rad(ROTATION) * (2 * angle - 1)
    mirror = np.where(flip < 0.5, -1.0, 1.0)
    cosine, sine = np.cos(turn) * zoom, np.sin(turn) * zoom
    # Where in its picture (-1 to 1) a step to the right or down leads, and each pixel lies.
    steps = np.array([[mirror * cosine, -sine], [mirror * sine, cosine]])
    across, down = torch.from_numpy(steps).float().flatten(2).mT[:, :, None, None]
    line = torch.arange(1 - side, side, 2) / side
    grid = across * line[:, None] + down * line[:, None, None]
    tiles = functional.grid_sample(pictures.flatten(0, 1).float(), grid, align_corners=False)
    factors = np.repeat(_between(BRIGHTNESS, light)[..., None], 4, axis=-1)
    factors[..., 3] = 1 / 255
    tiles = tiles.unflatten(0, scale.shape)
    tiles *= torch.from_numpy(factors).float()[..., None, None]
    return tiles.numpy()


def _centres(stray: Doubles, size: int, seed: int, indices: Integers) -> Integers:
    """(B, n, 2) x, y: different cells of a square grid, jittered, so that few objects hide."""
    count = stray.shape[1]
    side = int(np.ceil(np.sqrt(count)))
    cells = uniforms(derive_seed(seed, "cell"), indices, side * side).argsort(1)[:, :count]
    grid = np.stack([cells % side, cells // side], axis=-1)
    return np.round((grid + 0.5 + JITTER * (stray - 0.5)) * size / side).astype(np.int64)


def _backgrounds(size: int, seed: int, indices: Integers) -> Floats:
    """(B, 3, H, W), 0 to 255: a colour with a soft texture."""
    colour = _between(BACKGROUND, uniforms(derive_seed(seed, "colour"), indices, 3))
    draws = uniforms(derive_seed(seed, "texture"), indices, 3 * CELLS**2)
    texture = TEXTURE * (2 * draws.reshape(-1, 3, CELLS, CELLS) - 1)
    identity = torch.eye(CELLS).unsqueeze(0)
    shares = functional.interpolate(identity, size=size, mode="linear", align_corners=True)
    weights = shares[0].T.numpy()  # (H, CELLS): of the cells' values at each row or column
    return weights @ (colour[:, :, None, None] + texture).astype("f4") @ weights.T


def _pasted(
    canvas: Floats, tiles: Floats, centres: Integers, depth: Doubles
) -> tuple[Floats, NDArray[np.uint8]]:
    """Lay the tiles on (B, 3, H, W), the deepest first; also who owns each pixel, (B, H, W)."""
    size, side, rows = canvas.shape[-1], tiles.shape[-1], np.arange(len(canvas))
    half = side // 2  # a margin takes what lies outside, so that every tile is a whole window
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


def _noise(size: int, seed: int, indices: Integers) -> Floats:
    """(B, 3, H, W): pixel noise, cut out of one field at an offset of the image's own."""
    windows = sliding_window_view(_noise_field(size), (size, size), axis=(1, 2))
    shifts = (uniforms(derive_seed(seed, "noise"), indices, 2) * NOISE_SHIFTS).astype(np.int64)
    return windows[:, shifts[:, 0], shifts[:, 1]].swapaxes(0, 1)


@cache
def _noise_field(size: int) -> Floats:
    """Noise of standard deviation NOISE: the sum of three uniforms, equal on every machine."""
    side = size + NOISE_SHIFTS - 1
    draws = uniforms(derive_seed(0, "noise field"), np.arange(3 * side), 3 * side)
    bells = 2 * draws.reshape(3, side, side, 3).sum(-1) - 3
    return (NOISE * bells).astype("f4")


def _between(limits: tuple[float, float], draws: Doubles) -> Doubles:
    return limits[0] + (limits[1] - limits[0]) * draws


class Composition(NamedTuple):
    """A split of a data set of scenes."""

    name: str  # of the data set
    recipe: Recipe
    split: str  # ``train``, ``dev`` or ``test``
    size: int | None  # number of images; ``None`` for the split's own number
    bank: ObjectBank
    train_bank: ObjectBank  # of training images, by whose colours all images are normalised
    sample: int = 0  # which of all sets of that many images

    @property
    def fingerprint(self) -> str:
        """Changes with whatever changes the images."""
        hard = (VERSION, SCALE, ROTATION, BRIGHTNESS, BACKGROUND, TEXTURE, CELLS, NOISE, JITTER)
        drawn = (self.split, *[self.sample] * (self.sample > 0))
        return fingerprint((hard, self.bank.source, self.recipe, *drawn))

    def cached(self, kind: str, taken: Callable[[Scenes], Arrays]) -> Arrays:
        """What is ``taken`` from each of its scenes, through the cache of that ``kind``."""
        count, seed = self.size or SIZES[self.split], split_seed(self.split, self.sample)
        name = f"{self.name}{kind}-{self.fingerprint}-{count}"
        return cached(name, count, lambda rows: taken(compose(self.bank, self.recipe, seed, rows)))


def embedded(split: str, size: int | None, image_size: int, **options: Any) -> Composition:
    """The embedded scenes: made on the fly, no data root needed."""
    recipe = Recipe(SCENE_CLASSES, options["attentions"], options["distractors"], image_size)
    banks = (sprite_bank(), sprite_bank())
    return Composition("scenes", recipe, split, size, *banks, options["sample"])


def combinations(split: str, size: int | None, image_size: int, **options: Any) -> Composition:
    """Scenes of 16 classes, each one object out of each of ``attentions`` groups; all matter."""
    found, kinds = embedded(split, size, image_size, **options), iter(SCENE_CLASSES.values())
    groups = [[next(kinds)[0] for _ in range(count)] for count in GROUPS[options["attentions"]]]
    classes = {" + ".join(one): one for one in product(*groups)}
    return found._replace(name="joint_scenes", recipe=replace(found.recipe, classes=classes))


def load_scenes(found: Callable[..., Composition], split: str, **options: Any) -> ImageData:
    """Composed scenes, ``found`` under some options, with their labels and relevance."""

    def taken(batch: Scenes) -> Arrays:
        bits = {name: np.packbits(getattr(batch, name).flatten(1), axis=1) for name in truths}
        pixels = batch.images.numpy().transpose(0, 2, 3, 1)  # in the order of a batch's memory
        return {"images": pixels, "labels": batch.labels.numpy(), **bits}

    def masks(name: str, indices: Tensor) -> Tensor:
        bits = np.unpackbits(arrays[name][indices.cpu().numpy()], axis=1, count=size * size)
        return torch.from_numpy(bits.astype(bool)).view(-1, size, size)

    truths, composition = ("relevance", "foreground"), found(split, **options)
    arrays, recipe = composition.cached("-pixels", taken), composition.recipe
    images, labels, size = *map(torch.from_numpy, (arrays["images"], arrays["labels"])), recipe.size
    images = images.permute(0, 3, 1, 2)
    sample = compose(composition.train_bank, recipe, split_seed("train"), np.arange(SAMPLE))
    shades = sample.images.double() / 255
    moments = (shades.mean((0, 2, 3)).tolist(), shades.std((0, 2, 3)).tolist())
    mean, std = (tuple(round(value, 3) for value in values) for values in moments)
    facts = (tuple(recipe.classes), mean, std, composition.fingerprint)
    shown, objects = (partial(masks, name) for name in truths)
    return ImageData(images, labels, *facts, shown, foreground=objects)
