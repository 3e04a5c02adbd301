"""Photographs: the lists' splits, torchvision's pixels, windows to every edge, damage named."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import photograph, stored, turned, write_mit67, write_photographs
from PIL import Image, ImageOps
from torchvision import transforms

from kdlib import KdlibError, load_data
from kdlib.data import photographs
from kdlib.data.batches import Batches
from kdlib.data.photographs import Resized, decoded, worker_count
from kdlib.data.published import list_imagefolder
from study.cli import main

SIZES = [(60, 40), (40, 60), (33, 32), (200, 31), (32, 32), (29, 47)]
EXPECTED = {
    "mit67": (("airport_inside", "bakery"), [4, 4], [4, 4]),
    "sun397": (("abbey", "bow_window/indoor", "airport"), [3, 3, 3], [3, 3, 3]),
    "ade20k": (("abbey", "bakery", "misc", "zoo"), [1, 0, 2, 0], [0, 1, 1, 1]),
    "places365": (("/a/airfield", "/b/bakery/shop"), [1, 1], [1, 1]),
    "imagefolder": (("cat", "dog"), [6, 6], [6, 6]),
}


def write_folder(root: Path, test: str = "val") -> Path:
    for number, size in enumerate(SIZES):
        for name in ("cat", "dog"):
            for split in ("train", test):
                photograph(root / split / name / f"{number}.png", number, size)
    return root


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data root that holds all of them, and the photographs of an image folder."""
    return write_folder(write_photographs(tmp_path, monkeypatch))


def load(root, name: str, split: str = "train", size: int | None = None):
    return load_data(name, split, size=size, image_size=28, data_root=root)


def test_splits_classes_and_labels_are_those_of_the_lists(root):
    for name, (classes, *expected) in EXPECTED.items():
        for split, counts in zip(("train", "test"), expected, strict=True):
            data = load(root, name, split)
            found = torch.bincount(data.labels, minlength=len(data.classes)).tolist()
            assert (data.classes, found) == (classes, counts)
            assert data.images.centres().shape == (sum(counts), 3, 28, 28)
            listing = data.images.read.__self__.listing
            assert [listing.labels[n] for n in data.images.positions] == data.labels.tolist()
        if name in ("mit67", "imagefolder", "sun397"):
            names = [listing.names[n] for n in data.images.positions]
            assert all(data.classes[k] in path for k, path in zip(data.labels, names, strict=True))
            assert names != sorted(names), "the first are of all classes alike"


def test_the_fingerprint_knows_the_content_and_not_the_place(root, tmp_path_factory):
    first, elsewhere = load(root, "mit67").fingerprint, tmp_path_factory.mktemp("elsewhere")
    assert load(write_mit67(elsewhere), "mit67").fingerprint == first
    photograph(elsewhere / "mit67" / "Images" / "bakery" / "train_0.jpg", 99)
    others = (load(elsewhere, "mit67"), load(root, "mit67", "test"), load(root, "mit67", size=3))
    assert len({first, *(other.fingerprint for other in others)}) == 4


@pytest.mark.parametrize(("noted", "cache"), [(1 << 26, "cache"), (0, "cache"), (0, "file/cache")])
def test_other_bytes_of_the_same_size_and_date_are_other_content(
    noted, cache, tmp_path, monkeypatch
):
    (tmp_path / "file").touch()  # in which nothing can be noted
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / cache))
    monkeypatch.setattr(photographs, "QUICKLY_READ", noted)
    path = write_mit67(tmp_path) / "mit67" / "Images" / "bakery" / "train_0.jpg"
    content, found, before = path.read_bytes(), path.stat(), load(tmp_path, "mit67").fingerprint
    assert load(tmp_path, "mit67").fingerprint == before
    path.write_bytes(content[:-9] + b"\0" + content[-8:])
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert path.stat().st_size == found.st_size
    assert load(tmp_path, "mit67").fingerprint != before


def test_missing_photographs_are_counted_and_the_first_are_shown(tmp_path):
    for path in sorted(write_mit67(tmp_path, 30).rglob("*[Tt]ra*.jpg"))[1:]:
        path.unlink()
    says = "(?s)59 of 60 photographs are missing.*train_20.jpg\n  ... and 39 more.*To get them"
    with pytest.raises(KdlibError, match=says):
        load(tmp_path, "mit67")


@pytest.mark.parametrize(("name", "file", "line", "says"), [
    ("mit67", "mit67/TrainImages.txt", "bakery", r"TrainImages\.txt, line 9: 'bakery'"),
    ("mit67", "mit67/TestImages.txt", "../x.jpg", "line 9"),
    ("mit67", "mit67/TestImages.txt", "church/x.jpg", r"(?s)TestImages\.txt has 3.*church"),
    ("mit67", "mit67/TestImages.txt", "bakery/train_0.jpg", "in the training and in the test"),
    ("sun397", "SUN397/Training_01.txt", "a/abbey/x.jpg", r"Training_01\.txt, line 10"),
    ("sun397", "SUN397/Training_01.txt", "/a/../x.jpg", r"Training_01\.txt, line 10"),
    ("sun397", "SUN397/Training_01.txt", "/a/attic/x.jpg", r"(?s)g_01\.txt has 4.*a/attic"),
    ("sun397", "SUN397/ClassName.txt", "/a/attic", r"(?s)a/attic"),
    ("ade20k", "ADEChallengeData2016/sceneCategories.txt", "ADE_val_00000009", "line 7"),
    ("ade20k", "ADEChallengeData2016/sceneCategories.txt", "ADE_x_1 zoo", "line 7"),
    ("mit67", "mit67/TrainImages.txt", None, r"TrainImages\.txt is empty"),
    ("places365", "places365/places365_val.txt", None, r"MD5 sum .*val\.txt"),
])  # fmt: skip
def test_a_list_that_is_wrong_is_refused_with_its_line(root, name, file, line, says):
    text = (root / file).read_text()
    (root / file).write_text(f"{text}{line}\n" if line else "\n")
    with pytest.raises(KdlibError, match=says):
        load(root, name, "test" if name == "places365" else "train")


def test_folders_need_the_same_classes_in_both_splits_and_none_empty(tmp_path):
    root = write_folder(tmp_path, "test")
    assert load(root, "imagefolder", "test").fingerprint == load(root, "imagefolder").fingerprint
    for split, says in (
        ("train", "(?s)same classes.*bird"),
        ("test", "(?s)1 of 3.*bird"),
    ):
        (root / split / "bird").mkdir()
        with pytest.raises(KdlibError, match=says):
            load(root, "imagefolder")
    for folder in (*root.glob("*/bird"), *root.glob("*/dog")):
        shutil.rmtree(folder)
    with pytest.raises(KdlibError, match=r"imagefolder, train: .*one class alone \(cat\)"):
        load(root, "imagefolder")


HIDDEN, OTHER = "hidden files, left out: 1.", "other files, left out: 1, such as "


@pytest.mark.parametrize(("name", "says"), [
    *((name, HIDDEN) for name in (
        ".ipynb_checkpoints/a.jpg", "cat/.ipynb_checkpoints/0-checkpoint.png", "cat/._0.png",
        "__MACOSX/cat/a.png", "cat/__MACOSX/a.jpg", ".DS_Store", "cat/@eaDir/0.png", ".git/a/b.png",
    )),
    *((name, OTHER + name) for name in (
        "cat/film.gif", "cat/new.heic", "loose.png", "dog/README", "dog/in/a.avif",
    )),
])  # fmt: skip
def test_what_is_no_data_is_left_out_and_counted_in_a_line(tmp_path, name, says, capsys):
    before = load(write_folder(tmp_path), "imagefolder")
    for split in ("train", "val"):
        path = tmp_path / split / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((tmp_path / "train" / "cat" / "0.png").read_bytes())
    data = load(tmp_path, "imagefolder")
    assert (data.fingerprint, data.classes) == (before.fingerprint, before.classes)
    told = capsys.readouterr().err
    assert f"{tmp_path / 'train'}: {says}" in told and len(told.splitlines()) == 1


def test_pixels_are_torchvision_s_to_the_bit(tmp_path):
    data = load(write_folder(tmp_path), "imagefolder", "test")
    for position, found in zip(data.images.positions, data.images.centres(), strict=True):
        path = data.images.read.__self__.listing.path(position)
        with Image.open(path) as picture:
            resized = transforms.Resize(32)(picture.convert("RGB"))
            assert decoded(path).shape == (*picture.size[::-1], 3)
        assert torch.equal(found, transforms.PILToTensor()(transforms.CenterCrop(28)(resized)))
        assert np.array_equal(decoded(path, 32), np.asarray(resized))
    assert Resized(list_imagefolder, "test", 224, tmp_path).side == 256


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "LA", "1", "I;16"])
def test_every_colour_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / f"odd.{'png' if mode != 'CMYK' else 'jpg'}"
    picture = Image.new("RGB", (30, 20), "red")
    if mode == "I;16":  # a grey image of 16 bits keeps its tones
        picture = Image.fromarray(np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16))
    else:
        picture = picture.convert(mode)
    picture.save(path)
    pixels = decoded(str(path))
    assert pixels.shape == (20, 30, 3) and pixels.dtype == np.uint8
    if mode == "I;16":
        assert pixels[0].mean() < 60 and pixels[-1].mean() > 195 and len(np.unique(pixels)) > 50


@pytest.mark.parametrize("tag", [0, 1, *range(2, 9), 9, 77])
@pytest.mark.parametrize("kind", ["png", "tif"])
def test_exif_makes_a_photograph_upright_before_it_is_resized(tmp_path, kind, tag):
    path, (width, height) = tmp_path / f"a.{kind}", (30, 20)
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    seen = Image.fromarray(pixels)
    if tag in range(2, 9):
        turned(path, seen, tag)
    else:  # means nothing
        stored(path, seen, tag)
    assert np.array_equal(decoded(str(path)), pixels)
    with Image.open(path) as picture:
        assert np.array_equal(ImageOps.exif_transpose(picture), pixels)
    assert np.array_equal(decoded(str(path), 10), np.asarray(transforms.Resize(10)(seen)))


def test_a_file_that_is_broken_is_named_in_the_middle_of_an_epoch(tmp_path):
    path = write_folder(tmp_path) / "train" / "dog" / "3.png"
    whole = path.read_bytes()
    for content in (b"", b"not an image", whole[:8] + b" broken", whole[:-200]):
        path.write_bytes(content)
        with pytest.raises(KdlibError, match=r"dog.3\.png cannot be read"):
            list(Batches(load(tmp_path, "imagefolder"), 2, ("flip",)).epoch(0, 0))


def test_processes_of_a_machine_share_its_cores_and_no_worker_at_all_is_refused(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(12), raising=False)
    monkeypatch.delenv("KDLIB_WORKERS", raising=False)
    for size, workers in ((4, 3), (64, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(size))
        assert worker_count() == workers
    for given in ("0", "-1", "many"):
        monkeypatch.setenv("KDLIB_WORKERS", given)
        with pytest.raises(KdlibError, match="KDLIB_WORKERS"):
            worker_count()


def test_a_check_says_how_many_it_has_read_and_can_read_all(tmp_path, capsys):
    for number in range(60):
        for name in ("train/cat", "train/dog", "test/cat", "test/dog"):
            photograph(tmp_path / name / f"{number}.png", number)
    check, root = ["data", "check", "imagefolder", "--data-root"], str(tmp_path)
    assert main([*check, root]) == 0
    assert "imagefolder, train: 64 of 120 images read, 2 classes" in capsys.readouterr().out
    source = load(tmp_path, "imagefolder").images
    last = source.read.__self__.listing.path(source.positions[-1])
    Path(last).write_bytes(Path(last).read_bytes()[:-40])
    assert (main([*check, root]), main([*check, root, "--all"])) == (0, 2)
    assert f"{last} cannot be read" in capsys.readouterr().err
