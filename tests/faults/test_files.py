"""Files that were cut short, in which a bit turned, that would run code, or that have no place."""

import contextlib
import io
import pickle
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from pkgutil import resolve_name
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
from data_files import write_mit67
from faults.processes import forbid, outcome, unprivileged, with_room
from faults.test_training import check_told
from torchvision import models
from training import tiny

import kdlib
from kdlib.data import listed
from kdlib.data.photographs import Resized, open_source
from kdlib.errors import KdlibError
from kdlib.files import cached, load_tensors, save_tensors
from kdlib.models import create_model
from kdlib.runs import read_record, run_directory
from kdlib.train import fit
from study.analyses.files import load_answers, read_analysis
from study.cli import main
from study.notebooks import parse_value
from study.records import find_records

CONFIG = tiny(epochs=1)


@pytest.fixture(params=[40, pytest.param(2000, marks=pytest.mark.slow_faults)])
def trials(request) -> int:
    return request.param


@pytest.fixture
def caches(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "caches"))
    return tmp_path / "caches"


@pytest.fixture
def photographs(tmp_path, caches) -> Resized:
    return open_source(resolve_name(listed()["mit67"]), "train", 28, write_mit67(tmp_path))


def squares() -> np.ndarray:
    def rows(numbers: np.ndarray) -> dict[str, np.ndarray]:
        return {"squares": np.repeat(numbers[:, None] ** 2, 100, axis=1)}

    return cached("small", 200, rows)["squares"]


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


@pytest.mark.parametrize("name", ["checkpoint", "weights", "record.json", "history.csv"])
def test_a_damaged_file_of_a_run_is_told(name, undisturbed, tmp_path, trials, tally):
    folder = copytree(undisturbed(CONFIG), tmp_path / "run")
    tensors = {"a": torch.randn(20), "b": torch.arange(9).reshape(3, 3), "c": torch.tensor(1.5)}
    save_tensors(folder / "checkpoint.safetensors", tensors, {"history": [{"accuracy": 0.1234}]})
    path = folder / (name if "." in name else f"{name}.safetensors")

    def read() -> Any:
        if "." in name:
            return read_record(folder / "record.json")
        tensors, facts = load_tensors(path)
        return facts, {name: (tensor.dtype, tensor.tolist()) for name, tensor in tensors.items()}

    whole, told = read(), 0
    for damage, changed in damages(path.read_bytes(), trials):
        path.write_bytes(changed)
        try:
            assert read() == whole, f"{damage} unnoticed"
            tally(f"{damage}: {name}", "harmless")
        except KdlibError as error:
            told += bool(re.search(f"({path.name}|{folder.name}).*elete", str(error)))
            tally(f"{damage}: {name}", "told")
    assert told > 0.9 * trials, "the file, and what to do"
    if name == "record.json":
        with pytest.raises(KdlibError, match=r"record\.json"):
            find_records(tmp_path)  # of which tables are made


def test_a_run_with_a_damaged_checkpoint_or_teacher_is_not_begun_anew(root):
    def stop(config, row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tiny(), root, progress=False, on_epoch=stop)
    checkpoint = run_directory(tiny(), root) / "checkpoint.safetensors"
    for path in (checkpoint, run_directory(tiny().teacher_config(), root) / "weights.safetensors"):
        whole = path.read_bytes()
        damaged = whole[:-5] + bytes([whole[-5] ^ 4]) + whole[-4:]
        path.write_bytes(damaged)
        with pytest.raises(KdlibError, match=rf"{path.name}.*checksum.*Delete it"):
            fit(tiny(), root, progress=False)
        assert path.read_bytes() == damaged, "what may be worth a look is kept"
        path.write_bytes(whole)


def test_a_damaged_cache_is_made_again(photographs, trials, tally):
    folder = photographs.build(workers=1, progress=False)
    pixels, whole = photographs.read(1).copy(), squares().copy()
    for path in (folder / "1.safetensors", folder.parent / "small" / "64.safetensors"):
        for damage, changed in damages(path.read_bytes(), trials // 2):
            path.write_bytes(changed)
            assert np.array_equal(squares(), whole)
            assert np.array_equal(photographs.read(1), pixels)
            tally(f"{damage}: cache", "recovered")


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


@pytest.fixture(params=["pickle", "torch"])
def bomb(request, tmp_path, tally) -> Iterator[Callable[[Path], None]]:
    """Puts a bomb, in a form in which weights may come, at a path; it must not go off."""
    marker, file = tmp_path / "marker", io.BytesIO()
    {"pickle": pickle.dump, "torch": torch.save}[request.param](Bomb(marker), file)
    file.seek(0)
    with contextlib.suppress(Exception):
        torch.load(file, weights_only=False)
    assert marker.exists(), "it is live"
    marker.unlink()
    yield lambda path: path.write_bytes(file.getvalue())
    assert not marker.exists()
    tally(f"hostile {request.param}", "told")


def test_a_file_that_would_run_code_is_refused(bomb, root):
    (directory := run_directory(tiny(), root)).mkdir()
    readers: dict[str, Callable[[Path], Any]] = {
        "weights.safetensors": load_tensors,
        "answers.safetensors": lambda path: load_answers(directory),
        "record.json": read_record,
        "analysis.json": read_analysis,
        "checkpoint.safetensors": lambda path: fit(tiny(), root, progress=False),
    }
    for name, read in readers.items():
        bomb(directory / name)
        with pytest.raises(KdlibError, match=re.escape(name)):
            read(directory / name)
        (directory / name).unlink()


def test_pretrained_weights_and_caches_that_would_run_code(
    tmp_path, bomb, caches, photographs, monkeypatch
):
    """torchvision would unpickle whatever lies where its download would."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    url = models.get_model_weights("resnet18")["IMAGENET1K_V1"].url
    bomb(folder / url.rsplit("/", 1)[1])
    with pytest.raises(KdlibError, match="no weights 'IMAGENET1K_V1'; delete it"):
        create_model("resnet18", 10, weights="IMAGENET1K_V1")
    whole, folder = squares(), photographs.build(workers=1, progress=False)
    for path in caches.rglob("*.safetensors"):
        bomb(path)
    assert np.array_equal(squares(), whole), "it is made again"
    assert np.array_equal(photographs.read(0), photographs.decode(0))
    assert photographs.build(workers=1, progress=False) == folder


def test_yaml_and_nothing_else_in_the_library_reads_what_could_run(tmp_path, tally):
    """A loader that is added must come through here; CIFAR's pickles are checked by MD5 first."""
    with pytest.raises(KdlibError, match="not YAML"):
        parse_value(f"!!python/object/apply:builtins.open ['{tmp_path / 'marker'}', w]")
    assert not (tmp_path / "marker").exists()
    tally("hostile YAML", "told")
    dangerous = re.compile(
        r"torch\.load\(|pickle\.load|allow_pickle=True|yaml\.(unsafe_)?load\(|[^.\w]eval\("
        r"|[^.\w]exec\(|read_pickle|joblib|load_state_dict_from_url|weights_only=False"
    )
    paths = Path(kdlib.__file__).parent.rglob("*.py")
    assert not [path.name for path in paths if dangerous.search(path.read_text(encoding="utf-8"))]


def test_caches_that_do_not_fit(photographs, tally):
    def made() -> int:
        photographs.build(workers=1, progress=False)
        return int(squares().sum())

    for room, name in ((2_000, r"0\.safetensors"), (9_000, r"0\.safetensors")):
        error = outcome(with_room(room, made))
        check_told(error, name)
        assert "KDLIB_CACHE" in str(error)
        tally("disk full: cache", "told")
    assert outcome(made) == 100 * sum(number**2 for number in range(200))
    tally("disk full: cache", "recovered")


CACHE = ("data", "cache", "mit67", "--image-size", "28", "--workers", "1")


@pytest.mark.parametrize(
    ("command", "forbidden", "status"),
    [(("data", "check", "mit67"), "data", 0), (CACHE, "data", 0), (CACHE, "caches", 2)],
)
def test_what_cannot_be_written_to_is_told_where_it_matters(
    command, forbidden, status, tmp_path, caches, monkeypatch, tally
):
    caches.mkdir()
    monkeypatch.setenv("KDLIB_DATA", str(write_mit67(tmp_path / "data")))
    forbid(tmp_path / forbidden)

    def told() -> tuple[int, str]:
        with contextlib.redirect_stderr(io.StringIO()) as text:
            return main(command), text.getvalue()

    found, text = outcome(unprivileged(told))
    assert found == status
    assert not status or ("set KDLIB_CACHE" in text and len(text.splitlines()) == 1), text
    tally(*(("read-only cache", "told") if status else ("read-only data root", "harmless")))
