"""The composer: scenes of several objects, with the ground truth that photographs lack.

Image ``i`` of a seed is a function of (seed, i) alone. ``compose`` takes any ``ObjectBank``: the
sprites of the atlas, or the garments of Fashion-MNIST. A scene of class c shows ``attentions``
objects of c and ``distractors`` others, so few of any other class that they never make a quorum.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple


import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from kdlib.data.random_numbers import uniforms
from kdlib.errors import KdlibError
from kdlib.seeds import derive_seed

VERSION = 1
SCALE = (0.20, 0.40)
ROTATION = 25.0
BRIGHTNESS = (0.7, 1.15)
BACKGROUND = (40.0, 200.0)
TEXTURE = 45.0
NOISE = 8.0
JITTER = 0.7
OPAQUE = 0.5
IMAGE_SIZES = (16, 512)
NOISE_TILES = 64
SHRINK = 0.45
CELLS = 7


@dataclass(frozen=True, eq=False)
class ObjectBank:
    """Objects by kind.

    Attributes:
        kinds: names of the kinds.
        pictures: (kinds, exemplars, 4, S, S) uint8, red, green, blue and opacity.
        tinted: give each object a random colour (for objects that come without one).
    """

    kinds: tuple[str, ...]
    pictures: Tensor
    tinted: bool = False

    @cache  # noqa: B019 - banks live as long as the process
    def at_size(self, size: int) -> "ObjectBank":
        """The same objects, premultiplied by their opacity and as small as scenes need them.

        Shrinking first by area leaves at most a factor of two to the bilinear sampler, which
        would otherwise alias.
        """
        side = max(8, round(SHRINK * size))
        shape = self.pictures.shape
        pictures = self.pictures.flatten(0, 1).float()
        pictures[:, :3] *= pictures[:, 3:] / 255
        pictures[:, 3] /= 255
        if side < shape[-1]:
            pictures = functional.interpolate(pictures, size=side, mode="area")
        return replace(self, pictures=pictures.unflatten(0, shape[:2]))


@dataclass(frozen=True)
class Recipe:
    """What scenes consist of.

    Attributes:
        classes: scene class -> names of its objects.
        attentions: objects of its class that an image shows, 1 to 4.
        distractors: objects of other classes, or of none.
        size: pixels a side.
    """

    classes: Mapping[str, tuple[str, ...]]
    attentions: int = 2
    distractors: int = 4
    size: int = 64

    def __post_init__(self) -> None:
        """Check the ranges."""
        _check_range("attentions", self.attentions, 1, 4)
        _check_range("distractors", self.distractors, 0, 12)
        _check_range("image_size", self.size, *IMAGE_SIZES)


def difficulty() -> tuple[object, ...]:
    """All that decides the pixels besides the recipe; part of every cache's key.

    Without it an edited constant would go on being answered with images of the old one.
    """
    ranges = (SCALE, ROTATION, BRIGHTNESS, BACKGROUND, TEXTURE, NOISE, JITTER, OPAQUE)
    return (VERSION, *ranges, NOISE_TILES, SHRINK, CELLS)


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
        columns, rows = self.masks.any(2), self.masks.any(3)
        return torch.stack(
            [_first(columns), _first(rows), _last(columns), _last(rows)], dim=-1
        )


def compose(bank: ObjectBank, recipe: Recipe, seed: int, indices: NDArray[np.int64]) -> Scenes:
    """Compose the scenes at ``indices`` (B,) of ``seed``.

    Raises:
        KdlibError: the recipe names unknown objects, or asks for more than the bank can give.
    """
    labels = indices % len(recipe.classes)
    objects = choose_objects(bank, recipe, seed, indices, labels)
    canvas = _backgrounds(recipe.size, seed, indices)
    owners = _paste_objects(canvas, bank.at_size(recipe.size), objects, seed, indices)
    canvas += _noise(recipe.size, seed, indices)
    images = torch.from_numpy(canvas.clip(0, 255).astype(np.uint8))
    return Scenes(
        images.permute(0, 3, 1, 2).contiguous(),
        torch.from_numpy(labels.astype(np.int64)),
        torch.from_numpy(objects),
        torch.from_numpy(owners),
        recipe.attentions,
    )


def membership(bank: ObjectBank, recipe: Recipe) -> NDArray[np.bool_]:
    """(kinds, classes): which object belongs to which class."""
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
    """(B, n) kinds: the class's own first, then distractors that make no other class's quorum."""
    table = membership(bank, recipe)
    rows = np.arange(len(indices))
    own = table[:, labels].T
    present = np.zeros_like(own)
    chosen = []
    for slot in range(recipe.attentions + recipe.distractors):
        is_key = slot < recipe.attentions
        allowed = _allowed_keys(table, own, recipe) if is_key else _allowed(table, own, present, recipe)
        draws = uniforms(derive_seed(seed, "object", slot), indices, len(bank.kinds))
        draws = np.where(allowed & ~present, draws, -1.0)
        kinds = draws.argmax(1)
        if (draws[rows, kinds] < 0).any():
            raise KdlibError(
                f"There are too few objects for attentions={recipe.attentions} and "
                f"distractors={recipe.distractors}; ask for fewer."
            )
        present[rows, kinds] = True
        chosen.append(kinds)
    return np.stack(chosen, axis=1)


def _allowed_keys(
    table: NDArray[np.bool_], own: NDArray[np.bool_], recipe: Recipe
) -> NDArray[np.bool_]:
    """Objects that may stand for the class: where one decides, only those of no other class."""
    return own & (table.sum(1) == 1) if recipe.attentions == 1 else own


def _allowed(
    table: NDArray[np.bool_], own: NDArray[np.bool_], present: NDArray[np.bool_], recipe: Recipe
) -> NDArray[np.bool_]:
    """Distractors: not of the class, and none that would complete another class's quorum."""
    counts = present.astype(np.int64) @ table
    full = (counts >= recipe.attentions - 1).astype(np.int64)
    return ~own & (full @ table.T == 0)


def _backgrounds(size: int, seed: int, indices: NDArray[np.int64]) -> NDArray[np.float32]:
    """(B, H, W, 3) float32, 0 to 255: a colour with a soft texture."""
    low, high = BACKGROUND
    colour = low + (high - low) * uniforms(derive_seed(seed, "colour"), indices, 3)
    draws = uniforms(derive_seed(seed, "texture"), indices, 3 * CELLS**2)
    texture = TEXTURE * (2 * draws.reshape(-1, 3, CELLS, CELLS) - 1)
    coarse = (colour[:, :, None, None] + texture).astype("f4")
    weights = _interpolation(CELLS, size)
    return np.ascontiguousarray((weights @ coarse @ weights.T).transpose(0, 2, 3, 1))


def _interpolation(cells: int, size: int) -> NDArray[np.float32]:
    """(size, cells): the matrix of linear interpolation between the cells' values."""
    identity = torch.eye(cells).unsqueeze(0)
    weights = functional.interpolate(identity, size=size, mode="linear", align_corners=True)
    return weights[0].T.numpy()


def _noise(size: int, seed: int, indices: NDArray[np.int64]) -> NDArray[np.float32]:
    """(B, H, W, 3) pixel noise: one of a few tiles an image, for speed."""
    tiles = np.random.default_rng(0).normal(0, NOISE, (NOISE_TILES, size, size, 3)).astype("f4")
    picks = uniforms(derive_seed(seed, "noise"), indices, 1)[:, 0] * NOISE_TILES
    return tiles[picks.astype(np.int64)]


def _paste_objects(
    canvas: NDArray[np.float32],
    bank: ObjectBank,
    objects: NDArray[np.int64],
    seed: int,
    indices: NDArray[np.int64],
) -> NDArray[np.uint8]:
    """Blend each object's tile into its image, in place; returns the owner maps (B, H, W)."""
    count, size = objects.shape[1], canvas.shape[1]
    owners = np.zeros(canvas.shape[:3], dtype=np.uint8)
    poses = uniforms(derive_seed(seed, "pose"), indices, count * 12).reshape(-1, count, 12)
    centres = _centres(poses[..., :2], size, seed, indices)
    tiles = [_tiles(bank, objects[:, slot], poses[:, slot], size) for slot in range(count)]
    order = poses[..., 3].argsort(1)
    for image in range(len(canvas)):
        for slot in order[image]:
            corner = centres[image, slot]
            _blend(canvas[image], owners[image], tiles[slot][image], corner, slot + 1)
    return owners


def _centres(
    draws: NDArray[np.float64], size: int, seed: int, indices: NDArray[np.int64]
) -> NDArray[np.int64]:
    """(B, n, 2) x, y: different cells of a square grid, jittered, so that few objects hide."""
    count = draws.shape[1]
    side = int(np.ceil(np.sqrt(count)))
    cells = uniforms(derive_seed(seed, "cell"), indices, side * side).argsort(1)[:, :count]
    grid = np.stack([cells % side, cells // side], axis=-1)
    return np.round((grid + 0.5 + JITTER * (draws - 0.5)) * size / side).astype(np.int64)


def _tiles(
    bank: ObjectBank, kinds: NDArray[np.int64], poses: NDArray[np.float64], size: int
) -> NDArray[np.float32]:
    """(B, T, T, 4) float32: each object scaled, flipped, rotated and lit; opacity 0 to 1."""
    exemplars = (poses[:, 4] * bank.pictures.shape[1]).astype(np.int64)
    pictures = bank.pictures[torch.from_numpy(kinds), torch.from_numpy(exemplars)]
    side = 2 * int(np.ceil(SCALE[1] * size * 0.6))
    matrices = _pose_matrices(poses, size, side)
    grid = functional.affine_grid(matrices, [len(kinds), 4, side, side], align_corners=False)
    tiles = functional.grid_sample(pictures, grid, align_corners=False)
    tiles[:, :3] *= torch.from_numpy(_light(poses, bank.tinted)).float()[:, :, None, None]
    return tiles.permute(0, 2, 3, 1).contiguous().numpy()


def _pose_matrices(poses: NDArray[np.float64], size: int, side: int) -> Tensor:
    """(B, 2, 3): from a tile's coordinates to the picture's."""
    scale = (SCALE[0] + (SCALE[1] - SCALE[0]) * poses[:, 5]) * size / side
    angle = np.deg2rad(ROTATION) * (2 * poses[:, 6] - 1)
    flip = np.where(poses[:, 7] < 0.5, -1.0, 1.0)
    cosine, sine, zero = np.cos(angle) / scale, np.sin(angle) / scale, np.zeros_like(angle)
    rows = [[flip * cosine, flip * sine, zero], [-sine, cosine, zero]]
    return torch.from_numpy(np.array(rows).transpose(2, 0, 1)).float()


def _light(poses: NDArray[np.float64], tinted: bool) -> NDArray[np.float64]:
    """(B, 3) factor of each colour: brightness, and a tint for objects without colours."""
    brightness = BRIGHTNESS[0] + (BRIGHTNESS[1] - BRIGHTNESS[0]) * poses[:, 8:9]
    tint = 0.45 + 0.75 * poses[:, 9:12] if tinted else 1.0
    return brightness * np.broadcast_to(tint, (len(poses), 3))


def _blend(
    image: NDArray[np.float32],
    owner: NDArray[np.uint8],
    tile: NDArray[np.float32],
    centre: NDArray[np.int64],
    name: int,
) -> None:
    """Blend one tile, centred, into one image; what lies outside is cut off."""
    size, half = image.shape[0], tile.shape[0] // 2
    left, top = int(centre[0]) - half, int(centre[1]) - half
    x1, y1, x2, y2 = max(left, 0), max(top, 0), min(left + 2 * half, size), min(top + 2 * half, size)
    piece = tile[y1 - top : y2 - top, x1 - left : x2 - left]
    opacity = piece[..., 3:]
    region = image[y1:y2, x1:x2]
    region *= 1 - opacity
    region += piece[..., :3]
    owner[y1:y2, x1:x2][opacity[..., 0] > OPAQUE] = name


def _first(lines: Tensor) -> Tensor:
    """Position of the first true of each line; 0 if there is none."""
    return lines.int().argmax(-1)


def _last(lines: Tensor) -> Tensor:
    """One past the position of the last true of each line; 0 if there is none."""
    return torch.where(lines.any(-1), lines.shape[-1] - lines.flip(-1).int().argmax(-1), 0)


def _check_range(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise KdlibError(f"{name} is {value}; it must be {low} to {high}.")
