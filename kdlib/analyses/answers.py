"""What a network answers to each of the first test images; of a teacher also some of the images.

The images lie beside the teacher's answers as JPEG, so that a figure needs no data set.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from kdlib.analyses.pixels import as_jpeg, from_jpeg, pixels_of
from kdlib.checkpoints import load_tensors, save_tensors
from kdlib.data.image_data import ImageData
from kdlib.evaluate import predict

FILE = "answers.safetensors"
IMAGES = 2000  # whose answers are kept
KEPT = 60  # of them, from the first on, that are kept as pictures


@dataclass(frozen=True)
class Answers:
    """A network's answers to the first images of a test set.

    Attributes:
        labels: (n,) int64, the true classes.
        answers: (n,) int64, the network's.
        classes: names.
        images: the first few, (3, H, W) uint8 each; empty unless they were asked for.
    """

    labels: Tensor
    answers: Tensor
    classes: tuple[str, ...]
    images: tuple[Tensor, ...]


def answers_of(network: nn.Module, data: ImageData, precision: str, pictures: bool) -> Answers:
    """Answers to the first 2,000 images, with the first 60 as ``pictures`` if wanted."""
    part = data.first(IMAGES)
    predicted = predict(network, part, precision=precision).argmax(1)
    images = tuple(pixels_of(part.first(KEPT))) if pictures else ()
    return Answers(part.labels, predicted, data.classes, images)


def save_answers(directory: Path, found: Answers) -> None:
    """Write the answers' file into a run's directory, whole or not at all."""
    tensors = {"labels": found.labels.to(torch.int16), "answers": found.answers.to(torch.int16)}
    for number, image in enumerate(found.images, 1):
        tensors[f"image_{number}"] = as_jpeg(image)
    save_tensors(Path(directory) / FILE, tensors, {"classes": found.classes})


def load_answers(directory: Path) -> Answers:
    """Read what :func:`save_answers` wrote.

    Raises:
        KdlibError: the file is missing or damaged.
    """
    tensors, facts = load_tensors(Path(directory) / FILE)
    pictures = range(1, sum(name.startswith("image_") for name in tensors) + 1)
    return Answers(
        labels=tensors["labels"].long(),
        answers=tensors["answers"].long(),
        classes=tuple(facts["classes"]),
        images=tuple(from_jpeg(tensors[f"image_{number}"]) for number in pictures),
    )
