"""Photographs of any size, resized and kept whole; windows are cut when a batch asks for them.

They are decoded on the fly by a pool of threads, ahead of the training loop, or read from the
cache of ``photograph_cache``: the pixels are the same. Pillow decodes and resizes without
Python's global lock, so threads use all cores, and none is left behind when a run is killed.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from kdlib.data.image_data import IMAGE_SIZES, ImageData, checked_root, fingerprint, shown_lines
from kdlib.data.photograph_cache import Resized
from kdlib.errors import KdlibError, check_range
from kdlib.seeds import generator

Pixels = NDArray[np.uint8]
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Those of ImageNet, as the networks of torchvision expect. The paper's release gives those of
the video data set Kinetics under ImageNet's name; they differ by up to 0.05."""
PUBLISHED_SIDES = (256, 224)  # the published protocol resizes to the first, cuts the second
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
"""All that Pillow raises for damaged files."""
VARIABLE, MOST_WORKERS = "KDLIB_WORKERS", 16
AHEAD = 2  # batches that are made before they are asked for
PLACE_BITS = 31  # a place is a share of a side's room before the window, times 2**31


def decoded(path: str, side: int | None = None) -> Pixels:
    """The photograph, (H, W, 3), as it is stored or, as torchvision does it, resized.

    Grey, CMYK, palette and transparent pictures become RGB by Pillow's rules, those of 16 bits by
    their upper 8. What EXIF says of the orientation is not followed, as in torchvision.
    """
    with _opened(path) as picture:
        if picture.mode.startswith("I"):  # Pillow would clip 16 bits, and leave nearly all white
            picture = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
        pixels = picture.convert("RGB")
        if side is not None:
            height, width = _resized(picture.size, side)
            pixels = pixels.resize((width, height), Image.Resampling.BILINEAR)
        return np.asarray(pixels)


@contextmanager
def _opened(path: str) -> Iterator[Any]:
    try:
        with Image.open(path) as picture:
            yield picture
    except UNREADABLE as error:
        raise KdlibError(
            f"{path} cannot be read as an image ({error}). Get the file again; out of a folder of "
            "your own you may as well remove it."
        ) from error


def _resized(size: tuple[int, int], side: int) -> tuple[int, int]:
    width, height = size
    longer = int(side * max(size) / min(size))
    return (longer, side) if height > width else (side, longer)


@dataclass(frozen=True)
class Listing:
    """One split of a data set, in the order of its list."""

    dataset: str
    folder: Path  # what ``names`` are relative to
    names: tuple[str, ...]  # of the files, with slashes
    labels: tuple[int, ...]  # of each file, positions in ``classes``
    classes: tuple[str, ...]
    remedy: str  # how to get the data set

    def path(self, position: int) -> str:
        """Where a photograph lies."""
        return f"{self.folder}/{self.names[position]}"

    def facts(self) -> NDArray[np.int64]:
        """Size in bytes and time of change in nanoseconds of each file, (N, 2); none may lack."""
        facts = [_facts(self.path(position)) for position in range(len(self.names))]
        lacking = [name for name, fact in zip(self.names, facts, strict=True) if fact is None]
        if lacking:
            raise KdlibError(
                f"{self.dataset}: {len(lacking):,} of {len(self.names):,} photographs are missing "
                f"in {self.folder}:\n{shown_lines(lacking)}\nTo get them:\n  {self.remedy}"
            )
        return np.array(facts, np.int64).reshape(-1, 2)


def _facts(path: str) -> tuple[int, int] | None:
    try:
        found = Path(path).stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


@dataclass(frozen=True)
class Source:
    """A split's files as they are now."""

    listing: Listing
    split: str  # ``train`` or ``test``
    side: int  # pixels of the resized photographs' shorter side
    facts: NDArray[np.int64]  # (N, 2) size and time of change of each file

    @property
    def key(self) -> str:
        """Changes when a file is added, removed, renamed or changed, or the size is another."""
        return fingerprint((self.side, self.listing.names), [torch.from_numpy(self.facts)])

    def read(self, position: int) -> Pixels:
        """Decode one photograph."""
        return decoded(self.listing.path(position), self.side)


Lister = Callable[[str, Path], Listing]


def open_source(lister: Lister, split: str, image_size: int, data_root: Path | None) -> Source:
    """Find a split's files; data sets, files or lists that are missing or damaged are refused."""
    check_range("image_size", image_size, *IMAGE_SIZES)
    listing = lister(split, checked_root(data_root))
    return Source(listing, split, resized_side(image_size), listing.facts())


def resized_side(image_size: int) -> int:
    """Pixels of a photograph's shorter side from which windows of ``image_size`` are cut."""
    return round(image_size * PUBLISHED_SIDES[0] / PUBLISHED_SIDES[1])


def load_photographs(
    lister: Lister,
    split: str,
    size: int | None,
    image_size: int,
    data_root: Path | None,
    **others: int,
) -> ImageData:
    """Photographs in a random order that is always the same; none is read yet.

    The order is random so that the first of them are of all classes alike, and so is the fifth
    that is held out for choices.
    """
    source = open_source(lister, split, image_size, data_root)
    listing = source.listing
    order = torch.randperm(len(listing.names), generator=generator(0, listing.dataset, "order"))
    order = order[:size]
    labels = torch.tensor(listing.labels)[order]
    # Names and sizes of the files stand for their content, which would take minutes to read.
    names = hashlib.sha256(repr(listing.names).encode()).hexdigest()
    content = (labels, torch.from_numpy(source.facts[:, 0])[order])
    digest = fingerprint((listing.classes, source.side, names), content)
    images = Photographs(Resized(source).read, order.numpy(), image_size)
    return ImageData(images, labels, listing.classes, MEAN, STD, digest)


@dataclass(frozen=True)
class Photographs:
    """Photographs in the order in which a data set hands them out."""

    read: Callable[[int], Pixels]  # from a position in the listing to (H, W, 3)
    positions: NDArray[np.int64]  # in the listing, of each photograph here
    image_size: int  # pixels a side of the windows; no photograph's side is shorter
    annotated: ClassVar[bool] = False  # whether a fourth channel holds the class of each pixel
    drawn: ClassVar[int] = 2  # random numbers that place a window

    def __len__(self) -> int:
        """Number of photographs."""
        return len(self.positions)

    def __getitem__(self, part: slice) -> "Photographs":
        """A part of them, nothing read yet."""
        return replace(self, positions=self.positions[part])

    def centres(self) -> Tensor:
        """The middle of each: (N, 3, S, S) uint8, all in memory."""
        return next(self.batches([torch.arange(len(self))], None))

    def random_places(self, stream: torch.Generator) -> Tensor:
        """(N, drawn) of random windows, down and across first, such that each is equally likely."""
        return torch.randint(0, 1 << PLACE_BITS, (len(self), self.drawn), generator=stream)

    def batches(self, parts: Iterable[Tensor], places: Tensor | None) -> Iterator[Tensor]:
        """A window of each photograph, part after part: (B, 3, S, S) uint8 (4 if annotated).

        The pixels lie as (B, S, S, 3) in memory, torch's ``channels_last``.

        Args:
            parts: positions (B,) among these photographs.
            places: of each photograph's window, from :meth:`random_places`; ``None``: the middle.
        """
        pool = ThreadPoolExecutor(worker_count(), thread_name_prefix="photographs")
        waiting: deque[tuple[Pixels, list[Future[None]]]] = deque()
        try:
            for part in parts:
                waiting.append(self._submit(pool, part, places))
                if len(waiting) > AHEAD:
                    yield _collected(*waiting.popleft())
            while waiting:
                yield _collected(*waiting.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def _submit(
        self, pool: ThreadPoolExecutor, part: Tensor, places: Tensor | None
    ) -> tuple[Pixels, list["Future[None]"]]:
        channels = 4 if self.annotated else 3
        windows = np.empty((len(part), self.image_size, self.image_size, channels), np.uint8)
        chosen = [None] * len(part) if places is None else places[part].tolist()
        jobs = zip(windows, part.tolist(), chosen, strict=True)
        return windows, [pool.submit(self._cut, *job) for job in jobs]

    def _cut(self, window: Pixels, position: int, place: list[int] | None) -> None:
        picture = self.read(int(self.positions[position]))
        room = [side - self.image_size for side in picture.shape[:2]]
        top, left = middle(room) if place is None else placed(room, place)
        window[:] = picture[top : top + self.image_size, left : left + self.image_size]


def _collected(windows: Pixels, jobs: list["Future[None]"]) -> Tensor:
    for job in jobs:
        job.result()
    return torch.from_numpy(windows).permute(0, 3, 1, 2)


def placed(room: list[int], place: list[int]) -> list[int]:
    """Top and left of the window at a random place, where there is ``room`` (down, across)."""
    return [share * (free + 1) >> PLACE_BITS for free, share in zip(room, place, strict=True)]


def middle(room: list[int]) -> list[int]:
    """Top and left of the window in the middle, rounded as torchvision's CenterCrop does."""
    return [round(free / 2) for free in room]


def worker_count() -> int:
    """Threads that read photographs: the variable ``KDLIB_WORKERS``, or one a core up to 16.

    Processes that a launcher started on this machine share its cores.
    """
    given = os.environ.get(VARIABLE, "")
    if not given:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return max(1, min((cores or 1) // processes, MOST_WORKERS))
    if not (given.isascii() and given.isdigit() and int(given) > 0):
        raise KdlibError(f"{VARIABLE} is '{given}'; valid: a whole number from 1, or nothing.")
    return int(given)
