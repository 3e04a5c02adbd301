"""COCO and Pascal VOC on disk: lists, boxes and classes, and what may be damaged."""

import json
import re
from pathlib import Path

import pytest
import torch
from data_files import OBJECTS, PICTURE
from detection.conftest import WRITERS
from PIL import Image

from kdlib.data import load_data
from kdlib.detection.batches import DetectionBatches
from kdlib.errors import KdlibError
from kdlib.frskd.voc import list_voc
from study.cli import main

VOC = "VOCdevkit/VOC2007"
PHOTOGRAPH = {"voc": f"{VOC}/JPEGImages/000022.jpg", "coco": "coco/val2017/000000001002.jpg"}
ANNOTATION = {
    "voc": f"{VOC}/Annotations/000021.xml", "coco": "coco/annotations/instances_val2017.json",
}  # fmt: skip
LIST = f"{VOC}/ImageSets/Main/test.txt"
OF_VOC = "8 images (published: 16,551), 12 objects, 20 classes (published: 20) (aeroplane"
CHECKED = {
    "voc": f"voc, train, objects: readable; {OF_VOC}",
    "coco": "coco, test, objects: readable; 4 images (published: 5,000), 6 objects",
}


def loaded(name: str, root: Path, split: str = "test", size: int | None = None):
    return load_data(name, split, size=size, data_root=root, task="detection")


def test_objects_have_corners_published_classes_and_crowds(photographs, capsys):
    (name, root), data = photographs, loaded(*photographs)
    assert capsys.readouterr().out == ""
    classes, listed = data.classes, {tuple(box for _, box in found): found for found in OBJECTS}
    for index in range(4):
        boxes, kinds, crowd = data.objects.of(index)
        found = listed[tuple(map(tuple, boxes.int().tolist()))]
        assert [classes[kind] for kind in kinds] == [name for name, _ in found]
        assert crowd.tolist() == [place == 2 for place in range(len(found))]
    assert data.objects.sizes == (32**2, 96**2)
    assert data.images.read(0).shape == (PICTURE[1], PICTURE[0], 3)
    assert len(set(classes)) == len(classes) == {"voc": 20, "coco": 80}[name]
    ends = {"voc": ("aeroplane", "tvmonitor"), "coco": ("person", "toothbrush")}
    assert (classes[0], classes[-1]) == ends[name]
    assert main(["data", "check", name, "--data-root", str(root)]) == 0
    assert CHECKED[name] in capsys.readouterr().out
    assert main(["data", "list"]) == 0
    assert "COCO 2017: photographs of any size" in capsys.readouterr().out


def test_photographs_belong_to_their_objects_and_parts_to_their_split(photographs):
    whole, dev, few = (loaded(*photographs, *of) for of in (["train"], ["dev"], ["train", 3]))
    assert (len(whole), len(dev), len(dev.images), len(dev.objects), len(few)) == (8, 2, 2, 2, 3)
    assert (dev.images.read(1) == whole.images.read(7)).all()
    assert torch.equal(dev.objects.of(1)[0], whole.objects.of(7)[0])
    assert torch.equal(few.objects.of(2)[0], whole.objects.of(2)[0])
    batches = DetectionBatches(whole, 3, ("zoom_out", "iou_crop"), workers=2)
    assert len({image.shape for batch in batches.epoch(0, 0) for image in batch.images}) > 3
    brightest, empty = {"person": 0, "dog": 1, "train": 2}, 0
    for batch in batches.in_order():
        for image, target in zip(batch.images, batch.targets, strict=True):
            empty += target["boxes"].shape == (0, 4)
            for box, label in zip(target["boxes"], target["labels"], strict=True):
                x, y = ((box[:2] + box[2:]) / 2).int().tolist()
                assert int(image[:, y, x].argmax()) == brightest[whole.classes[int(label) - 1]]
    assert empty == 2


def edit(root: Path, name: str, how) -> None:
    """Change an annotation: COCO's content, or by a pattern and what takes its place."""
    path = root / ANNOTATION[name]
    if callable(how):
        content = json.loads(path.read_text())
        how(content)
        path.write_text(json.dumps(content))
    else:
        path.write_text(re.sub(*how, path.read_text(), flags=re.DOTALL))


def renumber(content: dict) -> None:
    for one in content["categories"]:
        one["id"] += 90
    for one in content["annotations"]:
        one["category_id"] += 90


def test_categories_of_coco_go_by_their_names_and_voc_takes_both_years(tmp_path):
    edit(WRITERS["coco"](tmp_path), "coco", renumber)
    assert sorted(set(loaded("coco", tmp_path).objects.kinds.tolist())) == [0, 6, 16]
    names = list_voc("detection", "train", WRITERS["voc"](tmp_path)).names
    numbers = [f"{number:06}" for number in (30, 31, 32, 33, 10, 11, 12, 13)]
    expected = [f"{number}.{kind}" for kind in ("jpg", "xml") for number in numbers]
    assert [Path(name).name for name in names] == expected
    edit(tmp_path, "voc", ("<difficult>0</difficult>", ""))  # none need say so
    assert int(loaded("voc", tmp_path).objects.crowd.sum()) == 1  # that of another photograph


@pytest.mark.parametrize("name", WRITERS)
def test_the_fingerprint_knows_the_content_and_not_the_place(name, tmp_path):
    roots = [WRITERS[name](tmp_path / place) for place in "ab"]
    prints = [loaded(name, root).fingerprint for root in roots]
    edit(roots[1], name, {"voc": ("xmin>11", "xmin>12"), "coco": (r"\[10, ", "[11, ")}[name])
    assert prints[0] == prints[1] != loaded(name, roots[1]).fingerprint


def of_first(kind: str, **changes):
    return lambda content: content[kind][0].update(changes)


@pytest.mark.parametrize(("name", "how", "says"), [
    ("coco", lambda c: c["annotations"][0].pop("bbox"), r"annotations\.0\.bbox: Field required"),
    ("coco", of_first("annotations", bbox=[1, 2, 3]), r"annotations\.0\.bbox\.3: Field required"),
    ("coco", of_first("annotations", bbox=[1, 2, 3, "x"]), r"valid number.*, not x\. Get"),
    ("coco", of_first("annotations", bbox=[1, 2, 3, float("inf")]), "be a finite number"),
    ("coco", of_first("annotations", category_id=5), "annotation 10000: there is no category 5"),
    ("coco", of_first("annotations", image_id=5), "annotation 10000: there is no image 5"),
    ("coco", of_first("categories", name="unicorn"), "category 1: 'unicorn' is not one of"),
    ("coco", of_first("images", height=-3), r"images\.0\.height: .*greater than 0, not -3"),
    ("coco", lambda c: c.update(images=[], annotations=[]), "images: List should have at least 1"),
    ("coco", ("^.*$", "{"), "JSON.*Get"),
    ("coco", ("^.*$", "[1, 2]"), "should.*Get"),
    ("voc", ("train</name>", "trian</name>"), r"object 1: its class is 'trian'; valid: aeroplane"),
    ("voc", ("<bndbox>.*</bndbox>", ""), r"objects\.0\.xmin: Field required"),
    ("voc", ("<ymax>38", "<ymax>nan"), r"objects\.0\.ymax: Input should be a finite .*, not nan"),
    ("voc", ("<difficult>0", "<difficult>so"), r"objects\.0\.difficult: .*number.*, not so"),
    ("voc", ("<width>64", "<width>0"), r"width: .*greater than 0, not 0"),
    ("voc", ("</annotation>", ""), "cannot be read as XML"),
])  # fmt: skip
def test_a_damaged_annotation_is_named(name, how, says, tmp_path):
    edit(WRITERS[name](tmp_path), name, how)
    with pytest.raises(KdlibError, match=rf"{Path(ANNOTATION[name]).name}.*{says}"):
        loaded(name, tmp_path)


@pytest.mark.parametrize("name", WRITERS)
def test_a_photograph_that_is_damaged_is_named_when_it_is_read(name, tmp_path):
    data, path = loaded(name, WRITERS[name](tmp_path)), tmp_path / PHOTOGRAPH[name]
    Image.new("RGB", (48, 64)).save(path)
    with pytest.raises(KdlibError, match=rf"{path.name} is 48 x 64 pixels.*says 64 x 48"):
        list(DetectionBatches(data, 4, workers=1).in_order())
    path.write_bytes(b"")
    for workers in (0, 1):
        with pytest.raises(KdlibError, match=rf"{path.name} cannot be read") as error:
            list(DetectionBatches(data, 3, workers=workers).epoch(0, 0))
        assert "Traceback" not in str(error.value)


@pytest.mark.parametrize(("name", "what", "says"), [
    ("voc", PHOTOGRAPH["voc"], r"1 of 8 photographs are missing(.|\n)*000022\.jpg"),
    ("voc", ANNOTATION["voc"], r"1 of 8 photographs are missing(.|\n)*000021\.xml"),
    ("voc", LIST, r"test\.txt is missing(.|\n)*Main(.|\n)*VOCDetection"),
    ("coco", PHOTOGRAPH["coco"], r"1 of 4 photographs are missing(.|\n)*1002\.jpg"),
    ("coco", ANNOTATION["coco"], r"val2017\.json is missing(.|\n)*ROOT/coco(.|\n)*unpack"),
])  # fmt: skip
def test_what_is_missing_is_named(name, what, says, tmp_path):
    (WRITERS[name](tmp_path) / what).unlink()
    with pytest.raises(KdlibError, match=says):
        loaded(name, tmp_path)
