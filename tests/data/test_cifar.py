"""CIFAR-100 through torchvision: read from its own format, refused when not the published one."""

import pytest
import torch
from data_files import write_cifar100

from kdlib.data import load_data
from kdlib.errors import KdlibError


@pytest.mark.parametrize("image_size", [32, 48])
def test_the_on_disk_format_is_read(tmp_path, monkeypatch, image_size):
    root = write_cifar100(tmp_path, monkeypatch)
    data = load_data("cifar100", "train", size=12, image_size=image_size, data_root=root)
    assert data.images.shape == (12, 3, image_size, image_size)
    assert data.images.dtype == torch.uint8
    assert data.labels.tolist() == list(range(12))
    assert len(data.classes) == 100


@pytest.mark.parametrize("damaged", ["train", "test", "meta"])
def test_files_that_were_not_published_are_never_unpickled(tmp_path, monkeypatch, damaged):
    root = write_cifar100(tmp_path, monkeypatch)
    path = root / "cifar-100-python" / damaged
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(KdlibError, match=f"{damaged}: not the published file"):
        load_data("cifar100", "train", image_size=32, data_root=root)


def test_a_missing_data_set_shows_the_layout_and_the_command(tmp_path):
    with pytest.raises(KdlibError, match="cifar-100-python/train") as error:
        load_data("cifar100", "train", data_root=tmp_path)
    assert "download=True" in str(error.value)
