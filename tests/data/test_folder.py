"""Image folders: every kind of image becomes RGB, a broken one is named."""

import numpy as np
import pytest
import torch
from PIL import Image

from kdlib.data import load_data
from kdlib.errors import KdlibError

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def root(tmp_path):
    tmp_path = tmp_path / "data"
    random = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for index in range(4):
                pixels = random.integers(0, 256, (20 + index, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{index}.png")
    return tmp_path


def test_images_are_cropped_to_squares_and_labelled(root):
    data = load_data("imagefolder", "train", image_size=16, data_root=root)
    assert data.images.centres().shape == (8, 3, 16, 16)
    assert data.classes == ("cat", "dog")
    assert torch.bincount(data.labels).tolist() == [4, 4]


def test_the_order_depends_on_the_names_alone(root):
    first = load_data("imagefolder", "test", image_size=16, data_root=root)
    moved = root.rename(root.with_name("moved"))
    second = load_data("imagefolder", "test", image_size=16, data_root=moved)
    assert torch.equal(first.labels, second.labels)
    assert first.fingerprint == second.fingerprint


@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "LA", "1", "I;16"])
def test_every_colour_mode_becomes_rgb(root, mode):
    path = root / "train" / "cat" / ("odd.jpg" if mode == "CMYK" else "odd.png")
    source = Image.new("L" if mode == "I;16" else "RGB", (24, 24), 128 if mode == "I;16" else "red")
    source.convert(mode).save(path) if mode != "I;16" else source.convert("I;16").save(path)
    data = load_data("imagefolder", "train", image_size=16, data_root=root)
    assert data.images.centres().shape == (9, 3, 16, 16)


def test_a_grey_image_of_16_bits_keeps_its_tones(root):
    tones = np.linspace(0, 65535, 24 * 24).reshape(24, 24).astype(np.uint16)
    Image.fromarray(tones).save(root / "train" / "cat" / "0.png")
    data = load_data("imagefolder", "train", image_size=16, data_root=root)
    place = data.images.positions.tolist().index(0)
    values = data.images.centres()[place]
    assert values[:, 0].float().mean() < 60 and values[:, -1].float().mean() > 195
    assert values[0].unique().numel() > 50


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n broken"])
def test_a_corrupt_image_is_named(root, content):
    (root / "train" / "dog" / "broken.png").write_bytes(content)
    with pytest.raises(KdlibError, match=r"dog.broken\.png cannot be read"):
        load_data("imagefolder", "train", image_size=16, data_root=root).images.centres()


def test_a_truncated_image_is_named(root):
    path = root / "train" / "dog" / "0.png"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(KdlibError, match=r"0\.png cannot be read"):
        load_data("imagefolder", "train", image_size=16, data_root=root).images.centres()


def test_an_empty_class_is_named(root):
    (root / "train" / "bird").mkdir()
    with pytest.raises(KdlibError, match="bird"):
        load_data("imagefolder", "train", image_size=16, data_root=root)


def test_a_missing_split_shows_the_layout(tmp_path):
    with pytest.raises(KdlibError, match=r"train/CLASS"):
        load_data("imagefolder", "train", data_root=tmp_path)


def test_classes_that_differ_between_the_splits_are_refused(root, tmp_path):
    from kdlib.runs import RunConfig
    from kdlib.train import fit

    (root / "test" / "dog").rename(root / "test" / "wolf")
    config = RunConfig(dataset="imagefolder", student="scenes_small", image_size=32).canonical()
    with pytest.raises(KdlibError, match="(?s)dog.*wolf"):
        fit([config], tmp_path / "runs", data_root=root, progress=False)
