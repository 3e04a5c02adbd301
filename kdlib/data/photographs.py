"""Photographs of any size, resized and kept whole; windows are cut when a batch asks for them.

They are decoded on the fly by a pool of threads, ahead of the training loop, or read from the
file of :mod:`kdlib.data.resized`: the pixels are the same. Pillow decodes and resizes without
Python's global lock, so threads use all cores, and none is left behind when a run is killed.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdlib.data.decode import Pixels
from kdlib.errors import KdlibError

VARIABLE = "KDLIB_WORKERS"
MOST_WORKERS = 16
AHEAD = 2
"""Batches that are made before they are asked for."""
PLACE_BITS = 31
"""A place is a whole number below 2**31: the share of a side's room before the window."""

Waiting = tuple[Pixels, list["Future[None]"]]


@dataclass(frozen=True)
class Photographs:
    """Photographs in the order in which a data set hands them out.

    Attributes:
        read: from a position in the listing to the photograph (H, W, 3), neither side shorter
            than ``image_size``.
        positions: in the listing, of each photograph here.
        image_size: pixels a side of the windows.
    """

    read: Callable[[int], Pixels]
    positions: NDArray[np.int64]
    image_size: int
    annotated: ClassVar[bool] = False
    """Whether a fourth channel holds the class of each pixel."""
    drawn: ClassVar[int] = 2
    """Random numbers that place a window."""

    def __len__(self) -> int:
        """Number of photographs."""
        return len(self.positions)

    def __getitem__(self, part: slice) -> "Photographs":
        """A part of them, nothing read yet."""
        return replace(self, positions=self.positions[part])

    def centres(self) -> Tensor:
        """The middle of each: (N, 3, S, S) uint8, all in memory."""
        return next(self.batches([torch.arange(len(self))], None))

    def batches(self, parts: Iterable[Tensor], places: Tensor | None) -> Iterator[Tensor]:
        """A window of each photograph, part after part: (B, 3, S, S) uint8 (4 if annotated).

        The pixels lie as (B, S, S, 3) in memory, torch's ``channels_last``.

        Args:
            parts: positions (B,) among these photographs.
            places: (N, drawn) of each photograph's window, down and across first, as drawn by
                ``random_places``; ``None`` for the middle.

        Raises:
            KdlibError: a photograph cannot be read; names it.
        """
        pool = ThreadPoolExecutor(worker_count(), thread_name_prefix="photographs")
        waiting: deque[Waiting] = deque()
        try:
            for part in parts:
                waiting.append(self._submit(pool, part, places))
                if len(waiting) > AHEAD:
                    yield _collected(*waiting.popleft())
            while waiting:
                yield _collected(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _submit(self, pool: ThreadPoolExecutor, part: Tensor, places: Tensor | None) -> Waiting:
        shape = (self.image_size, self.image_size, 4 if self.annotated else 3)
        windows = np.empty((len(part), *shape), np.uint8)
        positions = part.tolist()
        chosen = [None] * len(part) if places is None else places[part].tolist()
        jobs = zip(windows, positions, chosen, strict=True)
        return windows, [pool.submit(self._cut, *job) for job in jobs]

    def _cut(self, window: Pixels, position: int, place: list[int] | None) -> None:
        picture = self.read(int(self.positions[position]))
        room = [side - self.image_size for side in picture.shape[:2]]
        top, left = middle(room) if place is None else placed(room, place)
        window[:] = picture[top : top + self.image_size, left : left + self.image_size]


def random_places(count: int, stream: torch.Generator, drawn: int = 2) -> Tensor:
    """Places (N, drawn) of random windows, such that each that fits is equally likely."""
    return torch.randint(0, 1 << PLACE_BITS, (count, drawn), generator=stream)


def placed(room: list[int], place: list[int]) -> list[int]:
    """Top and left of the window at a random place, where there is ``room`` (down, across)."""
    return [share * (free + 1) >> PLACE_BITS for free, share in zip(room, place, strict=True)]


def middle(room: list[int]) -> list[int]:
    """Top and left of the window in the middle, rounded as torchvision's CenterCrop does."""
    return [round(free / 2) for free in room]


def _collected(windows: Pixels, jobs: list["Future[None]"]) -> Tensor:
    for job in jobs:
        job.result()
    return torch.from_numpy(windows).permute(0, 3, 1, 2)


def worker_count() -> int:
    """Threads that read photographs: the variable ``KDLIB_WORKERS``, or one a core up to 16.

    Processes that a launcher started on this machine share its cores.

    Raises:
        KdlibError: the variable is not a whole number from 1.
    """
    given = os.environ.get(VARIABLE, "")
    if not given:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return max(1, min((cores or 1) // processes, MOST_WORKERS))
    if not (given.isascii() and given.isdigit() and int(given) > 0):
        raise KdlibError(f"{VARIABLE} is '{given}'; valid: a whole number from 1, or nothing.")
    return int(given)
