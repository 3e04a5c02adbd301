"""Data sets: names, tasks and sizes, what is told when one is missing; Fashion-MNIST, CIFAR-100."""

import gzip
import re
import shutil
from pathlib import Path

import pytest
import torch
from data_files import FASHION, write_cifar100, write_fashion

from kdlib.data import DATASETS, dataset_names, listed, load_data, register_data, tasks_of
from kdlib.data.fashion import CLASSES
from kdlib.errors import KdlibError
from study.data_commands import DEBIAN, SHA256, import_dataset

IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(("given", "says"), [
    ({"name": "scene"}, "Unknown data set.*Did you mean 'scenes'"),
    ({"split": "validation"}, "Unknown split.*dev, fit, test, train"),
    ({"name": "mit67", "task": "segmentation"}, "mit67.*segmentation.*scenes, fashion_scenes"),
    ({"name": "voc"}, "'voc' has no truth for task 'classification'"),
    ({"size": 1}, "size is 1; it must be at least 2, or None for all"),
    ({"crop_size": 7}, "crop_size is 7; it must be a whole number, 8 to 512"),
    ({"image_size": 1000}, "image_size is 1000; it must be a whole number, 16 to 512"),
    ({"name": "cifar100"}, "KDLIB_DATA"),
    ({"name": "cifar100", "data_root": "/nowhere"}, "/nowhere is not a folder"),
])  # fmt: skip
def test_what_cannot_be_loaded_is_refused_and_what_is_valid_told(given, says):
    with pytest.raises(KdlibError, match=says):
        load_data(**{"name": "scenes", "split": "train", **given})


def test_which_tasks_a_data_set_has_the_truth_for():
    every = ("classification", "segmentation", "detection", "crops")
    assert tasks_of("scenes") == tasks_of("fashion_scenes") == every
    assert (tasks_of("voc"), tasks_of("coco")) == (every[1:], every[2:])
    assert all(tasks_of(name) == every[:1] for name in (*listed(), "cifar100", "fashion_mnist"))


@pytest.mark.parametrize("name", sorted(DATASETS.keys() - {"scenes", "joint_scenes"}))
def test_a_data_set_that_is_not_there_shows_its_layout_and_how_to_get_it(tmp_path, name):
    with pytest.raises(KdlibError, match="(?s)is missing. Expected:\n  ROOT/.*To get it") as error:
        load_data(name, "train", task=tasks_of(name)[0], image_size=28, data_root=tmp_path)
    assert len(str(error.value).splitlines()) < 15
    if "fashion" in name:
        assert all(part in str(error.value) for part in (*SHA256, "kdlib data import"))


def test_a_data_set_of_ones_own_as_the_page_says(tmp_path, monkeypatch):
    monkeypatch.setattr("kdlib.data.DATASETS", dict(DATASETS))
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8")
    for script in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(script, {})
    assert "greys" in dataset_names() and tasks_of("greys") == ("classification",)
    assert [len(load_data("greys", part, size=5)) for part in ("fit", "dev", "test")] == [4, 1, 5]
    assert len(list(tmp_path.glob("runs/*/record.json"))) == 2
    with pytest.raises(KdlibError, match="There is a data set 'greys' already"):
        register_data("greys", "Another")


def test_cifar100_is_read_in_its_own_format_and_only_the_published_files(tmp_path, monkeypatch):
    root = write_cifar100(tmp_path, monkeypatch)
    for size in (32, 48):
        data = load_data("cifar100", "train", size=12, image_size=size, data_root=root)
        assert data.images.shape == (12, 3, size, size) and data.images.dtype == torch.uint8
        assert data.labels.tolist() == list(range(12)) and len(data.classes) == 100
    for name in ("meta", "test", "train"):  # which may be pickles that run code
        path = root / "cifar-100-python" / name
        path.write_bytes(path.read_bytes() + b"\0")
        with pytest.raises(KdlibError, match="(?s)published MD5 sum.*is missing. Expected"):
            load_data("cifar100", "train", image_size=32, data_root=root)
        path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("packed", [False, True])
def test_fashion_mnist_is_read_plain_or_gzipped_and_a_damaged_file_is_named(tmp_path, packed):
    roots = [write_fashion(tmp_path / name, packed=bool(name) and packed) for name in ("", "other")]
    plain, other = (load_data("fashion_mnist", "train", image_size=32, data_root=r) for r in roots)
    assert plain.images.shape == (60, 3, 32, 32) and plain.labels.dtype == torch.int64
    assert torch.equal(plain.images, other.images) and plain.fingerprint == other.fingerprint
    for name in (IMAGES, LABELS):
        path = roots[1] / FASHION / (name + ".gz" * packed)
        whole = path.read_bytes()
        for damaged in (whole[:-9], b"\1" * 40, b""):
            path.write_bytes(damaged)
            with pytest.raises(KdlibError, match=f"{name}.*(damaged|hold)"):
                load_data("fashion_mnist", "train", data_root=roots[1])
        path.write_bytes(whole)


def test_files_that_do_not_belong_together_or_do_not_suffice_are_refused(tmp_path):
    root, other = write_fashion(tmp_path), write_fashion(tmp_path / "other", count=70)
    shutil.copy(other / FASHION / LABELS, root / FASHION / LABELS)
    with pytest.raises(KdlibError, match="60, 28, 28.*70 labels"):
        load_data("fashion_mnist", "train", data_root=root)
    path = write_fashion(root) / FASHION / LABELS
    path.write_bytes(path.read_bytes()[:-1] + bytes([len(CLASSES)]))
    with pytest.raises(KdlibError, match="labels from 0 to 9"):
        load_data("fashion_mnist", "train", data_root=root)
    with pytest.raises(KdlibError, match="too few photographs"):
        load_data("fashion_scenes", "train", size=10, data_root=write_fashion(root, count=20))


@pytest.mark.parametrize(("attentions", "distractors"), [(1, 0), (2, 4), (3, 4), (4, 4)])
def test_scenes_of_garments_compose(tmp_path, attentions, distractors):
    options = {"size": 40, "image_size": 32, "data_root": write_fashion(tmp_path),
               "attentions": attentions, "distractors": distractors}  # fmt: skip
    data = load_data("fashion_scenes", "train", **options)
    masks = load_data("fashion_scenes", "train", task="segmentation", **options)
    assert data.images.shape == (40, 3, 32, 32) and torch.equal(data.images, masks.images)
    assert len(masks.classes) == 51 and (masks.masks > 0).any((1, 2)).all()
    assert torch.bincount(data.labels).tolist() == [4] * 10
    assert data.relevance(torch.arange(40)).any((1, 2)).all()


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_the_packaged_files_can_be_imported_and_read(tmp_path, capsys):
    import_dataset("fashion_mnist", data_root=tmp_path)
    assert str(tmp_path / FASHION) in capsys.readouterr().out
    train = load_data("fashion_mnist", "train", image_size=32, data_root=tmp_path)
    assert torch.bincount(train.labels).tolist() == [6000] * 10
    assert train.images.float().mean() / 255 == pytest.approx(0.2860 * (28 / 32) ** 2, abs=1e-3)


def test_files_that_cannot_be_imported_are_named_and_nothing_changes(tmp_path):
    source, data = write_fashion(tmp_path / "source", packed=True) / FASHION, tmp_path / "data"
    cases = [("fashion_mnist", source, "not the published file"),
             ("fashion_mnist", source, "cannot be read"), ("fashion_mnist", tmp_path, IMAGES),
             ("scenes", tmp_path, "Unknown data set to import 'scenes'")]  # fmt: skip
    for name, folder, says in cases:
        with pytest.raises(KdlibError, match=says):
            import_dataset(name, source=folder, data_root=data)
        for path in source.iterdir():
            path.write_bytes(gzip.compress(b"x")[:-4])
    assert not list(data.rglob("*ubyte*"))
