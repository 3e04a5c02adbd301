"""Photographs of any size, resized and kept whole; windows are cut when a batch asks for them.

They are decoded by threads, ahead of the training loop, or read from a cache: the pixels are the
same. Pillow holds no global lock, so threads use all cores, and a run that is killed leaves none.
"""

import errno
import hashlib
import os
import shutil
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import starmap
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torchvision.transforms.v2 import functional
from tqdm import tqdm

from kdlib import files
from kdlib.data import DATASETS
from kdlib.data.image_data import IMAGE_SIZES, ImageData, checked_root, few_lines, fingerprint
from kdlib.errors import KdlibError, check_range
from kdlib.seeds import generator

Pixels = NDArray[np.uint8]
Lister = Callable[[str, Path], "Listing"]  # of a split, in the data root
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""ImageNet's. The paper's release gives Kinetics' under that name; they differ by up to 0.05."""
PUBLISHED_SIDES = (256, 224)  # the published protocol resizes to the first, cuts the second
FLIP = Image.Transpose
TURNS = {
    2: FLIP.FLIP_LEFT_RIGHT, 3: FLIP.ROTATE_180, 4: FLIP.FLIP_TOP_BOTTOM, 5: FLIP.TRANSPOSE,
    6: FLIP.ROTATE_270, 7: FLIP.TRANSVERSE, 8: FLIP.ROTATE_90,
}  # fmt: skip
"""What makes stored pixels upright, by EXIF's orientation; torchvision leaves them as stored."""
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # Pillow's errors
VARIABLE, MOST_WORKERS = "KDLIB_WORKERS", 16
AHEAD = 2  # batches that are made before they are asked for
PLACE_BITS = 31  # a place is a share of a side's room before the window, times 2**31
GROUP = 256  # photographs that are handed to the cache's threads at a time
QUICKLY_READ = 1 << 26  # bytes of photographs whose checksums are not worth a file in the cache
OWNER = "folder.txt"  # tells where the photographs of a cache lie


def orientation(picture: Image.Image) -> int:
    """EXIF's, 2 to 8, where the stored pixels are not as they are to be seen; else 1."""
    with suppress(Exception):  # of an image that can be read EXIF may be damaged
        told = picture.getexif().get(ExifTags.Base.Orientation)
        return told if told in TURNS else 1
    return 1


def upright(path: str, mode: str | None = "RGB") -> tuple[Image.Image, int]:
    """The image as it is to be seen, in a ``mode`` or its own, and the orientation in its file."""
    try:
        with Image.open(path) as picture:
            told, pixels = orientation(picture), picture.copy()
            if mode and picture.mode.startswith("I"):  # 16 bits: Pillow would clip to 8
                pixels = Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
            pixels = pixels.convert(mode) if mode else pixels
            turn = orientation(picture)  # of a TIFF Pillow has turned the pixels by now
            return (pixels.transpose(TURNS[turn]) if turn > 1 else pixels), told
    except UNREADABLE as error:
        says = f"{path} cannot be read as an image ({error}). Get the file again; out of a folder"
        raise KdlibError(f"{says} of your own you may as well move it away.") from error


def decoded(path: str, side: int | None = None) -> Pixels:
    """The photograph upright, (H, W, 3); resized if its shorter ``side`` is given."""
    pixels, _ = upright(path)
    return np.asarray(pixels if side is None else functional.resize(pixels, [side]))


@dataclass(frozen=True)
class Listing:
    """One split of a data set, in the order of its list."""

    dataset: str  # its name in ``DATASETS``
    folder: Path  # what ``names`` are relative to
    names: tuple[str, ...]  # of the files, with slashes
    labels: tuple[int, ...]  # of each file, positions in ``classes``
    classes: tuple[str, ...]

    def path(self, position: int) -> str:
        """Where a photograph lies."""
        return f"{self.folder}/{self.names[position]}"

    def facts(self) -> NDArray[np.int64]:
        """CRC-32 of each file's content, (N,); none may lack.

        Of large data sets they are noted in the cache, if it can be written to, for as long as no
        file's size or times change: the first time all are read, at the speed of the disk.
        """
        states, lacking = list[tuple[int, ...]](), list[str]()
        for name in self.names:
            try:
                found = (self.folder / name).stat()
                states.append((found.st_size, found.st_mtime_ns, found.st_ctime_ns))
            except OSError:
                lacking.append(name)
        if lacking:
            count = f"{len(lacking):,} of {len(self.names):,}"
            told = f"{count} photographs are missing in {self.folder}"
            remedy = f"To get them:\n  {DATASETS[self.dataset].remedy}"
            raise KdlibError(f"{self.dataset}: {told}:\n{few_lines(lacking)}\n{remedy}")
        if sum(size for size, *_ in states) <= QUICKLY_READ:
            return self._contents()["contents"]
        key = fingerprint((str(self.folder.resolve()), self.names), [torch.tensor(states)])
        noted = files.cache_root() / "contents" / f"{self.dataset}-{key}.safetensors"
        with suppress(KdlibError):
            return files.load_kept(noted)["contents"].numpy()
        made = self._contents()
        with suppress(files.UnwritableError):  # then they are read again
            files.keep(noted, made)
        return made["contents"]

    def _contents(self) -> files.Arrays:
        with ThreadPoolExecutor(worker_count()) as pool:
            sums = pool.map(_content_sum, map(self.path, range(len(self.names))))
            bar = tqdm(sums, self.dataset, len(self.names), delay=1)
            return {"contents": np.fromiter(bar, np.int64)}


def _content_sum(path: str) -> int:
    try:
        return zlib.crc32(Path(path).read_bytes())
    except OSError as error:
        raise KdlibError(f"{path} cannot be read ({error.strerror}); make it readable.") from error


class Resized:
    """A split's photographs as their files are now, for windows of ``image_size`` pixels a side.

    Decoded, or read from a cache: a folder named by what the files are, in which each has a file
    whose checksum is compared when it is first read. What is missing is refused.
    """

    def __init__(self, lister: Lister, split: str, image_size: int, root: Path | None) -> None:
        check_range("image_size", image_size, *IMAGE_SIZES)
        self.listing = listing = lister(split, checked_root(root))
        self.facts = listing.facts()
        self.side = round(image_size * PUBLISHED_SIDES[0] / PUBLISHED_SIDES[1])
        self.kind = f"{listing.dataset}-{split}-{self.side}-"
        key = fingerprint((self.side, "upright", listing.names), [torch.from_numpy(self.facts)])
        self.folder = files.cache_root() / f"{self.kind}{key}"
        self.checked = set[int]()  # positions of photographs whose files were found whole

    def path(self, position: int) -> Path:
        """The file of a photograph in the cache."""
        return self.folder / f"{position}.safetensors"

    def decode(self, position: int) -> Pixels:
        """One photograph (H, W, 3) from its own file."""
        return decoded(self.listing.path(position), self.side)

    def read(self, position: int) -> Pixels:
        """One photograph (H, W, 3); decoded where its file in the cache is missing or damaged."""
        with suppress(KdlibError, OSError, SafetensorError):
            if position not in self.checked:
                files.load_kept(self.path(position))
                self.checked.add(position)
            with safe_open(self.path(position), "np") as file:
                return file.get_tensor("pixels")
        return self.decode(position)

    def build(self, workers: int, progress: bool = True) -> Path:
        """Make the cache by so many threads, or go on making it; remove those of earlier states."""

        def fault(position: int) -> str:
            try:
                files.kept(self.path(position), lambda: {"pixels": self.decode(position)})
            except files.UnwritableError:
                raise
            except KdlibError as error:
                return str(error)
            return ""

        count, faults, name = len(self.listing.names), list[str](), self.folder.name
        with files.locked(self.folder / "lock"), ThreadPoolExecutor(workers) as pool:
            files.remove_remains(self.folder)
            lacking = sum(not self.path(position).exists() for position in range(count))
            needed = 3 * self.side**2 * lacking  # at least: were all of them square
            if needed > shutil.disk_usage(self.folder).free:
                with files.writing(self.folder):
                    raise OSError(errno.ENOSPC, f"{needed / 1e9:.2f} GB are needed")
            files.write_text(self.folder / OWNER, str(self.listing.folder))
            for start in tqdm(range(0, count, GROUP), name, disable=not progress, delay=1):
                faults += filter(None, pool.map(fault, range(count)[start : start + GROUP]))
        if faults:
            told = f"{len(faults):,} photographs cannot be read; the others are kept."
            raise KdlibError(f"{told}\n{few_lines(sorted(faults))}")
        for owner in files.cache_root().glob(f"{self.kind}*/{OWNER}"):
            if owner.parent != self.folder and owner.read_text("utf-8") == str(self.listing.folder):
                shutil.rmtree(owner.parent, ignore_errors=True)
        return self.folder


def load_photographs(lister: Lister, split: str, size: int | None, **options: Any) -> ImageData:
    """Photographs in a random order that is always the same; none is read yet."""
    image_size = options["image_size"]
    source = Resized(lister, split, image_size, options["data_root"])
    listing, count = source.listing, len(source.listing.names)
    # Random, so that the first of them, and the fifth held out, are of all classes alike.
    order = torch.randperm(count, generator=generator(0, listing.dataset, "order"))[:size]
    labels = torch.tensor(listing.labels)[order]
    names = hashlib.sha256(repr(listing.names).encode()).hexdigest()
    content = (labels, torch.from_numpy(source.facts)[order])
    digest = fingerprint((listing.classes, source.side, "upright", names), content)
    images = Photographs(source.read, order.numpy(), image_size)
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
        return len(self.positions)

    def __getitem__(self, part: slice) -> "Photographs":
        return replace(self, positions=self.positions[part])

    def centres(self) -> Tensor:
        """The middle of each: (N, 3, S, S) uint8, all in memory."""
        return next(self.batches([torch.arange(len(self))], None))

    def random_places(self, stream: torch.Generator, drawn: int | None = None) -> Tensor:
        """(N, drawn) of random windows, down and across first, such that each is equally likely.

        Four numbers, of a photograph's class, are those of windows of any size, which are resized.
        """
        size = (len(self), drawn or self.drawn)
        return torch.randint(0, 1 << PLACE_BITS, size, generator=stream)

    def batches(self, parts: Iterable[Tensor], places: Tensor | None) -> Iterator[Tensor]:
        """Windows (B, 3 or 4, S, S) uint8 of each part's photographs, at ``places`` or central."""
        pool = ThreadPoolExecutor(worker_count(), thread_name_prefix="photographs")
        shape, waiting = (self.image_size, self.image_size, 3 + self.annotated), deque[Any]()
        try:
            for part in parts:
                windows = np.empty((len(part), *shape), np.uint8)
                chosen = [None] * len(part) if places is None else places[part].tolist()
                waiting.append((windows, pool.map(self._cut, windows, part.tolist(), chosen)))
                if len(waiting) > AHEAD:
                    yield _collected(*waiting.popleft())
            yield from starmap(_collected, waiting)
        finally:
            pool.shutdown(cancel_futures=True)

    def _cut(self, window: Pixels, position: int, place: list[int] | None) -> None:
        picture = self.read(int(self.positions[position]))
        if place is not None and len(place) == 4:
            window[:] = resized_window(picture, self.image_size, place)
            return
        top, left = placed([side - self.image_size for side in picture.shape[:2]], place)
        window[:] = picture[top : top + self.image_size, left : left + self.image_size]


def _collected(windows: Pixels, cuts: Iterator[None]) -> Tensor:
    deque(cuts, maxlen=0)  # waits for all of them; what one raises is raised here
    return torch.from_numpy(windows).permute(0, 3, 1, 2)  # in memory as torch's channels_last


def resized_window(picture: Pixels, side: int, place: list[int]) -> Pixels:
    """A window of 8 to 100 % of a picture (H, W, 3), of shape 3:4 to 4:3 -> (side, side, 3).

    As torchvision's RandomResizedCrop (Szegedy 2015, arXiv 1409.4842), but of photographs that are
    resized already, and what is longer than the picture is cut where torchvision draws again.
    """
    shares = [value / (1 << PLACE_BITS) for value in place[2:]]
    area, shape = 0.08 + 0.92 * shares[0], (3 / 4) ** (1 - 2 * shares[1])
    sides, scale = picture.shape[:2], (area * picture.shape[0] * picture.shape[1]) ** 0.5
    wanted = (scale * shape**0.5, scale / shape**0.5)
    size = [max(1, min(round(one), most)) for one, most in zip(wanted, sides, strict=True)]
    room = [most - one for one, most in zip(size, sides, strict=True)]
    top, left = placed(room, place)
    whole = Image.fromarray(picture)
    return np.asarray(functional.resized_crop(whole, top, left, *size, [side, side]))


def placed(room: list[int], place: list[int] | None) -> list[int]:
    """Top, left of a window at a ``place`` in ``room``; in the middle without, as CenterCrop."""
    if place is None:
        return [round(free / 2) for free in room]
    return [share * (free + 1) >> PLACE_BITS for free, share in zip(room, place, strict=False)]


def worker_count() -> int:
    """Threads that read photographs: ``KDLIB_WORKERS``, or one a core of this process, up to 16."""
    given = os.environ.get(VARIABLE, "")
    if not given:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # a launcher's, on this machine
        return max(1, min((cores or 1) // processes, MOST_WORKERS))
    if not (given.isascii() and given.isdigit() and int(given) > 0):
        raise KdlibError(f"{VARIABLE} is '{given}'; valid: a whole number from 1, or nothing.")
    return int(given)
