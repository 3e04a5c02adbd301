"""COCO on disk: its format, the numbers of its categories, and what may be damaged."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from data_files import OBJECTS, write_coco

from kdlib.data import load_data
from kdlib.detection.batches import DetectionBatches
from kdlib.detection.data import COCO_CLASSES
from kdlib.errors import KdlibError
from study.cli import main


@pytest.fixture
def root(tmp_path, own_cache) -> Path:
    return write_coco(tmp_path)


def loaded(root: Path, split: str = "test", size: int | None = None):
    return load_data("coco", split, size=size, data_root=root, task="detection")


def annotations(root: Path) -> Path:
    return root / "coco" / "annotations" / "instances_val2017.json"


def change(root: Path, how: Callable[[dict], object]) -> None:
    """Edit the test set's annotations."""
    content = json.loads(annotations(root).read_text())
    how(content)
    annotations(root).write_text(json.dumps(content))


def test_the_classes_are_the_eighty():
    assert (len(COCO_CLASSES), len(set(COCO_CLASSES))) == (80, 80)
    assert [COCO_CLASSES.index(name) for name in ("person", "dog", "toothbrush")] == [0, 16, 79]


def test_boxes_have_corners_and_crowds_are_marked(root, capsys):
    data = loaded(root)
    assert capsys.readouterr().out == ""
    listed = {tuple(box for _, box in found): found for found in OBJECTS}
    for index in range(4):
        boxes, kinds, crowd = data.objects.of(index)
        found = listed[tuple(map(tuple, boxes.int().tolist()))]
        assert [COCO_CLASSES[kind] for kind in kinds] == [name for name, _ in found]
        assert crowd.tolist() == [place == 2 for place in range(len(found))]
    assert data.objects.sizes == (32**2, 96**2)


def test_photographs_belong_to_their_objects(root):
    data = loaded(root, "train")
    assert len(data) == 8
    for batch in DetectionBatches(data, 3).in_order():
        for image, target in zip(batch.images, batch.targets, strict=True):
            for box, label in zip(target["boxes"], target["labels"], strict=True):
                x, y = ((box[:2] + box[2:]) / 2).int().tolist()
                brightest = {"person": 0, "dog": 1, "train": 2}[COCO_CLASSES[int(label) - 1]]
                assert int(image[:, y, x].argmax()) == brightest


def test_the_order_does_not_depend_on_the_size(root):
    few, all_of_them = loaded(root, "train", 3), loaded(root, "train")
    assert len(few) == 3 and torch.equal(few.objects.of(2)[0], all_of_them.objects.of(2)[0])


def test_categories_are_told_by_their_names(root):
    change(root, lambda content: [one.update(id=one["id"] + 90) for one in content["categories"]])
    change(root, lambda content: [one.update(category_id=one["category_id"] + 90)
                                  for one in content["annotations"]])  # fmt: skip
    assert sorted(set(loaded(root).objects.kinds.tolist())) == [0, 6, 16]


@pytest.mark.parametrize(("how", "says"), [
    (lambda c: c["annotations"][0].pop("bbox"), "annotation 10000: 'bbox' is None"),
    (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), "annotation 10000: 'bbox' is"),
    (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, "x"]), "annotation 10000: 'bbox' is 'x'"),
    (lambda c: c["annotations"][0].update(bbox=[1, 2, 3, float("inf")]), "must be a finite number"),
    (lambda c: c["annotations"][0].update(category_id=5), "annotation 10000: there is no category"),
    (lambda c: c["annotations"][0].update(image_id=5), "annotation 10000: there is no image 5"),
    (lambda c: c["annotations"][0].pop("image_id"), "cannot be read as annotations.*image_id"),
    (lambda c: c["categories"][0].update(name="unicorn"), "category 1: 'unicorn' is not one of"),
    (lambda c: c["images"][0].pop("file_name"), "image 1000: the field 'file_name' is missing"),
    (lambda c: c["images"][0].pop("width"), "image 1000: the field 'width' is missing"),
    (lambda c: c["images"][0].update(height=-3), "image 1000: 'height' is -3"),
    (lambda c: c.update(images=[], annotations=[]), "lists no photograph"),
])  # fmt: skip
def test_a_damaged_annotation_is_named(how, says, root):
    change(root, how)
    with pytest.raises(KdlibError, match=rf"instances_val2017\.json.*{says}"):
        loaded(root)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '{"images": 3}'])
def test_a_file_that_is_no_coco_is_refused(text, root):
    annotations(root).write_text(text)
    with pytest.raises(KdlibError, match=r"instances_val2017\.json (cannot be read|lists no)"):
        loaded(root)


def test_what_is_missing_is_named(root, tmp_path):
    (root / "coco" / "val2017" / "000000001001.jpg").unlink()
    with pytest.raises(KdlibError, match=r"1 of 4 photographs are missing(.|\n)*1001\.jpg"):
        loaded(root)
    annotations(root).unlink()
    with pytest.raises(KdlibError, match=r"val2017\.json is missing(.|\n)*ROOT/coco(.|\n)*unpack"):
        loaded(root)


def test_the_command_line_checks_it(root, capsys):
    assert main(["data", "check", "coco", "--data-root", str(root)]) == 0
    told = capsys.readouterr().out
    assert "coco, test, objects: readable; 4 images (published: 5,000), 6 objects" in told


def test_the_command_line_lists_it(capsys):
    assert main(["data", "list"]) == 0
    assert "COCO 2017: photographs of any size" in capsys.readouterr().out
