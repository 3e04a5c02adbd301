"""Caches of scenes and of photographs: the same pixels, resumed, never half-read or outdated."""

import multiprocessing
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import photograph, write_mit67

from kdlib import KdlibError, load_data
from kdlib.data.batches import Batches
from kdlib.data.photographs import Resized
from kdlib.data.published import list_mit67
from kdlib.files import cache_root, cached

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
    made, folder = [], cache_root() / "mine"
    with pytest.raises(type(error)):
        squares(made, error)
    (folder / ".192.safetensors.abcd.partial").touch()
    for _ in range(2):
        found = squares(made)
    assert made == STARTS and found["rows"].tolist() == list(range(300))
    assert found["squares"].dtype == np.int32 and found["squares"].flags.writeable
    names = {path.name for path in folder.iterdir()}
    assert names == {*(f"{start}.safetensors" for start in STARTS), "lock"}
    (folder / "64.safetensors").write_bytes(b"")
    assert (squares(made)["rows"] == found["rows"]).all() and made == [*STARTS, 64]


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
    decode, seen = Resized.decode, []
    monkeypatch.setattr(Resized, "decode", lambda self, n: seen.append(n) or decode(self, n))
    return seen


def bakery(root: Path, name: str) -> Path:
    return root / "mit67" / "Images" / "bakery" / name


def made(root: Path) -> Path:
    return Resized(list_mit67, "train", 28, root).build(workers=2, progress=False)


def epoch(root: Path) -> torch.Tensor:
    data = load_data("mit67", "train", image_size=28, data_root=root)
    batches = Batches(data, 4, ("flip", "random_crop")).epoch(3, 1)
    return torch.cat([*(batch.images for batch in batches), data.images.centres()])


def test_pixels_are_those_decoded_on_the_fly_and_what_is_damaged_is_made_again(root, decoded):
    photograph(bakery(root, "train_1.jpg"), 1, (50, 90))
    expected, folder = epoch(root), made(root)
    decoded.clear()
    assert torch.equal(epoch(root), expected) and made(root) == folder and not decoded
    (folder / "3.safetensors").write_bytes(b"")
    assert made(root) == folder and decoded == [3]


def test_a_source_that_changes_makes_it_outdated_and_its_successor_removes_it(root, decoded):
    lines, folder = root / "mit67" / "TrainImages.txt", made(root)
    path, listed = bakery(root, "train_0.jpg"), lines.read_text()
    photograph(bakery(root, "new.jpg"), 1)
    changes = [lambda: photograph(path, 99), lambda: lines.write_text(f"{listed}bakery/new.jpg"),
               lambda: lines.write_text(listed.rsplit("\n", 2)[0])]  # fmt: skip
    for change in changes:
        change()
        decoded.clear()
        before, folder = folder, made(root)
        assert before != folder and decoded and [*cache_root().iterdir()] == [folder]


def test_a_full_disk_is_told_before_anything_is_written(root, monkeypatch):
    usage = shutil.disk_usage(root)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(KdlibError, match=r"where 0 MB are free.*GB are needed.*KDLIB_CACHE"):
        made(root)


def test_unreadable_photographs_are_all_named_and_the_others_kept(root):
    for number, kept in ((1, -200), (4, 20)):  # one truncated, one without so much as a header
        path = bakery(root, f"train_{number}.jpg")
        path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(KdlibError, match=r"(?s)2 photographs.*train_1\.jpg.*train_4\.jpg"):
        made(root)
    assert len([*cache_root().rglob("*.safetensors")]) == 8


def test_a_killed_build_goes_on_where_it_was(root, decoded, monkeypatch):
    expected, decode = epoch(root), Resized.decode
    with monkeypatch.context() as slow:
        slow.setattr(Resized, "decode", lambda *given: (time.sleep(0.05), decode(*given))[1])
        process = multiprocessing.get_context("fork").Process(target=made, args=(root,))
        process.start()
    while process.is_alive() and not [*cache_root().glob("*/0.safetensors")]:
        time.sleep(0.01)
    process.kill()
    process.join()
    decoded.clear()
    made(root)
    assert process.exitcode == -signal.SIGKILL and 0 < len(decoded) < 10
    assert torch.equal(epoch(root), expected)
