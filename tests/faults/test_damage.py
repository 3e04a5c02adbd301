"""Files that were cut short or in which a bit turned: told, or what is read is what was written."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pytest
import torch
from faults.processes import copy_of
from photographs import write_mit67
from training import tiny

from kdlib.data import listed
from kdlib.data.cache import cached
from kdlib.data.photograph_cache import Resized, build
from kdlib.data.photographs import open_source
from kdlib.errors import KdlibError
from kdlib.files import load_tensors, save_tensors
from kdlib.runs import read_record, run_directory
from kdlib.train import fit
from study.records import find_records

FEW, MANY = 60, 2000


def damages(content: bytes, trials: int) -> Iterator[tuple[str, bytes]]:
    """The content with one bit turned, or cut short, at random places."""
    stream = random.Random(0)
    for trial in range(trials):
        if trial % 4 == 0:
            yield "truncated", content[: stream.randrange(len(content))]
        else:
            place, damaged = stream.randrange(8 * len(content)), bytearray(content)
            damaged[place // 8] ^= 1 << place % 8
            yield "bit turned", bytes(damaged)


def check(
    path: Path, read: Callable[[], Any], trials: int, what: str, tally: Callable[[str, str], None]
) -> None:
    """Damage a file again and again, and read it."""
    content, whole = path.read_bytes(), read()
    told = 0
    for damage, changed in damages(content, trials):
        path.write_bytes(changed)
        try:
            found = read()
        except KdlibError as error:
            check_text(str(error), path)
            told += 1
            tally(f"{damage}: {what}", "told")
        else:
            assert same(found, whole), f"{damage} unnoticed"
            tally(f"{damage}: {what}", "harmless")
    path.write_bytes(content)
    assert told > 0.9 * trials


def check_text(text: str, path: Path) -> None:
    """It names the file, and says what to do."""
    assert path.name in text or path.parent.name in text
    assert "elete" in text, text


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.fixture(params=[FEW, pytest.param(MANY, marks=pytest.mark.slow_faults)])
def trials(request) -> int:
    return request.param


@pytest.fixture(scope="module")
def finished(taught, tmp_path_factory) -> Path:
    """The directory of a finished run."""
    root = copy_of(taught, tmp_path_factory.mktemp("damage") / "runs")
    fit([tiny(epochs=1)], root, progress=False)
    return run_directory(tiny(epochs=1), root)


def test_tensors_with_facts(tmp_path, trials, tally):
    path = tmp_path / "checkpoint.safetensors"
    tensors = {"a": torch.randn(20), "b": torch.arange(9).reshape(3, 3), "c": torch.tensor(1.5)}
    save_tensors(path, tensors, {"history": [{"epoch": 1, "accuracy": 0.1234}], "classes": 7})
    check(path, lambda: load_tensors(path), trials, "checkpoint", tally)


def test_the_weights_of_a_run(finished, trials, tally):
    path = finished / "weights.safetensors"
    check(path, lambda: load_tensors(path), trials, "weights", tally)


@pytest.mark.parametrize("name", ["record.json", "history.csv"])
def test_a_record_and_its_history(finished, name, trials, tally):
    path = finished / name
    check(path, lambda: read_record(finished / "record.json"), trials, name, tally)


def test_a_damaged_record_stops_the_tables(finished):
    path = finished / "record.json"
    whole = path.read_text()
    path.write_text(whole.replace('"top1": 0.', '"top1": 0.9', 1))
    with pytest.raises(KdlibError, match=r"record\.json is damaged"):
        find_records(finished.parent)
    path.write_text(whole)


def test_a_damaged_checkpoint_is_told_and_nothing_is_begun_anew(taught, tmp_path, monkeypatch):
    from kdlib.trainee import Trainee

    config, root, end_epoch = tiny(), copy_of(taught, tmp_path / "runs"), Trainee.end_epoch

    def stop(trainee, row):
        end_epoch(trainee, row)
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainee, "end_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        fit([config], root, progress=False)
    path = run_directory(config, root) / "checkpoint.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-5] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(KdlibError, match=r"checkpoint\.safetensors.*checksum.*Delete it"):
        fit([config], root, progress=False)
    assert path.read_bytes() == damaged, "what may be worth a look is kept"


def test_a_teacher_whose_weights_are_damaged_teaches_nobody(taught, tmp_path):
    root = copy_of(taught, tmp_path / "runs")
    path = run_directory(tiny().teacher_config(), root) / "weights.safetensors"
    damaged = bytearray(path.read_bytes())
    damaged[-5] ^= 4
    path.write_bytes(damaged)
    with pytest.raises(KdlibError, match=r"weights\.safetensors.*checksum"):
        fit([tiny()], root, progress=False)


def test_a_cache_is_made_again(tmp_path, monkeypatch, trials, tally):
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path))
    whole = cached("small", 30, rows, progress=False)["squares"].copy()
    for name in ("squares.npy", "sums"):
        path = tmp_path / "small" / name
        for damage, changed in damages(path.read_bytes(), trials // 2):
            path.write_bytes(changed)
            found = cached("small", 30, rows, progress=False)["squares"]
            assert np.array_equal(found, whole)
            tally(f"{damage}: cache", "recovered")


def rows(numbers: np.ndarray) -> dict[str, np.ndarray]:
    return {"squares": np.repeat(numbers[:, None] ** 2, 4, axis=1)}


@pytest.mark.parametrize("name", ["pixels/pixels.npy", "pixels/sums", "shapes/sides.npy"])
def test_resized_photographs(tmp_path, monkeypatch, name, trials, tally):
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
    opened = open_source(resolve_name(listed()["mit67"]), "train", 28, write_mit67(tmp_path))
    folder = build(opened, workers=1, progress=False)
    path = folder / name
    whole = [Resized(opened).read(position).copy() for position in range(8)]
    content = path.read_bytes()
    for damage, changed in damages(content, trials // 2):
        path.write_bytes(changed)
        if not Resized(opened).is_whole():
            tally(f"{damage}: resized photographs", "recovered")  # they are decoded instead
            continue
        tally(f"{damage}: resized photographs", read_all(Resized(opened), whole))


def read_all(found: Resized, whole: list[np.ndarray]) -> str:
    """Read what may be damaged; what became of that."""
    try:
        assert all(np.array_equal(found.read(n), one) for n, one in enumerate(whole)), "unnoticed"
    except KdlibError as error:
        check_text(str(error), found.folder / "pixels.npy")
        return "told"
    return "harmless"
