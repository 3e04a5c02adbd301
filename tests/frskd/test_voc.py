"""Pascal VOC on disk: the published lists, windows with their masks, and what may be damaged."""

from pathlib import Path

import pytest
import torch
from data_files import write_voc
from PIL import Image

from kdlib.data import load_data
from kdlib.data.batches import Batches
from kdlib.data.image_data import IGNORED
from kdlib.errors import KdlibError
from kdlib.evaluate import images_at_once
from kdlib.frskd.voc import MARGIN, list_voc
from study.cli import main

FOLDER, LIST = "VOCdevkit/VOC2007", "ImageSets/Segmentation/test.txt"
PHOTOGRAPH, MASK = "JPEGImages/000004.jpg", "SegmentationClass/000004.png"


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
    return write_voc(tmp_path)


def loaded(root: Path, split: str = "test", image_size: int = 512):
    return load_data("voc", split, image_size=image_size, data_root=root, task="segmentation")


def test_each_photograph_is_trained_on_once_and_none_that_is_tested(root, capsys):
    names = [Path(name).name for name in list_voc("segmentation", "train", root).names]
    assert names[:3] == ["2007_000001.jpg", "2008_000010.jpg", "000002.jpg"]
    assert names[3:] == ["2007_000001.png", "2008_000010.png", "000002.png"]
    assert len(list_voc("segmentation", "test", root).names) == 4
    assert main(["data", "check", "voc", "--data-root", str(root)]) == 0
    assert "voc, test: readable; 21 classes (background, aeroplane" in capsys.readouterr().out


def test_a_window_of_the_full_size_shows_every_pixel_at_its_own_resolution(root):
    data = loaded(root)
    (batch,) = Batches(data, 8).in_order()
    assert (data.task, len(data.classes)) == ("segmentation", 21)
    assert batch.images.shape == (2, 3, 512, 512)
    for labels in batch.labels:
        rows, columns = torch.nonzero(labels != IGNORED, as_tuple=True)
        shown = [int(places.max() - places.min()) + 1 for places in (rows, columns)]
        assert shown == [36, 60]  # all but the border
        kinds = labels[labels != IGNORED].bincount()
        assert kinds[kinds > 0].tolist() == [36 * 30, 36 * 30]
    colour = batch.images[:, :, 0, 0] * torch.tensor(data.std) + torch.tensor(data.mean)
    assert (255 * colour).round().long().tolist() == [list(MARGIN)] * 2
    # Few large photographs are evaluated at once.
    assert [images_at_once(one, 250) for one in (data, loaded(root, image_size=64))] == [12, 250]


def test_random_windows_move_scale_and_mirror_both_alike(root):
    data, sizes = loaded(root, "train", 64), set()
    batches = Batches(data, 3, ("flip", "random_crop"))
    for epoch in range(6):
        (batch,), (again,) = batches.epoch(0, epoch), batches.epoch(0, epoch)
        assert torch.equal(batch.images, again.images) and torch.equal(batch.labels, again.labels)
        values = 255 * (batch.images * torch.tensor(data.std)[0] + torch.tensor(data.mean)[0])
        told, inside = ((values[:, 0] - 5) / 10).round().long(), batch.labels != IGNORED
        assert (told == batch.labels)[inside].float().mean() > 0.8  # but where two classes meet
        sizes |= set(inside.flatten(1).sum(1).tolist())
    assert len(sizes) > 6


def halve(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def painted(mode: str, size: tuple[int, int], value: int = 0):
    return lambda path: Image.new(mode, size, value).save(path)


@pytest.mark.parametrize(("damage", "file", "says"), [
    (halve, PHOTOGRAPH, r"000004\.jpg cannot be read"),
    (halve, MASK, r"000004\.png cannot be read"),
    (painted("RGB", (60, 40)), MASK, r"000004\.png is of shape \(40, 60, 3\)"),
    (painted("L", (30, 40)), MASK, r"000004\.png is of shape \(40, 30\)"),
    (painted("L", (60, 40), 21), MASK, r"000004\.png has the values 21; valid: 0 to 20"),
    (Path.unlink, MASK, r"1 of 4 photographs are missing(.|\n)*000004\.png"),
    (Path.unlink, LIST, r"test\.txt is missing(.|\n)*Segmentation(.|\n)*VOCDetection"),
    (lambda path: path.write_text(""), LIST, r"test\.txt is empty"),
])  # fmt: skip
def test_what_is_missing_or_damaged_is_named(damage, file, says, root):
    damage(root / FOLDER / file)
    with pytest.raises(KdlibError, match=says):
        next(Batches(loaded(root), 8).in_order())
