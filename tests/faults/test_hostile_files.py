"""No file that is loaded runs code, whatever it pretends to be."""

import io
import pickle
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
import torch
from faults.processes import copy_of
from photographs import write_mit67
from torchvision import models
from training import tiny

import kdlib
from kdlib.data import listed, load_data
from kdlib.data.cache import cached
from kdlib.data.photograph_cache import Resized, build
from kdlib.data.photographs import open_source
from kdlib.errors import KdlibError
from kdlib.files import load_tensors
from kdlib.models import create_model
from kdlib.runs import read_record, run_directory
from kdlib.train import fit
from study.analyses.files import load_answers, read_analysis
from study.notebooks import parse_value


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self):
        return open, (self.marker, "w")


def hostile(marker: Path) -> dict[str, bytes]:
    """A bomb in each form in which files of numbers may come."""
    bomb, array, saved = Bomb(marker), io.BytesIO(), io.BytesIO()
    np.save(array, np.array([bomb], dtype=object), allow_pickle=True)
    torch.save({"a": bomb}, saved)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a.npy", array.getvalue())
    return {"pickle": pickle.dumps(bomb), "npy": array.getvalue(), "torch": saved.getvalue(),
            "npz": archive.getvalue()}  # fmt: skip


FORMS = ("pickle", "npy", "torch", "npz")


@pytest.mark.parametrize("form", ["pickle", "torch", "npy"])
def test_the_bombs_are_live(tmp_path, form):
    content = io.BytesIO(hostile(tmp_path / "marker")[form])
    loads: dict[str, Callable] = {
        "pickle": pickle.load,
        "torch": lambda file: torch.load(file, weights_only=False),
        "npy": lambda file: np.load(file, allow_pickle=True),
    }
    loads[form](content)
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("name", "load"),
    [
        ("weights.safetensors", load_tensors),
        ("answers.safetensors", lambda path: load_answers(path.parent)),
        ("record.json", read_record),
        ("analysis.json", read_analysis),
    ],
)
def test_files_of_a_run(tmp_path, form, name, load, tally):
    path = tmp_path / name
    path.write_bytes(hostile(tmp_path / "marker")[form])
    with pytest.raises(KdlibError, match=re.escape(name)):
        load(path)
    assert not (tmp_path / "marker").exists()
    tally(f"hostile {form}", "told")


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint(taught, tmp_path, form, tally):
    root = copy_of(taught, tmp_path / "runs")
    directory = run_directory(tiny(), root)
    directory.mkdir()
    (directory / "checkpoint.safetensors").write_bytes(hostile(tmp_path / "marker")[form])
    with pytest.raises(KdlibError, match=r"checkpoint\.safetensors.*Delete"):
        fit([tiny()], root, progress=False)
    assert not (tmp_path / "marker").exists()
    tally(f"hostile {form}", "told")


def rows(numbers: np.ndarray) -> dict[str, np.ndarray]:
    return {"a": numbers}


@pytest.mark.parametrize("form", FORMS)
def test_a_cache(tmp_path, monkeypatch, form, tally):
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path))
    cached("small", 3, rows, progress=False)
    path = tmp_path / "small" / "a.npy"
    path.write_bytes(hostile(tmp_path / "marker")[form])
    assert cached("small", 3, rows, progress=False)["a"].tolist() == [0, 1, 2]
    assert not (tmp_path / "marker").exists()
    tally(f"hostile {form}", "recovered")


@pytest.mark.parametrize("form", FORMS)
def test_resized_photographs(tmp_path, monkeypatch, form, tally):
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
    root = write_mit67(tmp_path)
    opened = open_source(resolve_name(listed()["mit67"]), "train", 28, root)
    folder = build(opened, workers=1, progress=False)
    for path in folder.rglob("*.npy"):
        path.write_bytes(hostile(tmp_path / "marker")[form])
    assert len(load_data("mit67", "train", image_size=28, data_root=root)) == 8
    assert build(opened, workers=1, progress=False) == folder and Resized(opened).is_whole()
    assert not (tmp_path / "marker").exists()
    tally(f"hostile {form}", "recovered")


@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_pretrained_weights(tmp_path, monkeypatch, form, tally):
    """torchvision would unpickle whatever lies where its download would."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    url = models.get_model_weights("resnet18")["IMAGENET1K_V1"].url
    (folder / url.rsplit("/", 1)[1]).write_bytes(hostile(tmp_path / "marker")[form])
    with pytest.raises(KdlibError, match="no weights 'IMAGENET1K_V1'; delete it"):
        create_model("resnet18", 10, weights="IMAGENET1K_V1")
    assert not (tmp_path / "marker").exists()
    tally(f"hostile {form}", "told")


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
    found = {
        path.name
        for path in Path(kdlib.__file__).parent.rglob("*.py")
        if dangerous.search(path.read_text(encoding="utf-8"))
    }
    assert found == set()
