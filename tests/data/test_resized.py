"""The file of resized photographs: the same pixels, resumed, never half-read, never outdated."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
import torch
from photographs import photograph, write_mit67

from kdlib.data import cache, listed, load_data
from kdlib.data.batches import Batches
from kdlib.data.photograph_cache import Resized
from kdlib.data.photograph_cache import build as photograph_cache_build
from kdlib.data.photographs import open_source
from kdlib.errors import KdlibError

pytestmark = pytest.mark.usefixtures("own_cache")
COUNT = 3


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "CHUNK", COUNT)
    return write_mit67(tmp_path / "data", 5)


def source(root):
    return open_source(resolve_name(listed()["mit67"]), "train", 28, root)


def build(root) -> Path:
    return photograph_cache_build(source(root), workers=2, progress=False)


def load(root):
    return load_data("mit67", "train", image_size=28, data_root=root)


def is_cached(data) -> bool:
    return isinstance(getattr(data.images.read, "__self__", None), Resized)


def epoch(data) -> torch.Tensor:
    batches = Batches(data, 4, ("flip", "random_crop")).epoch(3, 1)
    return torch.cat([batch.images for batch in batches])


def test_the_pixels_are_those_decoded_on_the_fly(root):
    photograph(root / "mit67" / "Images" / "bakery" / "train_1.jpg", 1, (50, 90))
    decoded = load(root)
    build(root)
    cached = load(root)
    assert not is_cached(decoded) and is_cached(cached)
    assert decoded.fingerprint == cached.fingerprint
    assert torch.equal(epoch(decoded), epoch(cached))
    assert torch.equal(decoded.images.centres(), cached.images.centres())


def test_it_is_made_once(root, monkeypatch):
    folder = build(root)
    monkeypatch.setattr(cache.Cache, "_fill", lambda *_: pytest.fail("it was made again"))
    assert build(root) == folder
    assert {path.name for path in folder.iterdir()} == {"pixels.npy", "sums"}


@pytest.mark.parametrize("change", ["content", "time", "added", "removed"])
def test_a_source_that_changes_makes_it_outdated_and_its_successor_removes_it(root, change):
    folder, path = build(root), root / "mit67" / "Images" / "bakery" / "train_0.jpg"
    listed = root / "mit67" / "TrainImages.txt"
    if change == "content":
        photograph(path, 99)
    elif change == "time":
        os.utime(path, ns=(1, 1))
    elif change == "added":
        photograph(path.with_name("new.jpg"), 1)
        listed.write_text(listed.read_text() + "bakery/new.jpg\n")
    else:
        listed.write_text("".join(listed.read_text().splitlines(keepends=True)[:-1]))
    assert not is_cached(load(root))
    newer = build(root)
    assert newer != folder and is_cached(load(root)) and not folder.exists()


def test_a_build_that_failed_goes_on_and_reads_nothing_twice(root, monkeypatch):
    opened = source(root)
    read, full, seen = type(opened).read, [True], []

    def reading(self, position):
        seen.append(position)
        if position == 7 and full:
            raise OSError(full.pop(), "No space left on device")
        return read(self, position)

    monkeypatch.setattr(type(opened), "read", reading)
    with pytest.raises(KdlibError, match="No space left.*KDLIB_CACHE.*what was whole is kept"):
        photograph_cache_build(opened, workers=1, progress=False)
    assert not is_cached(load(root))
    assert {6, 7} <= set(seen) and seen.count(0) == 1
    photograph_cache_build(opened, workers=1, progress=False)
    assert seen.count(0) == 1 and is_cached(load(root))


def test_unreadable_photographs_are_all_named_and_the_others_kept(root):
    for number, kept in ((1, -200), (4, 20)):  # one truncated, one without so much as a header
        path = root / "mit67" / "Images" / "bakery" / f"train_{number}.jpg"
        path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(KdlibError, match=r"(?s)2 photographs.*train_1\.jpg.*train_4\.jpg"):
        build(root)
    assert not is_cached(load(root))


def test_a_file_that_was_cut_short_is_made_again(root):
    expected, folder = epoch(load(root)), build(root)
    with (folder / "pixels.npy").open("r+b") as file:
        file.truncate(1000)
    assert not is_cached(load(root))
    build(root)
    assert is_cached(load(root)) and torch.equal(epoch(load(root)), expected)


def test_a_full_disk_is_told_before_anything_is_written(root, monkeypatch):
    usage = cache.shutil.disk_usage(root)
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda _: usage._replace(free=10))
    with pytest.raises(KdlibError, match=r"where 0 MB are free.*0\.00 GB are needed.*KDLIB_CACHE"):
        build(root)


SCRIPT = """
import sys, time
from pathlib import Path
from kdlib.data import cache, photograph_cache as resized
from kdlib.data.photographs import Source, open_source
from kdlib.data.places import list_mit67
cache.AHEAD = 1
read = Source.read
Source.read = lambda self, position: (time.sleep(0.05), read(self, position))[1]
resized.build(open_source(list_mit67, "train", 28, Path(sys.argv[1])), 2, progress=False)
"""


def test_a_killed_build_goes_on_where_it_was(root, own_cache):
    expected = epoch(load(root))
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(root)])
    while process.poll() is None and not any(_marks(own_cache)):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    marks = _marks(own_cache)
    assert 0 < sum(marks) < len(marks) and not is_cached(load(root))
    build(root)
    assert is_cached(load(root)) and torch.equal(epoch(load(root)), expected)


def _marks(cache: Path) -> list[int]:
    return [
        mark
        for path in cache.glob("*/sums")
        if "shapes" not in path.parent.name
        for mark in (np.fromfile(path, np.uint32) > 0).tolist()
    ]
