"""`python -m benchmarks.loading`: photographs per second, decoded on the fly or from the cache."""

import os
import platform
import sys
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from pkgutil import resolve_name
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from benchmarks import RESULTS, command
from benchmarks.timing import seconds
from kdlib.data import listed, load_data
from kdlib.data.batches import Batches
from kdlib.data.image_data import ImageData
from kdlib.data.photograph_cache import build
from kdlib.data.photographs import open_source, worker_count
from kdlib.files import write_json
from kdlib.runs import RunConfig, provenance
from kdlib.seeds import generator
from study.cli import Count
from study.export import machine_name

SIDES = {"500 x 400": (500, 400), "340 x 256": (340, 256)}
"""Width and height: a usual photograph, and one whose shorter side needs no resizing."""
JPEG_QUALITY = 90
BATCH = 128
AUGMENTATION = ("flip", "random_crop")
TEXTURE = ((4, 0.4), (16, 0.3), (64, 0.2), (200, 0.1))
"""Cells across, and share of the contrast: about 50 kB a photograph of 500 x 400, as on the web."""


@command("benchmarks.loading")
def main(*, images: Count = 2000, epochs: Count = 3, to: Path = RESULTS / "loading.json") -> None:
    """Photographs per second in batches of 128 at 224 pixels, on generated JPEG files.

    As bytes, which is what a GPU is fed with, and augmented and normalised on the processor.
    Nothing else should run meanwhile.

    Args:
        images: of each size.
        epochs: measured of each; medians are shown.
        to: the JSON file.
    """
    record = measure(images, epochs)
    write_json(to, record)
    for row in record["photographs"]:
        print(f"{row['size']}: decoded {row['decoded']}, cached {row['cached']} images/s")
    print(to)


def measure(images: int, epochs: int) -> dict[str, Any]:
    """Speeds for each size of photograph, and where they were measured."""
    with tempfile.TemporaryDirectory(prefix="kdlib-loading-") as folder, patch.dict(os.environ):
        rows, os.environ["KDLIB_CACHE"] = [], f"{folder}/cache"
        for name, size in SIDES.items():
            root = Path(folder) / name
            write_photographs(root, images, size)
            data = load_data("imagefolder", "train", image_size=224, data_root=root)
            rows.append({"size": name, **_row(root, data, epochs)})
        source = provenance(RunConfig(), "cpu", "float32", data.fingerprint)
    where = {name: source[name] for name in ("commit", "dirty", "threads", "utc")}
    where |= {"machine": machine_name(), "cores": worker_count()}
    where["versions"] = {**source["versions"], "pillow": version("pillow")}
    where["system"] = platform.system()
    return {"photographs": rows, "images": images, "provenance": where}


def _row(root: Path, decoded: ImageData, epochs: int) -> dict[str, Any]:
    """What was found for one size: speeds on the fly and from the cache, and its making."""
    on_the_fly = _speeds(decoded, epochs)
    start = time.perf_counter()
    source = open_source(resolve_name(listed()["imagefolder"]), "train", 224, root)
    folder = build(source, worker_count(), progress=False)
    making = time.perf_counter() - start
    cached = load_data("imagefolder", "train", image_size=224, data_root=root)
    pairs = zip(_batches(decoded, 0), _batches(cached, 0), strict=True)
    return {
        "kilobytes": round(float(np.mean(source.facts[:, 0])) / 1000),
        "decoded": on_the_fly,
        "cached": _speeds(cached, epochs),
        "making": round(len(decoded) / making),
        "gigabytes": round((folder / "pixels" / "pixels.npy").stat().st_size / 1e9, 2),
        "same_pixels": all(torch.equal(a.images, b.images) for a, b in pairs),
    }


def _speeds(data: ImageData, epochs: int) -> dict[str, int]:
    """Images per second, medians over epochs: bytes alone, and whole batches on the processor."""
    found = {}
    for name, work in {"bytes": _bytes, "batches": _batches}.items():
        works = (partial(deque, work(data, number), 0) for number in range(epochs))
        spent = [seconds(one, time.perf_counter) for one in works]
        found[name] = round(len(data) / median(spent))
    return found


def _bytes(data: ImageData, number: int) -> Iterator[Any]:
    """An epoch of random windows, not yet augmented any further or normalised."""
    stream = generator(number, "loading")
    order, places = torch.randperm(len(data), generator=stream), data.images.random_places(stream)
    return data.images.batches(order.split(BATCH), places)


def _batches(data: ImageData, number: int) -> Iterator[Any]:
    """An epoch as training on the processor sees it."""
    return Batches(data, BATCH, AUGMENTATION).epoch(0, number)


def write_photographs(root: Path, count: int, size: tuple[int, int]) -> None:
    """A folder of JPEG files for training, and one for testing."""
    random = np.random.default_rng(0)
    for split, number in (("train", count), ("test", 1)):
        folder = root / split / "photographs"
        folder.mkdir(parents=True)
        for index in tqdm(range(number), desc=f"writing {root.name}", disable=None):
            picture(random, size).save(folder / f"{index:05}.jpg", quality=JPEG_QUALITY)


def picture(random: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    """Coloured noise of several scales, (width, height) pixels."""
    width, height = size
    total = np.zeros((height, width, 3))
    for cells, share in TEXTURE:
        shape = (max(2, cells * height // width), cells, 3)
        noise = Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8))
        total += share * np.asarray(noise.resize(size, Image.Resampling.BICUBIC))
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


if __name__ == "__main__":
    sys.exit(main())
