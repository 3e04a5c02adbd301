"""What every data set has in common: names, tasks, sizes, and what is told when it is not there."""

import pytest
import torch
from data_files import write_cifar100, write_fashion

from kdlib.data import DATASETS, dataset_names, listed, load_data, register_data, tasks_of
from kdlib.data.image_data import ImageData
from kdlib.errors import KdlibError

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"name": "scene"}, "Unknown data set.*Did you mean 'scenes'"),
        ({"split": "validation"}, "Unknown split.*dev, fit, test, train"),
        ({"task": "segmentatoin"}, "Did you mean 'segmentation'"),
        ({"name": "mit67", "task": "segmentation"}, "mit67.*segmentation.*scenes, fashion_scenes"),
        (
            {"name": "cifar100", "task": "detection"},
            "scenes, fashion_scenes, voc, coco",
        ),
        ({"name": "voc"}, "'voc' has no truth for task 'classification'"),
        ({"size": 1}, "size is 1; it must be at least 2, or None for all"),
        ({"size": -1}, "at least 2"),
        ({"crop_size": 7}, "crop_size is 7; it must be a whole number, 8 to 512"),
        ({"image_size": 1000}, "image_size is 1000; it must be a whole number, 16 to 512"),
        ({"name": "cifar100"}, "KDLIB_DATA"),
        ({"name": "cifar100", "data_root": "/nowhere"}, "/nowhere is not a folder"),
    ],
)
def test_what_cannot_be_loaded_is_refused_and_what_is_valid_told(given, says):
    with pytest.raises(KdlibError, match=says):
        load_data(**{"name": "scenes", "split": "train", **given})


def test_which_tasks_a_data_set_has_the_truth_for():
    every = ("classification", "segmentation", "detection", "crops")
    assert tasks_of("scenes") == tasks_of("fashion_scenes") == every
    assert (tasks_of("voc"), tasks_of("coco")) == (every[1:], every[2:])
    assert all(tasks_of(name) == every[:1] for name in (*listed(), "cifar100", "fashion_mnist"))


@pytest.mark.parametrize("name", [*DATASETS])
def test_a_data_set_that_is_not_there_shows_its_layout_and_how_to_get_it(tmp_path, name):
    if name == "scenes":
        assert len(load_data(name, "train", size=2, image_size=16)) == 2
        return
    with pytest.raises(KdlibError, match="(?s)is missing. Expected:\n  ROOT/.*To get it") as error:
        load_data(name, "train", task=tasks_of(name)[0], image_size=28, data_root=tmp_path)
    assert len(str(error.value).splitlines()) < 15


def test_the_smallest_set_still_has_both_parts(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_DATA", str(write_fashion(tmp_path)))
    for name in ("scenes", "fashion_mnist"):
        parts = [load_data(name, part, size=2, image_size=16) for part in ("fit", "dev")]
        assert [len(part) for part in parts] == [1, 1]


def test_a_data_set_of_ones_own(monkeypatch):
    def mine(split: str, size: int | None, **options: object) -> ImageData:
        labels = torch.arange(size or 10) % 2
        images = labels[:, None, None, None].expand(-1, 3, 8, 8).byte()
        return ImageData(images, labels, ("a", "b"), (0.0,) * 3, (1.0,) * 3, split)

    monkeypatch.setattr("kdlib.data.DATASETS", dict(DATASETS))
    register_data("mine", "Two grey levels", images=mine)
    assert "mine" in dataset_names() and tasks_of("mine") == ("classification",)
    assert len(load_data("mine", "fit")) == 8 and load_data("mine", "test").fingerprint == "test"
    with pytest.raises(KdlibError, match="There is a data set 'mine' already"):
        register_data("mine", "Another", images=mine)


@pytest.mark.parametrize("image_size", [32, 48])
def test_cifar100_is_read_in_its_own_format(tmp_path, monkeypatch, image_size):
    root = write_cifar100(tmp_path, monkeypatch)
    data = load_data("cifar100", "train", size=12, image_size=image_size, data_root=root)
    assert data.images.shape == (12, 3, image_size, image_size) and data.images.dtype == torch.uint8
    assert data.labels.tolist() == list(range(12)) and len(data.classes) == 100


@pytest.mark.parametrize("damaged", ["train", "test", "meta"])
def test_files_of_cifar100_that_were_not_published_are_never_unpickled(
    tmp_path, monkeypatch, damaged
):
    path = write_cifar100(tmp_path, monkeypatch) / "cifar-100-python" / damaged
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(KdlibError, match=f"{damaged} is not the published file"):
        load_data("cifar100", "train", image_size=32, data_root=tmp_path)
