"""Pascal VOC's objects on disk: the published lists and boxes, and what may be damaged."""

import re
from pathlib import Path

import pytest
import torch
from data_files import OBJECTS, PICTURE, write_voc_detection
from PIL import Image

from kdlib.data import load_data
from kdlib.detection.batches import DetectionBatches
from kdlib.detection.data import list_voc_objects
from kdlib.errors import KdlibError
from study.cli import main


@pytest.fixture
def root(tmp_path, own_cache) -> Path:
    return write_voc_detection(tmp_path)


def loaded(root: Path, split: str = "test", size: int | None = None):
    return load_data("voc", split, size=size, data_root=root, task="detection")


def annotation(root: Path, number: int = 21) -> Path:
    return root / "VOCdevkit" / "VOC2007" / "Annotations" / f"{number:06}.xml"


def test_the_lists_are_those_of_both_years(root):
    names = list_voc_objects("train", root).names
    assert [Path(name).name for name in names[:8]] == [
        f"{number:06}.jpg" for number in (30, 31, 32, 33, 10, 11, 12, 13)
    ]
    assert [Path(name).stem for name in names[8:]] == [Path(name).stem for name in names[:8]]
    assert (len(loaded(root)), len(loaded(root, "train", 3))) == (4, 3)


def test_boxes_count_from_0_and_exclude_the_last_pixel(root):
    data = loaded(root)
    listed = {tuple(box for _, box in found): found for found in OBJECTS}
    for index in range(4):
        boxes, kinds, crowd = data.objects.of(index)
        found = listed[tuple(map(tuple, boxes.int().tolist()))]
        assert [data.classes[kind] for kind in kinds] == [name for name, _ in found]
        assert crowd.tolist() == [place == 2 for place in range(len(found))]  # the difficult one
    assert len(data.classes) == 20 and data.classes[0] == "aeroplane"


def test_photographs_stay_whole_and_are_read_when_asked_for(root):
    data = loaded(root)
    assert data.images.read(0).shape == (PICTURE[1], PICTURE[0], 3)
    (root / "VOCdevkit" / "VOC2007" / "JPEGImages" / "000020.jpg").write_bytes(b"")
    with pytest.raises(KdlibError, match=r"000020\.jpg cannot be read"):
        list(DetectionBatches(data, 2).in_order())


def test_a_part_has_its_own_photographs_and_objects(root):
    whole, dev = loaded(root, "train"), loaded(root, "dev")
    assert (len(dev), len(dev.images), len(dev.objects)) == (2, 2, 2)
    assert (dev.images.read(1) == whole.images.read(7)).all()
    assert torch.equal(dev.objects.of(1)[0], whole.objects.of(7)[0])


def test_the_fingerprint_knows_the_content_and_not_the_place(root, tmp_path_factory):
    elsewhere = write_voc_detection(tmp_path_factory.mktemp("elsewhere"))
    assert loaded(elsewhere).fingerprint == loaded(root).fingerprint
    path = annotation(elsewhere)
    path.write_text(path.read_text().replace("<xmin>11", "<xmin>12"))
    assert loaded(elsewhere).fingerprint != loaded(root).fingerprint


@pytest.mark.parametrize(("old", "new", "says"), [
    ("train</name>", "trian</name>", r"object 1: its class is 'trian'; valid: aeroplane"),
    ("<name>train</name>", "", r"object 1: its class is 'None'"),
    ("<xmin>11</xmin>", "", r"object 1: the field 'xmin' is missing"),
    ("<bndbox>.*</bndbox>", "", r"object 1: the field 'xmin' is missing"),
    ("<ymax>38", "<ymax>nan", r"object 1: 'ymax' is 'nan'; it must be a finite number"),
    ("<ymax>38", "<ymax>much", r"object 1: 'ymax' is 'much'"),
    ("<difficult>0", "<difficult>so", r"object 1: 'difficult' is 'so'"),
    ("<width>64</width>", "", r"size: the field 'width' is missing"),
    ("<width>64", "<width>0", r"size: 'width' is 0; it must be a whole number above 0"),
    ("</annotation>", "", "cannot be read as XML"),
    ("annotation>", "note>", "it is not 'annotation'"),
])  # fmt: skip
def test_a_damaged_annotation_is_named(old, new, says, root):
    path = annotation(root)
    path.write_text(re.sub(old, new, path.read_text(), flags=re.DOTALL))
    with pytest.raises(KdlibError, match=rf"000021\.xml.*{says}"):
        loaded(root)


def test_objects_need_not_say_that_they_are_difficult(root):
    path = annotation(root)
    path.write_text(path.read_text().replace("<difficult>0</difficult>", ""))
    assert int(loaded(root).objects.crowd.sum()) == 1  # that of another photograph


def test_a_photograph_of_another_size_than_annotated_is_refused(root):
    path = root / "VOCdevkit" / "VOC2007" / "JPEGImages" / "000022.jpg"
    Image.new("RGB", (48, 64)).save(path)
    with pytest.raises(KdlibError, match=r"000022\.jpg is 48 x 64 pixels.*says 64 x 48"):
        list(DetectionBatches(loaded(root), 4, workers=1).in_order())


def test_what_is_missing_is_named(root, tmp_path):
    with pytest.raises(KdlibError, match=r"test\.txt is missing(.|\n)*Main(.|\n)*VOCDetection"):
        loaded(tmp_path / "VOCdevkit")
    annotation(root).unlink()
    with pytest.raises(KdlibError, match=r"1 of 8 photographs are missing(.|\n)*000021\.xml"):
        loaded(root)
    (root / "VOCdevkit" / "VOC2007" / "ImageSets" / "Main" / "test.txt").write_text("")
    with pytest.raises(KdlibError, match=r"test\.txt is empty"):
        loaded(root)


def test_the_command_line_checks_it(root, capsys):
    assert main(["data", "check", "voc", "--data-root", str(root)]) == 0
    told = capsys.readouterr().out
    assert "voc, train, objects: readable; 8 images (published: 16,551), 12 objects" in told
    assert "20 classes (published: 20) (aeroplane" in told
