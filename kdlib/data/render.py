"""Drawing: backgrounds, objects in their poses, noise; whole batches at a time."""

from collections import namedtuple
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

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
