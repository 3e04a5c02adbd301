"""Caches of scenes and of photographs: the same pixels, resumed, never half-read or outdated."""

import multiprocessing
import os
import signal
import time
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
import torch
from photographs import photograph, write_mit67

from kdlib import files as cache
from kdlib.data import listed, load_data
from kdlib.data.batches import Batches
from kdlib.data.photograph_cache import Resized, build
from kdlib.data.photographs import Source, open_source
from kdlib.errors import KdlibError
from kdlib.files import cache_root, cached

pytestmark = pytest.mark.usefixtures("own_cache")


def squares(rows: np.ndarray) -> dict[str, np.ndarray]:
    return {"rows": rows, "squares": rows[:, None].astype(np.int32) ** 2}


@pytest.mark.parametrize("name", ["sums", "rows.npy", "squares.npy"])
@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-9],
        lambda content: b"",
        lambda content: content[:-4] + bytes([content[-4] ^ 8]) + content[-3:],
        lambda content: content.replace(b"<i", b">i"),
        lambda content: content.replace(b"False", b"True "),
    ],
)
def test_a_cache_is_read_again_and_made_again_where_it_is_damaged(name, damage):
    made = []

    def make(rows):
        made.append(int(rows[0]))
        return squares(rows)

    for _ in range(2):
        cached("mine", 300, make, progress=False)
    assert made == [0, 64, 128, 192, 256]
    path = cache_root() / "mine" / name
    path.write_bytes(damage(path.read_bytes()))
    found = cached("mine", 300, make, progress=False)
    assert found["squares"][:, 0].tolist() == [row**2 for row in range(300)]
    assert found["rows"].tolist() == list(range(300)) and found["squares"].dtype == np.int32


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_build_that_ends_in_the_middle_goes_on(error):
    made = []

    def make(rows, stopped=True):
        if stopped and rows[0] == 128:
            raise error
        made.append(int(rows[0]))
        return squares(rows)

    with pytest.raises(type(error)):
        cached("mine", 300, make, progress=False)
    found = cached("mine", 300, lambda rows: make(rows, False), progress=False)
    assert made == [0, 64, 128, 192, 256] and found["rows"].tolist() == list(range(300))


def test_where_caches_are(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_CACHE", "")
    assert cache_root().parts[-2:] == (".cache", "kdlib")
    (tmp_path / "file").touch()
    for place in ("file", "file/cache"):
        monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / place))
        with pytest.raises(KdlibError, match="set KDLIB_CACHE"):
            load_data("scenes", "test", size=2)


@pytest.fixture
def root(tmp_path):
    return write_mit67(tmp_path / "data", 5)


def source(root) -> Source:
    return open_source(resolve_name(listed()["mit67"]), "train", 28, root)


def made(root, workers: int = 2) -> Path:
    return build(source(root), workers=workers, progress=False)


def load(root):
    return load_data("mit67", "train", image_size=28, data_root=root)


def is_cached(data) -> bool:
    return isinstance(getattr(data.images.read, "__self__", None), Resized)


def epoch(data) -> torch.Tensor:
    batches = Batches(data, 4, ("flip", "random_crop")).epoch(3, 1)
    return torch.cat([batch.images for batch in batches])


def test_cached_pixels_are_those_decoded_on_the_fly_and_are_made_once(root, monkeypatch):
    photograph(root / "mit67" / "Images" / "bakery" / "train_1.jpg", 1, (50, 90))
    decoded, folder = load(root), made(root)
    kept = load(root)
    assert not is_cached(decoded) and is_cached(kept)
    assert decoded.fingerprint == kept.fingerprint
    assert torch.equal(epoch(decoded), epoch(kept))
    assert torch.equal(decoded.images.centres(), kept.images.centres())
    monkeypatch.setattr(Source, "read", lambda *_: pytest.fail("it was made again"))
    assert made(root) == folder


@pytest.mark.parametrize("change", ["content", "time", "added", "removed"])
def test_a_source_that_changes_makes_it_outdated_and_its_successor_removes_it(root, change):
    folder, path = made(root), root / "mit67" / "Images" / "bakery" / "train_0.jpg"
    lines = root / "mit67" / "TrainImages.txt"
    if change == "content":
        photograph(path, 99)
    elif change == "time":
        os.utime(path, ns=(1, 1))
    elif change == "added":
        photograph(path.with_name("new.jpg"), 1)
        lines.write_text(lines.read_text() + "bakery/new.jpg\n")
    else:
        lines.write_text("".join(lines.read_text().splitlines(keepends=True)[:-1]))
    assert not is_cached(load(root))
    newer = made(root)
    assert newer != folder and is_cached(load(root))
    assert [*cache_root().iterdir()] == [newer]


def test_a_full_disk_is_told_before_anything_is_written_or_in_the_middle(root, monkeypatch):
    read, full, seen = Source.read, [True], []

    def reading(self, position):
        seen.append(position)
        if position == 7 and full:
            raise OSError(full.pop(), "No space left on device")
        return read(self, position)

    with monkeypatch.context() as patched:
        usage = cache.shutil.disk_usage(root)
        patched.setattr(cache.shutil, "disk_usage", lambda _: usage._replace(free=10))
        with pytest.raises(KdlibError, match=r"where 0 MB are free.*GB are needed.*KDLIB_CACHE"):
            made(root)
    monkeypatch.setattr(Source, "read", reading)
    with pytest.raises(KdlibError, match="No space left.*KDLIB_CACHE.*what was whole is kept"):
        made(root, workers=0)
    assert not is_cached(load(root)) and seen == list(range(8))
    made(root, workers=0)
    assert seen == [*range(8), *range(7, 10)] and is_cached(load(root))


def test_unreadable_photographs_are_all_named_and_the_others_kept(root):
    for number, kept in ((1, -200), (4, 20)):  # one truncated, one without so much as a header
        path = root / "mit67" / "Images" / "bakery" / f"train_{number}.jpg"
        path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(KdlibError, match=r"(?s)2 photographs.*train_1\.jpg.*train_4\.jpg"):
        made(root)
    assert not is_cached(load(root)) and Resized(source(root)).pixels.sums.astype(bool).sum() == 8


def test_a_killed_build_goes_on_where_it_was_and_one_cut_short_is_made_again(root, monkeypatch):
    expected, read = epoch(load(root)), Source.read
    with monkeypatch.context() as slow:
        slow.setattr(cache, "AHEAD", 1)
        slow.setattr(Source, "read", lambda *given: (time.sleep(0.05), read(*given))[1])
        process = multiprocessing.get_context("fork").Process(target=made, args=(root,))
        process.start()
    while process.is_alive() and not Resized(source(root)).pixels.sums.any():
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL and not is_cached(load(root))
    seen = []
    monkeypatch.setattr(Source, "read", lambda self, n: seen.append(n) or read(self, n))
    folder = made(root)
    assert 0 < len(seen) < 10 and is_cached(load(root)) and torch.equal(epoch(load(root)), expected)
    with (folder / "pixels" / "pixels.npy").open("r+b") as file:
        file.truncate(1000)
    assert not is_cached(load(root))
    made(root)
    assert is_cached(load(root)) and torch.equal(epoch(load(root)), expected)
