"""Attention maps of a few images, chosen by a rule and not by eye, small enough to be committed.

Each map is scaled to 0..255 by itself, which is how it is drawn: maps of two networks are
compared by their shape. The images lie in the same file as JPEG, so that a figure needs no data.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kdlib.analyses.files import MAPS_FILE
from kdlib.analyses.pixels import as_jpeg, from_jpeg, pixels_of
from kdlib.checkpoints import load_tensors, save_tensors
from kdlib.data.image_data import ImageData
from kdlib.evaluate import predict
from kdlib.trained import attention_on

SHOWN = 4


@dataclass(frozen=True)
class AttentionMaps:
    """What a network attends to in some test images.

    Attributes:
        images: an (3, H, W) uint8 each.
        stages: maps (n, h, w) uint8 of each stage, fine to coarse, each scaled to 0..255.
        positions: of the images in the test set.
        labels: names of their classes.
        predicted: names of the classes that the network gives them.
    """

    images: tuple[Tensor, ...]
    stages: tuple[Tensor, ...]
    positions: tuple[int, ...]
    labels: tuple[str, ...]
    predicted: tuple[str, ...]


def shown_positions(labels: Tensor, classes: int, count: int = SHOWN) -> list[int]:
    """The first image of each of ``count`` classes that lie evenly among all; no choice by eye.

    Classes of which there is no image are passed over.
    """
    wanted = dict.fromkeys(place * classes // count for place in range(count))
    return [int((labels == one).nonzero()[0]) for one in wanted if bool((labels == one).any())]


def attention_maps_of(network: nn.Module, data: ImageData) -> AttentionMaps:
    """Maps, and answers, for the images of :func:`shown_positions`."""
    positions = shown_positions(data.labels, len(data.classes))
    pieces = [data.part(place, place + 1) for place in positions]
    maps = [attention_on(network, piece) for piece in pieces]
    answers = [int(predict(network, piece).argmax()) for piece in pieces]
    return AttentionMaps(
        images=tuple(pixels_of(piece)[0] for piece in pieces),
        stages=tuple(_as_bytes(torch.cat(stage)) for stage in zip(*maps, strict=True)),
        positions=tuple(positions),
        labels=tuple(data.classes[int(data.labels[place])] for place in positions),
        predicted=tuple(data.classes[answer] for answer in answers),
    )


def save_maps(directory: Path, maps: AttentionMaps) -> None:
    """Write the maps' file into a run's directory, whole or not at all."""
    tensors = {f"stage_{number}": stage for number, stage in enumerate(maps.stages, 1)}
    for number, image in enumerate(maps.images, 1):
        tensors[f"image_{number}"] = as_jpeg(image)
    facts = {"positions": maps.positions, "labels": maps.labels, "predicted": maps.predicted}
    save_tensors(Path(directory) / MAPS_FILE, tensors, facts)


def load_maps(directory: Path) -> AttentionMaps:
    """Read what :func:`save_maps` wrote.

    Raises:
        KdlibError: the file is missing or damaged.
    """
    tensors, facts = load_tensors(Path(directory) / MAPS_FILE)
    return AttentionMaps(
        images=tuple(from_jpeg(one) for one in _numbered(tensors, "image_")),
        stages=tuple(_numbered(tensors, "stage_")),
        **{name: tuple(facts[name]) for name in ("positions", "labels", "predicted")},
    )


def _numbered(tensors: dict[str, Tensor], prefix: str) -> Sequence[Tensor]:
    count = sum(name.startswith(prefix) for name in tensors)
    return [tensors[f"{prefix}{number}"] for number in range(1, count + 1)]


def _as_bytes(maps: Tensor) -> Tensor:
    """Each map (n, h, w) scaled to 0..255; a flat one becomes 0."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    scaled = (maps - low) / (high - low).masked_fill(high == low, 1)
    return (255 * scaled).round().to(torch.uint8)
