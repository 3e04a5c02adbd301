"""Fashion-MNIST and its scenes: plain or gzipped files, damage named, the real files if here."""

import gzip
import shutil
from pathlib import Path

import pytest
import torch
from data_files import FASHION, write_fashion

from kdlib.data import load_data
from kdlib.data.fashion import (
    CLASSES,
    COLOURS,
    DEBIAN,
    OUTFITS,
    SHA256,
    dyed,
    import_dataset,
    outfits,
)
from kdlib.errors import KdlibError

needs_real_files = pytest.mark.skipif(
    not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed"
)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KDLIB_DATA", raising=False)


@pytest.mark.parametrize("packed", [False, True])
def test_plain_and_gzipped_files_give_the_same_images(tmp_path, packed):
    plain = load_data("fashion_mnist", "train", image_size=32, data_root=write_fashion(tmp_path))
    root = write_fashion(tmp_path / "other", packed=packed)
    other = load_data("fashion_mnist", "train", image_size=32, data_root=root)
    assert plain.images.shape == (60, 3, 32, 32)
    assert torch.equal(plain.images, other.images) and plain.fingerprint == other.fingerprint


def test_the_data_root_can_come_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("KDLIB_DATA", str(write_fashion(tmp_path)))
    assert len(load_data("fashion_mnist", "test", size=5, image_size=28)) == 5


def test_a_missing_data_set_names_every_file_and_the_command(tmp_path):
    with pytest.raises(KdlibError, match="is missing") as error:
        load_data("fashion_mnist", "train", data_root=tmp_path)
    assert all(name in str(error.value) for name in SHA256)
    assert "kdlib data import" in str(error.value)


def test_no_data_root_says_how_to_name_one():
    with pytest.raises(KdlibError, match="KDLIB_DATA"):
        load_data("fashion_mnist", "train")


def test_a_data_root_that_is_no_folder_is_named(tmp_path):
    with pytest.raises(KdlibError, match="not a folder"):
        load_data("fashion_mnist", "train", data_root=tmp_path / "nowhere")


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("damage", [lambda content: content[:-9], lambda content: b"\1" * 40])
def test_a_damaged_file_is_named(tmp_path, packed, damage):
    root = write_fashion(tmp_path, packed=packed)
    name = "train-images-idx3-ubyte" + (".gz" if packed else "")
    path = root / FASHION / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(KdlibError, match="train-images.*(damaged|hold)"):
        load_data("fashion_mnist", "train", data_root=root)


def test_files_of_unequal_length_are_refused(tmp_path):
    root, other = write_fashion(tmp_path), write_fashion(tmp_path / "other", count=70)
    name = "train-labels-idx1-ubyte"
    shutil.copy(other / FASHION / name, root / FASHION / name)
    with pytest.raises(KdlibError, match="60, 28, 28.*70 labels"):
        load_data("fashion_mnist", "train", data_root=root)


def test_a_label_out_of_range_is_refused(tmp_path):
    path = write_fashion(tmp_path) / FASHION / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1] + bytes([len(CLASSES)]))
    with pytest.raises(KdlibError, match="labels from 0 to 9"):
        load_data("fashion_mnist", "train", data_root=tmp_path)


def test_an_outfit_has_no_garment_nor_colour_twice_and_shares_none_with_another():
    objects = [(garment, colour) for o in OUTFITS.values() for garment, colour in o.items()]
    assert len(set(objects)) == len(objects) == 4 * len(OUTFITS)
    assert {garment for garment, _ in objects} == set(CLASSES)
    assert all(len(set(outfit.values())) == 4 for outfit in OUTFITS.values())
    assert {colour for _, colour in objects} == set(COLOURS)


@pytest.mark.parametrize(("attentions", "distractors"), [(1, 0), (2, 4), (3, 4), (4, 4)])
def test_scenes_of_garments_compose(tmp_path, attentions, distractors):
    data = load_data(
        "fashion_scenes", "train", size=40, image_size=32, data_root=write_fashion(tmp_path),
        attentions=attentions, distractors=distractors,
    )  # fmt: skip
    assert data.images.shape == (40, 3, 32, 32)
    assert torch.bincount(data.labels).tolist() == [4] * 10
    assert data.relevance(torch.arange(40)).any((1, 2)).all()


def test_more_distractors_than_the_outfits_allow_are_refused(tmp_path):
    with pytest.raises(KdlibError, match="distractors"):
        outfits("train", attentions=1, distractors=40, data_root=tmp_path)


def test_scenes_need_every_garment_in_every_colour(tmp_path):
    with pytest.raises(KdlibError, match="too few photographs"):
        load_data("fashion_scenes", "train", size=10, data_root=write_fashion(tmp_path, count=20))


def test_dyed_garments_are_transparent_where_the_photograph_is_black():
    photograph = torch.tensor([[[0, 5, 200]]], dtype=torch.uint8)
    red, green, _, opacity = dyed(photograph, COLOURS["red"])[0]
    assert opacity.flatten().tolist() == [0, 20, 255]
    assert red.flatten()[2] > green.flatten()[2]


@needs_real_files
def test_the_packaged_files_can_be_imported_and_read(tmp_path):
    root = tmp_path / "data"
    assert str(root / FASHION) in import_dataset("fashion_mnist", None, root)
    train = load_data("fashion_mnist", "train", image_size=32, data_root=root)
    assert torch.bincount(train.labels).tolist() == [6000] * 10
    assert train.images.float().mean() / 255 == pytest.approx(0.2860 * (28 / 32) ** 2, abs=1e-3)
    scenes = load_data("fashion_scenes", "test", size=20, data_root=root)
    assert scenes.images.shape == (20, 3, 64, 64)


def test_importing_files_that_were_not_published_changes_nothing(tmp_path):
    source = write_fashion(tmp_path / "source", packed=True) / FASHION
    with pytest.raises(KdlibError, match="not the published file"):
        import_dataset("fashion_mnist", source, tmp_path / "data")
    assert not list((tmp_path / "data").rglob("*ubyte*"))


def test_importing_a_damaged_archive_names_it(tmp_path):
    source = write_fashion(tmp_path / "source", packed=True) / FASHION
    path = source / "t10k-labels-idx1-ubyte.gz"
    for name in SHA256:
        (source / f"{name}.gz").write_bytes(gzip.compress(b"x")[:-4])
    with pytest.raises(KdlibError, match="cannot be read"):
        import_dataset("fashion_mnist", path.parent, tmp_path / "data")


def test_importing_from_an_empty_folder_lists_what_is_expected(tmp_path):
    with pytest.raises(KdlibError, match="train-images-idx3-ubyte"):
        import_dataset("fashion_mnist", Path(tmp_path), tmp_path)


def test_a_data_set_that_cannot_be_imported_is_refused(tmp_path):
    with pytest.raises(KdlibError, match="Unknown data set to import 'scenes'"):
        import_dataset("scenes", tmp_path, tmp_path)
