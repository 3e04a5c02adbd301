"""COCO and Pascal VOC on disk: lists, boxes and classes, and what may be damaged."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from data_files import OBJECTS, PICTURE, write_coco, write_voc_detection
from PIL import Image

from kdlib.data import load_data
from kdlib.data.published import list_voc
from kdlib.detection.batches import DetectionBatches
from kdlib.errors import KdlibError
from study.cli import main

WRITERS = {"voc": write_voc_detection, "coco": write_coco}
PLACES = {"voc": "VOCdevkit/VOC2007/JPEGImages/000022.jpg", "coco": "coco/val2017/000000001002.jpg"}
"""A photograph of each test set."""
ANNOTATIONS = {
    "voc": "VOCdevkit/VOC2007/Annotations/000021.xml",
    "coco": "coco/annotations/instances_val2017.json",
}


def loaded(name: str, root: Path, split: str = "test", size: int | None = None):
    return load_data(name, split, size=size, data_root=root, task="detection")


@pytest.fixture(params=WRITERS)
def damageable(request, tmp_path):
    """As ``photographs``, for a test to change."""
    return request.param, WRITERS[request.param](tmp_path)


def test_objects_have_corners_classes_and_crowds(photographs, capsys):
    data = loaded(*photographs)
    assert capsys.readouterr().out == ""
    listed = {tuple(box for _, box in found): found for found in OBJECTS}
    for index in range(4):
        boxes, kinds, crowd = data.objects.of(index)
        found = listed[tuple(map(tuple, boxes.int().tolist()))]
        assert [data.classes[kind] for kind in kinds] == [name for name, _ in found]
        assert crowd.tolist() == [place == 2 for place in range(len(found))]
    assert data.objects.sizes == (32**2, 96**2)
    assert data.images.read(0).shape == (PICTURE[1], PICTURE[0], 3)


def test_photographs_belong_to_their_objects_and_parts_to_their_split(photographs):
    whole, dev, few = (loaded(*photographs, *of) for of in (["train"], ["dev"], ["train", 3]))
    assert (len(whole), len(dev), len(dev.images), len(dev.objects), len(few)) == (8, 2, 2, 2, 3)
    assert (dev.images.read(1) == whole.images.read(7)).all()
    assert torch.equal(dev.objects.of(1)[0], whole.objects.of(7)[0])
    assert torch.equal(few.objects.of(2)[0], whole.objects.of(2)[0])
    batches = DetectionBatches(whole, 3, ("zoom_out", "iou_crop"), workers=2)
    assert len({image.shape for batch in batches.epoch(0, 0) for image in batch.images}) > 3
    targets = [target for batch in batches.in_order() for target in batch.targets]
    assert sum(target["boxes"].shape == (0, 4) for target in targets) == 2
    brightest = {"person": 0, "dog": 1, "train": 2}
    for batch in DetectionBatches(whole, 3).in_order():
        for image, target in zip(batch.images, batch.targets, strict=True):
            for box, label in zip(target["boxes"], target["labels"], strict=True):
                x, y = ((box[:2] + box[2:]) / 2).int().tolist()
                assert int(image[:, y, x].argmax()) == brightest[whole.classes[int(label) - 1]]


def test_classes_are_the_published_ones(photographs):
    name, root = photographs
    classes = loaded(name, root).classes
    assert len(set(classes)) == len(classes) == {"voc": 20, "coco": 80}[name]
    ends = {"voc": ("aeroplane", "tvmonitor"), "coco": ("person", "toothbrush")}
    assert (classes[0], classes[-1]) == ends[name]


def test_lists_of_voc_are_those_of_both_years(tmp_path):
    names = list_voc("detection", "train", write_voc_detection(tmp_path)).names
    numbers = [f"{number:06}" for number in (30, 31, 32, 33, 10, 11, 12, 13)]
    assert [Path(name).name for name in names[:8]] == [f"{number}.jpg" for number in numbers]
    assert [Path(name).name for name in names[8:]] == [f"{number}.xml" for number in numbers]


def test_categories_of_coco_go_by_their_names(tmp_path):
    def renumber(content):
        for one in content["categories"]:
            one["id"] += 90
        for one in content["annotations"]:
            one["category_id"] += 90

    change(write_coco(tmp_path), renumber)
    assert sorted(set(loaded("coco", tmp_path).objects.kinds.tolist())) == [0, 6, 16]


def test_the_fingerprint_knows_the_content_and_not_the_place(damageable):
    (name, root), edits = damageable, {"voc": ("xmin>11", "xmin>12"), "coco": ("[10, ", "[11, ")}
    elsewhere = WRITERS[name](root / "elsewhere")
    assert loaded(name, elsewhere).fingerprint == loaded(name, root).fingerprint
    path = elsewhere / ANNOTATIONS[name]
    path.write_text(path.read_text().replace(*edits[name]))
    assert loaded(name, elsewhere).fingerprint != loaded(name, root).fingerprint


def change(root: Path, how: Callable[[dict], object]) -> None:
    path = root / ANNOTATIONS["coco"]
    content = json.loads(path.read_text())
    how(content)
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(("how", "says"), [
    (lambda c: c["annotations"][0].pop("bbox"), r"annotations\.0\.bbox: Field required"),
    (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), r"annotations\.0\.bbox\.3: Field req"),
    (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, "x"]), r"valid number.*, not x\. Get"),
    (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, float("inf")]), "be a finite number"),
    (lambda c: c["annotations"][0].update(category_id=5), "annotation 10000: there is no category"),
    (lambda c: c["annotations"][0].update(image_id=5), "annotation 10000: there is no image 5"),
    (lambda c: c["annotations"][0].pop("image_id"), r"annotations\.0\.image_id: Field required"),
    (lambda c: c["categories"][0].update(name="unicorn"), "category 1: 'unicorn' is not one of"),
    (lambda c: c["images"][0].pop("file_name"), r"images\.0\.file_name: Field required"),
    (lambda c: c["images"][0].pop("width"), r"images\.0\.width: Field required"),
    (lambda c: c["images"][0].update(height=-3), r"images\.0\.height: .*greater than 0, not -3"),
    (lambda c: c.update(images=[], annotations=[]), "images: List should have at least 1 item"),
])  # fmt: skip
def test_a_damaged_annotation_of_coco_is_named(how, says, tmp_path):
    change(write_coco(tmp_path), how)
    with pytest.raises(KdlibError, match=rf"instances_val2017\.json, .*{says}"):
        loaded("coco", tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '{"images": 3}'])
def test_a_file_that_is_no_coco_is_refused(text, tmp_path):
    (write_coco(tmp_path) / ANNOTATIONS["coco"]).write_text(text)
    with pytest.raises(KdlibError, match=r"instances_val2017\.json, .*(JSON|valid|should).*Get"):
        loaded("coco", tmp_path)


@pytest.mark.parametrize(("old", "new", "says"), [
    ("train</name>", "trian</name>", r"object 1: its class is 'trian'; valid: aeroplane"),
    ("<name>train</name>", "", r"objects\.0\.name: Field required"),
    ("<xmin>11</xmin>", "", r"objects\.0\.xmin: Field required"),
    ("<bndbox>.*</bndbox>", "", r"objects\.0\.xmin: Field required"),
    ("<ymax>38", "<ymax>nan", r"objects\.0\.ymax: Input should be a finite number, not nan"),
    ("<ymax>38", "<ymax>much", r"objects\.0\.ymax: .*number.*, not much"),
    ("<difficult>0", "<difficult>so", r"objects\.0\.difficult: .*, not so"),
    ("<width>64</width>", "", r"width: Field required"),
    ("<width>64", "<width>0", r"width: .*greater than 0, not 0"),
    ("</annotation>", "", "cannot be read as XML"),
    ])  # fmt: skip
def test_a_damaged_annotation_of_voc_is_named(old, new, says, tmp_path):
    path = write_voc_detection(tmp_path) / ANNOTATIONS["voc"]
    path.write_text(re.sub(old, new, path.read_text(), flags=re.DOTALL))
    with pytest.raises(KdlibError, match=rf"000021\.xml.*{says}"):
        loaded("voc", tmp_path)


def test_objects_of_voc_need_not_say_that_they_are_difficult(tmp_path):
    path = write_voc_detection(tmp_path) / ANNOTATIONS["voc"]
    path.write_text(path.read_text().replace("<difficult>0</difficult>", ""))
    assert int(loaded("voc", tmp_path).objects.crowd.sum()) == 1  # that of another photograph


def test_a_photograph_that_is_damaged_is_named_when_it_is_read(damageable):
    name, root = damageable
    data, path = loaded(name, root), root / PLACES[name]
    Image.new("RGB", (48, 64)).save(path)
    with pytest.raises(KdlibError, match=rf"{path.name} is 48 x 64 pixels.*says 64 x 48"):
        list(DetectionBatches(data, 4, workers=1).in_order())
    path.write_bytes(b"")
    for workers in (0, 1):
        with pytest.raises(KdlibError, match=rf"{path.name} cannot be read") as error:
            list(DetectionBatches(data, 3, workers=workers).epoch(0, 0))
        assert "Traceback" not in str(error.value)


@pytest.mark.parametrize(("name", "what", "says"), [
    ("voc", PLACES["voc"], r"1 of 8 photographs are missing(.|\n)*000022\.jpg"),
    ("voc", ANNOTATIONS["voc"], r"1 of 8 photographs are missing(.|\n)*000021\.xml"),
    ("voc", "VOCdevkit/VOC2007/ImageSets/Main/test.txt",
     r"test\.txt is missing(.|\n)*Main(.|\n)*VOCDetection"),
    ("coco", PLACES["coco"], r"1 of 4 photographs are missing(.|\n)*1002\.jpg"),
    ("coco", ANNOTATIONS["coco"], r"val2017\.json is missing(.|\n)*ROOT/coco(.|\n)*unpack"),
])  # fmt: skip
def test_what_is_missing_is_named(name, what, says, tmp_path):
    path = WRITERS[name](tmp_path) / what
    path.unlink()
    with pytest.raises(KdlibError, match=says):
        loaded(name, tmp_path)
    if path.suffix == ".txt":
        path.write_text("")
        with pytest.raises(KdlibError, match=r"test\.txt is empty"):
            loaded(name, tmp_path)


def test_the_command_line_checks_and_lists_them(photographs, capsys):
    name, root = photographs
    assert main(["data", "check", name, "--data-root", str(root)]) == 0
    told = capsys.readouterr().out
    line = {
        "voc": "voc, train, objects: readable; 8 images (published: 16,551), 12 objects, "
        "20 classes (published: 20) (aeroplane",
        "coco": "coco, test, objects: readable; 4 images (published: 5,000), 6 objects",
    }
    assert line[name] in told
    assert main(["data", "list"]) == 0
    assert "COCO 2017: photographs of any size" in capsys.readouterr().out
