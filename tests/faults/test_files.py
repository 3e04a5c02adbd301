"""Files that were cut short, in which a bit turned, that would run code, or that have no place."""

import contextlib
import io
import pickle
import random
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
from data_files import write_mit67
from processes import check_full, forbid, outcomes, unprivileged, with_room
from torchvision import models
from training import tiny

import kdlib
from kdlib import KdlibError, create_model, fit
from kdlib.data import listed
from kdlib.data.photographs import Resized
from kdlib.files import cached, load_tensors, save_tensors
from kdlib.runs import read_record
from study.analyses.files import load_answers, read_analysis
from study.cli import main
from study.notebooks import parse_value
from study.records import find_records


@pytest.fixture(params=[40, pytest.param(2000, marks=pytest.mark.slow_faults)])
def trials(request) -> int:
    return request.param


@pytest.fixture
def caches(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "caches"))
    return tmp_path / "caches"


@pytest.fixture
def photographs(tmp_path, caches) -> Resized:
    return Resized(resolve_name(listed()["mit67"]), "train", 28, write_mit67(tmp_path))


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
    folder = copytree(undisturbed(tiny(epochs=1)), tmp_path / "run")
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


def test_a_damaged_cache_is_made_again(photographs, trials, tally):
    folder = photographs.build(workers=1, progress=False)
    pixels, whole = photographs.read(1).copy(), squares().copy()
    for path in (folder / "1.safetensors", folder.parent / "small" / "64.safetensors"):
        swapped = ("another's content", path.with_stem("0").read_bytes())
        for damage, changed in [swapped, *damages(path.read_bytes(), trials // 2)]:
            path.write_bytes(changed)
            assert np.array_equal(squares(), whole)
            photographs.checked.clear()  # as in another process
            assert np.array_equal(photographs.read(1), pixels)
            tally(f"{damage}: cache", "recovered")
    assert np.array_equal(photographs.read(1), pixels), "and it is read"
    (folder / "1.safetensors").unlink()  # by whoever clears caches while a run reads them
    assert np.array_equal(photographs.read(1), pixels)


class Bomb:
    """Makes a file ``marker`` when it is unpickled."""

    def __reduce__(self):
        return open, ("marker", "w")


@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_a_file_that_would_run_code_is_refused(form, root, caches, photographs, monkeypatch, tally):
    monkeypatch.chdir(root)
    file, marker = io.BytesIO(), root / "marker"
    {"pickle": pickle.dump, "torch": torch.save}[form](Bomb(), file)
    file.seek(0)
    with contextlib.suppress(Exception):
        torch.load(file, weights_only=False)
    assert marker.exists(), "it is live"
    marker.unlink()
    # torchvision would unpickle whatever lies where its download would.
    monkeypatch.setenv("TORCH_HOME", str(root))
    url = models.get_model_weights("resnet18")["IMAGENET1K_V1"].url
    pretrained = partial(create_model, "resnet18", 10, weights="IMAGENET1K_V1")
    downloaded = f"hub/checkpoints/{url.rsplit('/', 1)[1]}"
    for name, read, says in (
        ("weights.safetensors", load_tensors, "weights"),
        ("answers.safetensors", lambda path: load_answers(path.parent), "answers"),
        ("record.json", read_record, r"record\.json"),
        ("analysis.json", read_analysis, r"analysis\.json"),
        (f"{tiny().run_id}/checkpoint.safetensors", lambda path: fit(tiny(), root), "checkpoint"),
        (downloaded, lambda path: pretrained(), "no weights 'IMAGENET1K_V1'; move it"),
    ):
        (path := root / name).parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(file.getvalue())
        with pytest.raises(KdlibError, match=says):
            read(path)
    whole, folder = squares(), photographs.build(workers=1, progress=False)
    for path in caches.rglob("*.safetensors"):
        path.write_bytes(file.getvalue())
    assert np.array_equal(squares(), whole), "it is made again"
    assert np.array_equal(photographs.read(0), photographs.decode(0))
    assert photographs.build(workers=1, progress=False) == folder
    assert not marker.exists()
    tally(f"hostile {form}", "told")


def test_yaml_and_nothing_else_in_the_library_reads_what_could_run(tally):
    """A loader that is added must come through here; CIFAR's pickles are checked by MD5 first."""
    with pytest.raises(KdlibError, match="not YAML"):
        parse_value("!!python/object/apply:builtins.open ['marker', w]")
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

    for room in (2_000, 9_000):
        (error,) = outcomes(with_room(room, made))
        check_full(error, r"0\.safetensors")
        assert "KDLIB_CACHE" in str(error)
        tally("disk full: cache", "told")
    assert made() == 100 * sum(number**2 for number in range(200))
    tally("disk full: cache", "recovered")


CACHE = "data cache mit67 --image-size 28 --workers 1 --data-root data"


@pytest.mark.parametrize(("command", "forbidden", "status", "says"), [
    ("data check mit67", "data", 0, "mit67, train: 8 of 8 images read (published: 5,360), 2 clas"),
    (CACHE, "data", 0, "mit67, test: 8 photographs, 0.00 GB"),
    (CACHE, "caches", 2, "set KDLIB_CACHE"),
])  # fmt: skip
def test_photographs_are_checked_and_cached_and_what_cannot_be_written_to_told_where_it_matters(
    command, forbidden, status, says, tmp_path, caches, monkeypatch, tally
):
    caches.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KDLIB_DATA", str(write_mit67(tmp_path / "data")))
    forbid(tmp_path / forbidden)

    def told() -> tuple[int, str]:
        with contextlib.redirect_stderr(io.StringIO()) as text, contextlib.redirect_stdout(text):
            return main(command.split()), text.getvalue()

    ((found, text),) = outcomes(unprivileged(told))
    assert found == status and says in text, text
    assert not status or len(text.splitlines()) == 1, text
    tally(*(("read-only cache", "told") if status else ("read-only data root", "harmless")))
