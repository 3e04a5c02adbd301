"""How fast scenes are composed, and batches made from the cache of them."""

import torch

from benchmarks.steps import Bench
from benchmarks.timing import Clock, seconds
from kdlib.data.cache import CHUNK
from kdlib.data.scenes import scenes


def composing_speed(chunks: int, image_size: int, clock: Clock) -> float:
    """Scenes composed a second, ground truth included, in chunks as the cache makes them."""

    def compose(chunk: int) -> None:
        scenes("train", 2, 4, image_size, torch.arange(CHUNK) + chunk * CHUNK)

    compose(0)  # reads the atlas
    return chunks * CHUNK / seconds(lambda: [compose(chunk) for chunk in range(chunks)], clock)


def reading_speed(bench: Bench, images: int, clock: Clock) -> float:
    """Images a second that come out of the cache as augmented, normalised batches."""
    batches = max(1, images // len(bench.batch().labels))
    spent = seconds(lambda: [bench.batch() for _ in range(batches)], clock)
    return batches * len(bench.batch().labels) / spent
