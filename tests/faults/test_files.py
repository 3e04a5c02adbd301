"""Files that were cut short, in which a bit turned, that would run code, or that have no place."""

import contextlib
import io
import pickle
import random
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from pkgutil import resolve_name
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
from faults.processes import forbid, outcome, unprivileged, with_room
from faults.test_training import check_told, small_disk  # noqa: F401
from photographs import write_mit67
from torchvision import models
from training import tiny

import kdlib
from kdlib.data import listed, load_data
from kdlib.data.photograph_cache import Resized, build
from kdlib.data.photographs import Source, open_source
from kdlib.errors import KdlibError
from kdlib.files import cached, load_tensors, save_tensors
from kdlib.models import create_model
from kdlib.runs import read_record, run_directory
from kdlib.train import fit
from study.analyses.files import load_answers, read_analysis
from study.cli import main
from study.notebooks import parse_value
from study.records import find_records

FEW, MANY = 60, 2000
CONFIG = tiny(epochs=1)


@pytest.fixture(params=[FEW, pytest.param(MANY, marks=pytest.mark.slow_faults)])
def trials(request) -> int:
    return request.param


@pytest.fixture
def caches(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "caches"))
    return tmp_path / "caches"


@pytest.fixture
def photographs(tmp_path, caches) -> Source:
    return open_source(resolve_name(listed()["mit67"]), "train", 28, write_mit67(tmp_path))


def rows(numbers: np.ndarray) -> dict[str, np.ndarray]:
    return {"squares": np.repeat(numbers[:, None] ** 2, 100, axis=1)}


def squares() -> np.ndarray:
    return cached("small", 200, rows, progress=False)["squares"]


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


def turned(path: Path) -> bytes:
    """Turn a bit near the end of a file, which then holds what is returned."""
    damaged = bytearray(path.read_bytes())
    damaged[-5] ^= 4
    path.write_bytes(damaged)
    return bytes(damaged)


def check_text(error: KdlibError, path: Path) -> None:
    """It names the file, and says what to do."""
    assert path.name in str(error) or path.parent.name in str(error)
    assert "elete" in str(error), error


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


@pytest.mark.parametrize("name", ["checkpoint", "weights", "record.json", "history.csv"])
def test_a_damaged_file_of_a_run_is_told(name, undisturbed, tmp_path, trials, tally):
    folder = copytree(undisturbed(CONFIG), tmp_path / "run")
    tensors = {"a": torch.randn(20), "b": torch.arange(9).reshape(3, 3), "c": torch.tensor(1.5)}
    facts = {"history": [{"epoch": 1, "accuracy": 0.1234}], "classes": 7}
    save_tensors(folder / "checkpoint.safetensors", tensors, facts)
    is_text = "." in name
    path = folder / (name if is_text else f"{name}.safetensors")

    def read() -> Any:
        return read_record(folder / "record.json") if is_text else load_tensors(path)

    whole, told = read(), 0
    for damage, changed in damages(path.read_bytes(), trials):
        path.write_bytes(changed)
        try:
            assert same(read(), whole), f"{damage} unnoticed"
            tally(f"{damage}: {name}", "harmless")
        except KdlibError as error:
            check_text(error, path)
            told += 1
            tally(f"{damage}: {name}", "told")
    assert told > 0.9 * trials


def test_a_damaged_record_stops_the_tables(undisturbed, tmp_path):
    path = copytree(undisturbed(CONFIG), tmp_path / "runs" / CONFIG.run_id) / "record.json"
    path.write_text(path.read_text().replace('"top1": 0.', '"top1": 0.9', 1))
    with pytest.raises(KdlibError, match=r"record\.json is damaged"):
        find_records(tmp_path / "runs")


def test_a_damaged_checkpoint_is_told_and_nothing_is_begun_anew(root):
    def stop(config, row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tiny(), root, progress=False, on_epoch=stop)
    path = run_directory(tiny(), root) / "checkpoint.safetensors"
    damaged = turned(path)
    with pytest.raises(KdlibError, match=r"checkpoint\.safetensors.*checksum.*Delete it"):
        fit(tiny(), root, progress=False)
    assert path.read_bytes() == damaged, "what may be worth a look is kept"


def test_a_teacher_whose_weights_are_damaged_teaches_nobody(root):
    turned(run_directory(tiny().teacher_config(), root) / "weights.safetensors")
    with pytest.raises(KdlibError, match=r"weights\.safetensors.*checksum"):
        fit(tiny(), root, progress=False)


@pytest.mark.parametrize("name", ["squares.npy", "sums"])
def test_a_damaged_cache_is_made_again(name, caches, trials, tally):
    whole, path = squares().copy(), caches / "small" / name
    for damage, changed in damages(path.read_bytes(), trials // 2):
        path.write_bytes(changed)
        assert np.array_equal(squares(), whole)
        tally(f"{damage}: cache", "recovered")


@pytest.mark.parametrize("name", ["pixels/pixels.npy", "pixels/sums", "shapes/sides.npy"])
def test_damaged_photographs_are_decoded_again_or_told(name, photographs, trials, tally):
    path = build(photographs, workers=1, progress=False) / name
    whole = [Resized(photographs).read(position).copy() for position in range(8)]
    for damage, changed in damages(path.read_bytes(), trials // 2):
        path.write_bytes(changed)
        found, became = Resized(photographs), "harmless"
        if not found.is_whole():
            became = "recovered"  # they are decoded instead
        else:
            try:
                assert all(np.array_equal(found.read(n), one) for n, one in enumerate(whole))
            except KdlibError as error:
                check_text(error, found.folder / "pixels.npy")
                became = "told"
        tally(f"{damage}: resized photographs", became)


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


FORMS = ("pickle", "npy", "torch", "npz")


@pytest.fixture(params=FORMS)
def bomb(request, tmp_path, tally) -> Iterator[Callable[[Path], None]]:
    """Puts a bomb, in a form in which files of numbers may come, at a path; it must not go off."""
    marker, array, saved, archive = tmp_path / "marker", *(io.BytesIO() for _ in range(3))
    np.save(array, np.array([Bomb(marker)], dtype=object), allow_pickle=True)
    torch.save({"a": Bomb(marker)}, saved)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.npy", array.getvalue())
    forms = {"pickle": pickle.dumps(Bomb(marker)), "npy": array.getvalue()}
    content = {**forms, "torch": saved.getvalue(), "npz": archive.getvalue()}[request.param]
    tries: dict[str, Callable[[io.BytesIO], Any]] = {
        "pickle": pickle.load,
        "torch": lambda file: torch.load(file, weights_only=False),
        "npy": lambda file: np.load(file, allow_pickle=True),
        "npz": lambda file: np.load(file, allow_pickle=True)["a"],
    }
    tries[request.param](io.BytesIO(content))
    assert marker.exists(), "it is live"
    marker.unlink()
    yield lambda path: path.write_bytes(content)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("weights.safetensors", load_tensors),
        ("answers.safetensors", lambda path: load_answers(path.parent)),
        ("record.json", read_record),
        ("analysis.json", read_analysis),
    ],
)
def test_a_file_of_a_run_that_would_run_code_is_refused(name, load, bomb, request, tmp_path, tally):
    bomb(tmp_path / name)
    with pytest.raises(KdlibError, match=re.escape(name)):
        load(tmp_path / name)
    tally(f"hostile {request.node.callspec.params['bomb']}", "told")


def test_a_checkpoint_that_would_run_code_is_refused(root, bomb, request, tally):
    directory = run_directory(tiny(), root)
    directory.mkdir()
    bomb(directory / "checkpoint.safetensors")
    with pytest.raises(KdlibError, match=r"checkpoint\.safetensors.*Delete"):
        fit(tiny(), root, progress=False)
    tally(f"hostile {request.node.callspec.params['bomb']}", "told")


def test_caches_that_would_run_code_are_made_again(bomb, caches, photographs, request, tally):
    whole, folder = squares().copy(), build(photographs, workers=1, progress=False)
    for path in (caches / "small" / "squares.npy", *folder.rglob("*.npy")):
        bomb(path)
    assert np.array_equal(squares(), whole)
    assert len(load_data("mit67", "train", image_size=28, data_root=caches.parent)) == 8
    assert build(photographs, workers=1, progress=False) == folder
    assert Resized(photographs).is_whole()
    tally(f"hostile {request.node.callspec.params['bomb']}", "recovered")


@pytest.mark.parametrize("bomb", ["pickle", "torch"], indirect=True)
def test_pretrained_weights(tmp_path, bomb, monkeypatch, request, tally):
    """torchvision would unpickle whatever lies where its download would."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    url = models.get_model_weights("resnet18")["IMAGENET1K_V1"].url
    bomb(folder / url.rsplit("/", 1)[1])
    with pytest.raises(KdlibError, match="no weights 'IMAGENET1K_V1'; delete it"):
        create_model("resnet18", 10, weights="IMAGENET1K_V1")
    tally(f"hostile {request.node.callspec.params['bomb']}", "told")


def test_yaml(tmp_path, tally):
    with pytest.raises(KdlibError, match="not YAML"):
        parse_value(f"!!python/object/apply:builtins.open ['{tmp_path / 'marker'}', w]")
    assert not (tmp_path / "marker").exists()
    tally("hostile YAML", "told")


def test_nothing_else_in_the_library_reads_what_could_run():
    """A loader that is added must come through here; CIFAR's pickles are checked by MD5 first."""
    dangerous = re.compile(
        r"torch\.load\(|pickle\.load|allow_pickle=True|yaml\.(unsafe_)?load\(|[^.\w]eval\("
        r"|[^.\w]exec\(|read_pickle|joblib|load_state_dict_from_url|weights_only=False"
    )
    files = Path(kdlib.__file__).parent.rglob("*.py")
    assert not [path.name for path in files if dangerous.search(path.read_text(encoding="utf-8"))]


def test_a_cache_that_does_not_fit(caches, tally):
    error = outcome(with_room(60_000, squares))
    check_told(error, "small")
    assert "KDLIB_CACHE" in str(error)
    tally("disk full: cache", "told")
    assert outcome(lambda: int(squares().sum())) == 100 * sum(number**2 for number in range(200))
    tally("disk full: cache", "recovered")


def test_resized_photographs_that_do_not_fit(photographs, tally):
    def made() -> bool:
        return build(photographs, workers=1, progress=False).is_dir()

    check_told(outcome(with_room(9_000, made)), photographs.listing.dataset + ".*")
    assert not Resized(photographs).is_whole()
    tally("disk full: resized photographs", "told")
    assert outcome(made) and Resized(photographs).is_whole()
    tally("disk full: resized photographs", "recovered")


def test_a_cache_on_a_full_disk_kills_nobody(monkeypatch, small_disk, tally):  # noqa: F811
    """Files that are mapped into memory would: the system sends SIGBUS."""
    monkeypatch.setenv("KDLIB_CACHE", str(small_disk(64)))
    check_told(outcome(squares), "small")
    tally("disk full: a whole disk", "told")


CHECK = ("data", "check", "mit67")
CACHE = ("data", "cache", "mit67", "--image-size", "28", "--workers", "1")


@pytest.mark.parametrize(
    ("command", "forbidden", "status", "says"),
    [(CHECK, "data", 0, ""), (CACHE, "data", 0, ""), (CACHE, "caches", 2, "set KDLIB_CACHE")],
)
def test_what_cannot_be_written_to_is_told_where_it_matters(
    command, forbidden, status, says, tmp_path, caches, monkeypatch, tally
):
    caches.mkdir()
    monkeypatch.setenv("KDLIB_DATA", str(write_mit67(tmp_path / "data")))
    forbid(tmp_path / forbidden)

    def told() -> tuple[int, str]:
        with contextlib.redirect_stderr(io.StringIO()) as text:
            return main(command), text.getvalue()

    found, text = outcome(unprivileged(told))
    assert found == status and says in text and (not says or len(text.splitlines()) == 1), text
    tally(*(("read-only cache", "told") if says else ("read-only data root", "harmless")))
