"""Photographs: the lists' splits, torchvision's pixels, windows to every edge, damage named."""

import threading
from pathlib import Path
from pkgutil import resolve_name

import numpy as np
import pytest
import torch
from photographs import (
    numbered,
    photograph,
    write_ade20k,
    write_mit67,
    write_places365,
    write_sun397,
)
from PIL import Image
from torchvision import transforms
from torchvision.datasets import Places365

from kdlib.data import listed, load_data
from kdlib.data.batches import Batches
from kdlib.data.photographs import decoded, open_source, worker_count
from kdlib.data.published import list_imagefolder
from kdlib.errors import KdlibError

pytestmark = pytest.mark.usefixtures("own_cache")
SIZES = [(60, 40), (40, 60), (33, 32), (200, 31), (32, 32), (29, 47)]
EXPECTED = {
    "mit67": (("airport_inside", "bakery"), [4, 4], [4, 4]),
    "sun397": (("abbey", "bow_window/indoor", "airport"), [3, 3, 3], [3, 3, 3]),
    "ade20k": (("abbey", "bakery", "misc", "zoo"), [1, 0, 2, 0], [0, 1, 1, 1]),
    "places365": (("/a/airfield", "/b/bakery/shop"), [1, 1], [1, 1]),
    "imagefolder": (("cat", "dog"), [6, 6], [6, 6]),
}
WRITERS = {"mit67": write_mit67, "sun397": write_sun397, "ade20k": write_ade20k}


def write_folder(root: Path, test: str = "val") -> Path:
    for number, size in enumerate(SIZES):
        for name in ("cat", "dog"):
            for split in ("train", test):
                photograph(root / split / name / f"{number}.png", number, size)
    return root


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data root that holds all of them, and the photographs of an image folder."""
    write_places365(tmp_path, lambda name, value: monkeypatch.setattr(Places365, name, value))
    for write in (*WRITERS.values(), write_folder):
        write(tmp_path)
    return tmp_path


def load(root, name: str, split: str = "train", size: int | None = None):
    return load_data(name, split, size=size, image_size=28, data_root=root)


@pytest.mark.parametrize("name", listed())
def test_splits_classes_and_labels_are_those_of_the_lists(root, name):
    classes, train, test = EXPECTED[name]
    for split, expected in (("train", train), ("test", test)):
        data = load(root, name, split)
        counts = torch.bincount(data.labels, minlength=len(data.classes)).tolist()
        assert (data.classes, counts) == (classes, expected)
        assert data.images.centres().shape == (sum(expected), 3, 28, 28)
        listing = resolve_name(listed()[name])(split, root)
        assert [listing.labels[n] for n in data.images.positions] == data.labels.tolist()
    if name in ("mit67", "imagefolder", "sun397"):
        names = [listing.names[n] for n in data.images.positions]
        assert all(data.classes[k] in path for k, path in zip(data.labels, names, strict=True))
        assert names != sorted(names), "the first are of all classes alike"


def test_the_fingerprint_knows_the_content_and_not_the_place(root, tmp_path_factory):
    first = load(root, "mit67").fingerprint
    elsewhere = write_mit67(tmp_path_factory.mktemp("elsewhere"))
    assert load(elsewhere, "mit67").fingerprint == first
    photograph(elsewhere / "mit67" / "Images" / "bakery" / "train_0.jpg", 99)
    assert load(elsewhere, "mit67").fingerprint != first
    found = {
        load(root, "mit67", "test").fingerprint,
        load(root, "mit67", size=3).fingerprint,
        first,
    }
    assert len(found) == 3


@pytest.mark.parametrize(("name", "total"), [("mit67", 60), ("sun397", 90)])
def test_missing_photographs_are_counted_and_the_first_are_shown(tmp_path, name, total):
    for path in sorted(WRITERS[name](tmp_path, 30).rglob("*[Tt]ra*.jpg"))[1:]:
        path.unlink()
    with pytest.raises(
        KdlibError, match=f"{total - 1} of {total} photographs are missing"
    ) as error:
        load(tmp_path, name)
    lines = str(error.value).splitlines()
    assert sum(line.endswith(".jpg") for line in lines) == 20
    assert any("more" in line for line in lines) and "To get them" in lines[-2]


ADE20K = "ADEChallengeData2016/sceneCategories.txt"


@pytest.mark.parametrize(
    ("name", "file", "line", "says"),
    [
        ("mit67", "mit67/TrainImages.txt", "bakery", r"TrainImages\.txt, line 9: 'bakery'"),
        ("mit67", "mit67/TestImages.txt", "../x.jpg", "line 9"),
        ("mit67", "mit67/TestImages.txt", "church/x.jpg", r"(?s)TestImages\.txt has 3.*church"),
        ("mit67", "mit67/TestImages.txt", "bakery/train_0.jpg", "in the training and in the test"),
        ("sun397", "SUN397/Training_01.txt", "a/abbey/x.jpg", r"Training_01\.txt, line 10"),
        ("sun397", "SUN397/Training_01.txt", "/a/../x.jpg", r"Training_01\.txt, line 10"),
        ("sun397", "SUN397/Training_01.txt", "/a/attic/x.jpg", r"(?s)g_01\.txt has 4.*a/attic"),
        ("sun397", "SUN397/ClassName.txt", "/a/attic", r"(?s)a/attic"),
        ("ade20k", ADE20K, "ADE_val_00000009", "line 7"),
        ("ade20k", ADE20K, "ADE_x_1 zoo", "line 7"),
        ("mit67", "mit67/TrainImages.txt", None, r"TrainImages\.txt is empty"),
        ("places365", "places365/places365_val.txt", None, r"val\.txt is not the published file"),
    ],
)
def test_a_list_that_is_wrong_is_refused_with_its_line(root, name, file, line, says):
    text = (root / file).read_text()
    (root / file).write_text(f"{text}{line}\n" if line else "\n")
    with pytest.raises(KdlibError, match=says):
        load(root, name, "test" if name == "places365" else "train")


@pytest.mark.parametrize("split", ["train", "test"])
def test_folders_need_the_same_classes_in_both_splits_and_none_empty(tmp_path, split):
    root = write_folder(tmp_path, "test")
    assert load(root, "imagefolder", split).fingerprint == load(root, "imagefolder").fingerprint
    (root / split / "bird").mkdir()
    with pytest.raises(KdlibError, match="(?s)same classes.*bird"):
        load(root, "imagefolder")
    for other in ("train", "test"):
        (root / other / "bird").mkdir(exist_ok=True)
    with pytest.raises(KdlibError, match=f"{split}.*bird"):
        load(root, "imagefolder", split)


@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_torchvision_s_to_the_bit(tmp_path, size):
    for split in ("train", "test"):
        photograph(tmp_path / split / "cat" / "1.png", 1, size)
    path = str(tmp_path / "test" / "cat" / "1.png")
    resize, cut = transforms.Resize(32), transforms.CenterCrop(28)
    with Image.open(path) as picture:
        resized = resize(picture.convert("RGB"))
    found = load(tmp_path, "imagefolder", "test").images.centres()[0]
    assert torch.equal(found, transforms.PILToTensor()(cut(resized)))
    assert np.array_equal(decoded(path, 32), np.asarray(resized))
    source = open_source(resolve_name(listed()["imagefolder"]), "test", 28, tmp_path)
    assert np.array_equal(source.read(0), np.asarray(resized))
    assert (source.side, open_source(list_imagefolder, "test", 224, tmp_path).side) == (32, 256)
    assert decoded(path).shape == (*size[::-1], 3)


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "LA", "1", "I;16"])
def test_every_colour_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("odd.jpg" if mode == "CMYK" else "odd.png")
    if mode == "I;16":  # a grey image of 16 bits keeps its tones
        tones = np.linspace(0, 65535, 24 * 24).reshape(24, 24).astype(np.uint16)
        Image.fromarray(tones).save(path)
    else:
        Image.new("RGB", (24, 24), "red").convert(mode).save(path)
    pixels = decoded(str(path))
    assert pixels.shape == (24, 24, 3) and pixels.dtype == np.uint8
    if mode == "I;16":
        assert pixels[0].mean() < 60 and pixels[-1].mean() > 195
        assert len(np.unique(pixels)) > 50


def test_the_orientation_that_exif_tells_is_not_followed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "turned.jpg", exif=exif)
    assert decoded(str(tmp_path / "turned.jpg")).shape == (20, 30, 3)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n broken", None])
def test_a_file_that_is_broken_is_named_in_the_middle_of_an_epoch(tmp_path, content):
    path = write_folder(tmp_path) / "train" / "dog" / "3.png"
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    with pytest.raises(KdlibError, match=r"dog.3\.png cannot be read"):
        list(Batches(load(tmp_path, "imagefolder"), 2, ("flip",)).epoch(0, 0))


def epoch(*augmentation: str, number: int = 0, count: int = 10):
    batches = list(Batches(numbered(count), 4, augmentation).epoch(1, number))
    return tuple(torch.cat(parts) for parts in zip(*(b[:3] for b in batches), strict=True))


def test_a_random_crop_is_a_window_that_reaches_every_edge_and_moves_nothing_else():
    made, labels, _ = epoch("random_crop", count=250)
    made = made.round().int()
    assert (made[:, 0] == labels[:, None, None]).all()
    tops, lefts = made[:, 1, 0, 0], made[:, 2, 0, 0]
    assert (made[:, 1, -1, 0] == tops + 27).all() and (made[:, 2, 0, -1] == lefts + 27).all()
    assert (tops.unique().tolist(), lefts.unique().tolist()) == ([*range(13)], [*range(5)])
    flipped = [images[:, 2, 0, 0] > images[:, 2, 0, -1] for images, *_ in
               (epoch("flip", "random_crop"), epoch("flip"))]  # fmt: skip
    assert torch.equal(*flipped)
    middle = torch.cat([batch.images for batch in Batches(numbered(), 4).in_order()]).round()
    assert (middle[:, 1, 0, 0] == 6).all() and (middle[:, 2, 0, 0] == 2).all()
    assert epoch("flip", "crop")[0].shape == (10, 3, 28, 28)


def test_photographs_are_read_no_earlier_than_asked_for_and_threads_end():
    asked = []
    data = numbered(read=lambda position: asked.append(position) or np.zeros((28, 28, 3), "u1"))
    part = data.part(4, 7)
    assert len(part) == len(part.images) == 3 and not asked
    assert part.first(2).images.centres().shape == (2, 3, 28, 28) and sorted(asked) == [4, 5]
    batches = Batches(data, 2, ("random_crop",)).epoch(0, 0)
    next(batches)
    batches.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("photographs")]


@pytest.mark.parametrize("given", ["0", "-1", "many"])
def test_a_number_of_workers_that_is_none_is_refused(monkeypatch, given):
    monkeypatch.setenv("KDLIB_WORKERS", given)
    with pytest.raises(KdlibError, match="KDLIB_WORKERS"):
        worker_count()
