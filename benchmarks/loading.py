"""`python -m benchmarks loading`: photographs per second, decoded on the fly or from the cache."""

import platform
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from pkgutil import resolve_name
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from benchmarks.timing import Work, own_cache, seconds
from kdlib.data import listed, load_data
from kdlib.data.batches import Batches
from kdlib.data.image_data import ImageData
from kdlib.data.photographs import Resized, worker_count
from kdlib.runs import RunConfig, provenance
from kdlib.seeds import generator
from study.export import machine_name

SIZES = {"500 x 400": (500, 400), "340 x 256": (340, 256)}
"""Width and height: a usual photograph, and one whose shorter side needs no resizing."""
JPEG_QUALITY = 90
BATCH = 128
TEXTURE = ((4, 0.4), (16, 0.3), (64, 0.2), (200, 0.1))
"""Cells across, and share of the contrast: about 50 kB a photograph of 500 x 400, as on the web."""


def measure(images: int, epochs: int) -> dict[str, Any]:
    """Speeds for each size of photograph, and where they were measured."""
    rows = []
    with own_cache() as folder:
        for name, size in SIZES.items():
            root = folder / name
            write_photographs(root, images, size)
            load = partial(load_data, "imagefolder", "train", image_size=224, data_root=root)
            rows.append({"size": name, **_row(root, load, epochs)})
        source = provenance(RunConfig(), "cpu", "float32", load().fingerprint)
    where = {name: source[name] for name in ("commit", "dirty", "threads", "utc")}
    where |= {"machine": machine_name(), "cores": worker_count(), "system": platform.system()}
    where["versions"] = {**source["versions"], "pillow": version("pillow")}
    return {"photographs": rows, "images": images, "provenance": where}


def _row(root: Path, load: Callable[[], ImageData], epochs: int) -> dict[str, Any]:
    """What was found for one size: speeds on the fly and from the cache, and its making."""
    decoded = load()
    on_the_fly = _speeds(decoded, epochs)
    start = time.perf_counter()
    source = Resized(resolve_name(listed()["imagefolder"]), "train", 224, root)
    folder = source.build(worker_count(), progress=False)
    originals = [Path(source.listing.path(position)) for position in range(len(decoded))]
    making = time.perf_counter() - start
    cached = load()
    pairs = zip(_batches(decoded, 0), _batches(cached, 0), strict=True)
    return {
        "kilobytes": round(float(np.mean([path.stat().st_size for path in originals])) / 1000),
        "decoded": on_the_fly,
        "cached": _speeds(cached, epochs),
        "making": round(len(decoded) / making),
        "gigabytes": round(sum(path.stat().st_size for path in folder.iterdir()) / 1e9, 2),
        "same_pixels": all(torch.equal(a.images, b.images) for a, b in pairs),
    }


def _speeds(data: ImageData, epochs: int) -> dict[str, int]:
    """Images per second, medians over epochs: bytes alone, and whole batches on the processor."""
    found = {}
    for name, work in {"bytes": _bytes, "batches": _batches}.items():
        works: Iterator[Work] = (partial(deque, work(data, n), 0) for n in range(epochs))
        spent = [seconds(one, time.perf_counter) for one in works]
        found[name] = round(len(data) / median(spent))
    return found


def _bytes(data: ImageData, epoch: int) -> Iterator[Any]:
    """An epoch of random windows, not yet augmented any further or normalised."""
    stream = generator(epoch, "loading")
    order, places = torch.randperm(len(data), generator=stream), data.images.random_places(stream)
    return data.images.batches(order.split(BATCH), places)


def _batches(data: ImageData, epoch: int) -> Iterator[Any]:
    """An epoch as training on the processor sees it."""
    return Batches(data, BATCH, ("flip", "random_crop")).epoch(0, epoch)


def write_photographs(root: Path, count: int, size: tuple[int, int]) -> None:
    """JPEG files of two classes for training and testing: coloured noise of several scales."""
    random, (width, height) = np.random.default_rng(0), size
    for split, number in (("train", count), ("test", 2)):
        for index in tqdm(range(number), desc=f"writing {root.name}", disable=None):
            folder = root / split / ("one", "other")[index % 2]
            folder.mkdir(parents=True, exist_ok=True)
            picture = np.zeros((height, width, 3))
            for cells, share in TEXTURE:
                shape = (max(2, cells * height // width), cells, 3)
                noise = Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8))
                picture += share * np.asarray(noise.resize(size, Image.Resampling.BICUBIC))
            whole = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
            whole.save(folder / f"{index:05}.jpg", quality=JPEG_QUALITY)
