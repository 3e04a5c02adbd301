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

from kdlib import files
from kdlib.data import listed, load_data
from kdlib.data.batches import Batches
from kdlib.data.photographs import Resized, open_source
from kdlib.errors import KdlibError
from kdlib.files import cache_root, cached

pytestmark = pytest.mark.usefixtures("own_cache")
STARTS = [0, 64, 128, 192, 256]


def squares(made: list[int], error: BaseException | None = None) -> dict[str, np.ndarray]:
    """Of 300 rows; what is made of them is noted, and ``error`` comes in the middle."""

    def make(rows: np.ndarray) -> dict[str, np.ndarray]:
        if error is not None and rows[0] == 128:
            raise error
        made.append(int(rows[0]))
        return {"rows": rows, "squares": rows[:, None].astype(np.int32) ** 2}

    return dict(cached("mine", 300, make))


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device")])
def test_a_cache_goes_on_where_it_was_stopped_and_is_mended_where_it_is_damaged(error):
    made = []
    with pytest.raises(type(error)):
        squares(made, error)
    (cache_root() / "mine" / ".192.safetensors.abcd.partial").touch()
    for _ in range(2):
        found = squares(made)
    assert made == STARTS and found["rows"].tolist() == list(range(300))
    assert found["squares"].dtype == np.int32 and found["squares"].flags.writeable
    names = [path.name for path in (cache_root() / "mine").iterdir()]
    assert sorted(names) == sorted([*(f"{start}.safetensors" for start in STARTS), "lock"])
    path = cache_root() / "mine" / "64.safetensors"
    for content in (path.read_bytes()[:-9], b"", path.read_bytes()[:-4] + b"abcd"):
        path.write_bytes(content)
        found, made = squares(made := []), made
        assert made == [64] and found["squares"][:, 0].tolist() == [row**2 for row in range(300)]


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


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """Positions of the photographs that were decoded."""
    read, seen = Resized.decode, []
    monkeypatch.setattr(Resized, "decode", lambda self, n: seen.append(n) or read(self, n))
    return seen


def source(root) -> Resized:
    return open_source(resolve_name(listed()["mit67"]), "train", 28, root)


def made(root) -> Path:
    return source(root).build(workers=2, progress=False)


def epoch(root) -> torch.Tensor:
    data = load_data("mit67", "train", image_size=28, data_root=root)
    batches = Batches(data, 4, ("flip", "random_crop")).epoch(3, 1)
    return torch.cat([*(batch.images for batch in batches), data.images.centres()])


def test_pixels_are_those_decoded_on_the_fly_and_what_is_damaged_is_decoded_again(root, decoded):
    photograph(root / "mit67" / "Images" / "bakery" / "train_1.jpg", 1, (50, 90))
    expected, folder = epoch(root), made(root)
    decoded.clear()
    assert torch.equal(epoch(root), expected) and made(root) == folder and not decoded
    path = folder / "3.safetensors"
    path.write_bytes(path.read_bytes()[:-5] + b"abcde")
    assert torch.equal(epoch(root), expected) and set(decoded) == {3}
    decoded.clear()
    assert made(root) == folder and decoded == [3]
    assert torch.equal(epoch(root), expected) and decoded == [3]


@pytest.mark.parametrize("change", ["content", "time", "added", "removed"])
def test_a_source_that_changes_makes_it_outdated_and_its_successor_removes_it(
    root, decoded, change
):
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
    decoded.clear()
    newer = made(root)
    assert newer != folder and decoded and [*cache_root().iterdir()] == [newer]


def test_a_full_disk_is_told_before_anything_is_written_or_in_the_middle(root, monkeypatch):
    usage, save = files.shutil.disk_usage(root), files.save_tensors
    with monkeypatch.context() as patched:
        patched.setattr(files.shutil, "disk_usage", lambda _: usage._replace(free=10))
        with pytest.raises(KdlibError, match=r"where 0 MB are free.*GB are needed.*KDLIB_CACHE"):
            made(root)

    def full(path: Path, *given, **more):
        with files.writing(path):
            if path.stem == "7":
                raise OSError(28, "No space left on device")
        save(path, *given, **more)

    with monkeypatch.context() as patched:
        patched.setattr(files, "save_tensors", full)
        with pytest.raises(KdlibError, match="No space left.*KDLIB_CACHE.*what was whole is kept"):
            made(root)
    assert not source(root).path(7).exists() and source(root).path(0).exists()
    assert len([*made(root).glob("*.safetensors")]) == 10


def test_unreadable_photographs_are_all_named_and_the_others_kept(root):
    for number, kept in ((1, -200), (4, 20)):  # one truncated, one without so much as a header
        path = root / "mit67" / "Images" / "bakery" / f"train_{number}.jpg"
        path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(KdlibError, match=r"(?s)2 photographs.*train_1\.jpg.*train_4\.jpg"):
        made(root)
    assert len([*source(root).folder.glob("*.safetensors")]) == 8


def test_a_killed_build_goes_on_where_it_was(root, decoded, monkeypatch):
    expected, read = epoch(root), Resized.decode
    with monkeypatch.context() as slow:
        slow.setattr(Resized, "decode", lambda *given: (time.sleep(0.05), read(*given))[1])
        process = multiprocessing.get_context("fork").Process(target=made, args=(root,))
        process.start()
    while process.is_alive() and not source(root).path(0).exists():
        time.sleep(0.01)
    process.kill()
    process.join()
    decoded.clear()
    made(root)
    assert process.exitcode == -signal.SIGKILL and 0 < len(decoded) < 10
    assert torch.equal(epoch(root), expected) and len(decoded) < 10
