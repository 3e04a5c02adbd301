"""Fashion-MNIST and its scenes: plain or gzipped files, damage named, the real files if here."""

import gzip
import shutil

import pytest
import torch
from data_files import FASHION, write_fashion

from kdlib.data import load_data
from kdlib.data.fashion import CLASSES, COLOURS, OUTFITS, dyed
from kdlib.errors import KdlibError
from study.data_commands import DEBIAN, SHA256, import_dataset

pytestmark = pytest.mark.usefixtures("own_cache")
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def test_plain_and_gzipped_files_give_the_same_images(tmp_path):
    roots = [write_fashion(tmp_path / str(packed), packed=packed) for packed in (False, True)]
    plain, packed = (load_data("fashion_mnist", "train", image_size=32, data_root=r) for r in roots)
    assert plain.images.shape == (60, 3, 32, 32) and plain.labels.dtype == torch.int64
    assert torch.equal(plain.images, packed.images) and plain.fingerprint == packed.fingerprint


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    "damage", [lambda content: content[:-9], lambda content: b"\1" * 40, lambda content: b""]
)
@pytest.mark.parametrize("name", [IMAGES, LABELS])
def test_a_damaged_file_is_named(tmp_path, packed, damage, name):
    root = write_fashion(tmp_path, packed=packed)
    path = root / FASHION / (name + ".gz" * packed)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(KdlibError, match=f"{name}.*(damaged|hold)"):
        load_data("fashion_mnist", "train", data_root=root)


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    root, other = write_fashion(tmp_path), write_fashion(tmp_path / "other", count=70)
    shutil.copy(other / FASHION / LABELS, root / FASHION / LABELS)
    with pytest.raises(KdlibError, match="60, 28, 28.*70 labels"):
        load_data("fashion_mnist", "train", data_root=root)
    path = write_fashion(tmp_path) / FASHION / LABELS
    path.write_bytes(path.read_bytes()[:-1] + bytes([len(CLASSES)]))
    with pytest.raises(KdlibError, match="labels from 0 to 9"):
        load_data("fashion_mnist", "train", data_root=tmp_path)


def test_a_missing_file_names_all_and_the_command(tmp_path):
    with pytest.raises(KdlibError, match="is missing") as error:
        load_data("fashion_mnist", "train", data_root=tmp_path)
    assert all(name in str(error.value) for name in (*SHA256, "kdlib data import"))


def test_an_outfit_has_no_garment_nor_colour_twice_and_shares_none_with_another():
    objects = [(garment, colour) for o in OUTFITS.values() for garment, colour in o.items()]
    assert len(set(objects)) == len(objects) == 4 * len(OUTFITS)
    assert {garment for garment, _ in objects} == set(CLASSES)
    assert all(len(set(outfit.values())) == 4 for outfit in OUTFITS.values())
    assert {colour for _, colour in objects} == set(COLOURS)


@pytest.mark.parametrize(("attentions", "distractors"), [(1, 0), (2, 4), (3, 4), (4, 4)])
@pytest.mark.parametrize("task", ["classification", "segmentation"])
def test_scenes_of_garments_compose(tmp_path, attentions, distractors, task):
    data = load_data(
        "fashion_scenes", "train", size=40, image_size=32, data_root=write_fashion(tmp_path),
        attentions=attentions, distractors=distractors, task=task,
    )  # fmt: skip
    assert data.images.shape == (40, 3, 32, 32)
    if task == "segmentation":
        assert len(data.classes) == 51 and (data.masks > 0).any((1, 2)).all()
    else:
        assert torch.bincount(data.labels).tolist() == [4] * 10
        assert data.relevance(torch.arange(40)).any((1, 2)).all()


def test_scenes_that_the_files_do_not_suffice_for_are_refused(tmp_path):
    options = {"size": 10, "data_root": write_fashion(tmp_path, count=20)}
    with pytest.raises(KdlibError, match="too few photographs"):
        load_data("fashion_scenes", "train", **options)
    with pytest.raises(KdlibError, match="distractors is 40"):
        load_data("fashion_scenes", "train", attentions=1, distractors=40, **options)


def test_dyed_garments_are_transparent_where_the_photograph_is_black():
    photograph = torch.tensor([[[0, 5, 200]]], dtype=torch.uint8)
    red, green, _, opacity = dyed(photograph, COLOURS["red"])[0]
    assert opacity.flatten().tolist() == [0, 20, 255]
    assert red.flatten()[2] > green.flatten()[2]


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_the_packaged_files_can_be_imported_and_read(tmp_path):
    root = tmp_path / "data"
    assert str(root / FASHION) in import_dataset("fashion_mnist", None, root)
    train = load_data("fashion_mnist", "train", image_size=32, data_root=root)
    assert torch.bincount(train.labels).tolist() == [6000] * 10
    assert train.images.float().mean() / 255 == pytest.approx(0.2860 * (28 / 32) ** 2, abs=1e-3)
    scenes = load_data("fashion_scenes", "test", size=20, data_root=root)
    assert scenes.images.shape == (20, 3, 64, 64)


def test_files_that_cannot_be_imported_are_named_and_nothing_changes(tmp_path):
    source = write_fashion(tmp_path / "source", packed=True) / FASHION
    with pytest.raises(KdlibError, match="not the published file"):
        import_dataset("fashion_mnist", source, tmp_path / "data")
    for name in SHA256:
        (source / f"{name}.gz").write_bytes(gzip.compress(b"x")[:-4])
    with pytest.raises(KdlibError, match="cannot be read"):
        import_dataset("fashion_mnist", source, tmp_path / "data")
    with pytest.raises(KdlibError, match=IMAGES):
        import_dataset("fashion_mnist", tmp_path, tmp_path)
    with pytest.raises(KdlibError, match="Unknown data set to import 'scenes'"):
        import_dataset("scenes", tmp_path, tmp_path)
    assert not list((tmp_path / "data").rglob("*ubyte*"))
