"""Data sets of photographs in their real formats: splits, class orders, and what can be wrong."""

from pkgutil import resolve_name

import pytest
import torch
from photographs import photograph, write_ade20k, write_mit67, write_places365, write_sun397
from torchvision.datasets import Places365

from kdlib.data import listed, load_data
from kdlib.errors import KdlibError

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A data root that holds all of them, and the photographs of an image folder."""
    write_mit67(tmp_path)
    write_sun397(tmp_path)
    write_ade20k(tmp_path)
    write_places365(tmp_path, lambda name, value: monkeypatch.setattr(Places365, name, value))
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            photograph(tmp_path / split / name / "1.png", 1)
    return tmp_path


def load(root, name: str, split: str = "train", size: int | None = None):
    return load_data(name, split, size=size, image_size=28, data_root=root)


def counts(data) -> list[int]:
    return torch.bincount(data.labels, minlength=len(data.classes)).tolist()


EXPECTED = {
    "mit67": (("airport_inside", "bakery"), [4, 4], [4, 4]),
    "sun397": (("abbey", "bow_window/indoor", "airport"), [3, 3, 3], [3, 3, 3]),
    "ade20k": (("abbey", "bakery", "misc", "zoo"), [1, 0, 2, 0], [0, 1, 1, 1]),
    "places365": (("/a/airfield", "/b/bakery/shop"), [1, 1], [1, 1]),
    "imagefolder": (("cat", "dog"), [1, 1], [1, 1]),
}


def test_every_set_of_photographs_is_tested():
    assert set(EXPECTED) == set(listed())


@pytest.mark.parametrize("name", EXPECTED)
def test_splits_and_class_orders_are_those_of_the_lists(root, name):
    classes, train, test = EXPECTED[name]
    for split, expected in (("train", train), ("test", test)):
        data = load(root, name, split)
        assert (data.classes, counts(data)) == (classes, expected)
        assert data.images.centres().shape == (sum(expected), 3, 28, 28)


def test_labels_belong_to_their_photographs(root):
    data = load(root, "sun397")
    listing = resolve_name(listed()["sun397"])("train", root)
    names = [listing.names[position] for position in data.images.positions]
    found = [name.split("/", 1)[1].rsplit("/", 1)[0] for name in names]
    assert found == [data.classes[label] for label in data.labels]
    assert found != sorted(found)  # of all classes alike, however few are taken


def test_the_fingerprint_knows_the_content_and_not_the_place(root, tmp_path_factory):
    first = load(root, "mit67").fingerprint
    elsewhere = write_mit67(tmp_path_factory.mktemp("elsewhere"))
    assert load(elsewhere, "mit67").fingerprint == first
    photograph(elsewhere / "mit67" / "Images" / "bakery" / "train_0.jpg", 99)
    assert load(elsewhere, "mit67").fingerprint != first
    assert len({load(root, "mit67", "test").fingerprint, load(root, "mit67", size=3).fingerprint,
                first}) == 3  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED)
def test_a_data_set_that_is_not_there_shows_its_layout_and_how_to_get_it(tmp_path, name):
    with pytest.raises(KdlibError, match="(?s)is missing. Expected:\n  ROOT/.*To get it") as error:
        load(tmp_path, name)
    assert len(str(error.value).splitlines()) < 15


@pytest.mark.parametrize("name", ["mit67", "sun397"])
def test_missing_photographs_are_counted_and_the_first_are_shown(tmp_path, name):
    writers = {"mit67": (write_mit67, 30, 60), "sun397": (write_sun397, 30, 90)}
    write, each, total = writers[name]
    root = write(tmp_path, each)
    for path in sorted(root.rglob("*[Tt]ra*.jpg"))[1:]:
        path.unlink()
    message = f"{total - 1} of {total} photographs are missing"
    with pytest.raises(KdlibError, match=message) as error:
        load(root, name)
    lines = str(error.value).splitlines()
    assert sum(line.endswith(".jpg") for line in lines) == 20
    assert any("more" in line for line in lines) and "To get them" in lines[-2]


@pytest.mark.parametrize(
    ("name", "file", "line", "says"),
    [
        ("mit67", "mit67/TrainImages.txt", "bakery", r"TrainImages\.txt, line 9: 'bakery'"),
        ("mit67", "mit67/TestImages.txt", "../x.jpg", "line 9"),
        ("mit67", "mit67/TestImages.txt", "church/x.jpg", r"(?s)church"),
        ("mit67", "mit67/TestImages.txt", "bakery/train_0.jpg", "in the training and in the test"),
        ("sun397", "SUN397/Training_01.txt", "a/abbey/x.jpg", r"Training_01\.txt, line 10"),
        (
            "sun397",
            "SUN397/Training_01.txt",
            "/a/attic/x.jpg",
            r"(?s)g_01\.txt has 4.*a/attic",
        ),
        ("sun397", "SUN397/ClassName.txt", "/a/attic", r"(?s)a/attic"),
        ("ade20k", "ADEChallengeData2016/sceneCategories.txt", "ADE_val_00000009", "line 7"),
        ("ade20k", "ADEChallengeData2016/sceneCategories.txt", "ADE_x_1 zoo", "line 7"),
    ],
)
def test_a_list_that_is_wrong_is_refused_with_its_line(root, name, file, line, says):
    with (root / file).open("a") as listing:
        listing.write(f"{line}\n")
    with pytest.raises(KdlibError, match=says):
        load(root, name)


def test_an_empty_list_is_refused(root):
    (root / "mit67" / "TrainImages.txt").write_text("\n")
    with pytest.raises(KdlibError, match=r"TrainImages\.txt is empty"):
        load(root, "mit67")


def test_a_list_of_places365_that_is_not_the_published_one_is_never_read(root):
    (root / "places365" / "places365_val.txt").write_text("a 1\n")
    with pytest.raises(KdlibError, match=r"places365_val\.txt is not the published list"):
        load(root, "places365", "test")
