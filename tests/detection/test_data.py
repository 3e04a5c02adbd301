"""Objects, their batches and crops: of Scenes, whose truth is the composer's, and on disk."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import OBJECTS, PICTURE, SHADES, stored, turned, write_fashion
from detection.conftest import WRITERS
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kdlib import KdlibError, load_data
from kdlib.data.batches import Batches
from kdlib.data.image_data import ImageData
from kdlib.data.scenes import scenes, sprite_bank
from kdlib.detection.batches import DISTORTIONS, DetectionBatches
from kdlib.detection.objects import COCO_SIZES, Found, WholePhotographs, cropped, tabled
from kdlib.frskd.voc import list_voc
from study.cli import main

SIDE, ALL = 40, ("flip", *DISTORTIONS)
PLAIN = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "fingerprint": "digits"}
WITHOUT = ImageData(torch.zeros(2, 3, 8, 8).byte(), torch.zeros(2).long(), ("a",), **PLAIN)


def drawn(count: int = 30) -> ImageData:
    """Black images with up to two white objects, so that a box can be told from the pixels.

    Every fifth has none; every seventh has a crowd of another colour besides.
    """
    random = np.random.default_rng(0)
    images, found = torch.zeros(count, 3, SIDE, SIDE, dtype=torch.uint8), []
    for index in range(count):
        corners = [(random.integers(0, 8) + 20 * k, random.integers(0, 24)) for k in range(2)]
        boxes = [(int(x), int(y), int(x) + 9, int(y) + 13) for x, y in corners[: index % 5]]
        for x1, y1, x2, y2 in boxes:
            images[index, :, y1:y2, x1:x2] = 255
        objects = [Found(box, index % 4) for box in boxes]
        found.append(objects + [Found((0, 0, 5, 5), 3, True)] * (index % 7 == 0))
    table = tabled(found, [(SIDE, SIDE)] * count)
    return ImageData(images, torch.zeros(count).long(), tuple("abcd"), **PLAIN, objects=table)


DATA = drawn()


@pytest.fixture(scope="module")
def read(tmp_path_factory) -> ImageData:
    """The same, as photographs that are read one at a time."""
    folder = tmp_path_factory.mktemp("photographs")
    paths = [f"{folder}/{index}.png" for index in range(len(DATA))]
    for path, image in zip(paths, DATA.images, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    images = WholePhotographs(paths, [(SIDE, SIDE)] * len(DATA))
    return ImageData(images, DATA.labels, DATA.classes, **PLAIN, objects=DATA.objects)


def rows(batches) -> list[list[torch.Tensor]]:
    """Of every image in turn: its number, pixels, boxes and labels."""
    return [
        [index, image, *target.values()]
        for images, targets, indices, _ in batches
        for index, image, target in zip(indices, images, targets, strict=True)
    ]


def epoch(data: ImageData, batch_size: int, *names: str, number: int = 0, workers: int = 0):
    return rows(DetectionBatches(data, batch_size, names, workers=workers).epoch(1, number))


def equal(one, other) -> bool:
    """Whether two epochs are the same, to the bit."""
    return all(all(map(torch.equal, *pair)) for pair in zip(one, other, strict=True))


def test_every_image_comes_once_with_its_objects_in_order_or_not(read):
    theirs = torch.cat([batch.indices for batch in Batches(DATA, 7).epoch(1, 0)]).tolist()
    batches = DetectionBatches(DATA, 8, ALL)
    assert (len(batches), len(batches.labels)) == (4, 30)
    ordered = rows(batches.in_order())
    for whole, order in ((epoch(DATA, 7), theirs), (ordered, [*range(30)])):
        assert [int(row[0]) for row in whole] == order and sorted(order) == [*range(30)]
        for index, *found in whole:
            boxes, kinds, crowd = DATA.objects.of(int(index))
            expected = DATA.images[index].float() / 255, boxes[~crowd], kinds[~crowd] + 1
            assert all(map(torch.equal, found, expected))
            assert (found[1].shape[1], found[2].dtype) == (4, torch.int64)
    assert any(not len(labels) for *_, labels in ordered)
    assert equal(ordered, rows(DetectionBatches(read, 30, workers=0).in_order()))


@pytest.mark.parametrize("names", [("flip",), ALL])
def test_neither_batch_size_nor_workers_shift_anything_nor_move_global_numbers(read, names):
    before, expected = torch.get_rng_state(), epoch(DATA, 7, *names)
    assert equal(expected, epoch(DATA, 4, *names))
    assert equal(expected, epoch(DATA, 13, *names, workers=2))
    assert equal(expected, epoch(read, 5, *names, workers=1))
    assert not equal(expected, epoch(DATA, 7, *names, number=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_distortions_leave_the_order_and_the_flips_alone():
    kinds = ("flip",), ("flip", "photometric"), ("iou_crop",)
    for plain, shaded, moved in zip(*(epoch(DATA, 7, *names) for names in kinds), strict=True):
        assert torch.equal(plain[2], shaded[2]) and plain[0] == moved[0]
    plain = drawn(200)
    kept = [torch.equal(row[1], plain.images[row[0]] / 255) for row in epoch(plain, 50, "flip")]
    assert 100 < sum(kept) < 140  # half; every fifth is black


@pytest.mark.parametrize("names", [
    ("flip",), ("flip", "zoom_out"), ("flip", "iou_crop"), ("scale_jitter",),
    ("flip", "zoom_out", "iou_crop", "scale_jitter"),
])  # fmt: skip
def test_boxes_move_with_their_objects(names):
    moved = 0
    for index, image, boxes, labels in epoch(DATA, 7, *names) + epoch(DATA, 7, *names, number=1):
        limits = torch.tensor([image.shape[2], image.shape[1]]).repeat(2)
        assert (boxes >= 0).all() and (boxes <= limits).all()
        assert (boxes[:, 2:] > boxes[:, :2]).all() and len(boxes) == len(labels)
        moved += not torch.equal(boxes, DATA.objects.of(int(index))[0])
        for x1, y1, x2, y2 in boxes.round().int().tolist():
            inside = image[:, y1:y2, x1:x2]
            if inside.numel() > 3 * 30:  # rounding and blurred edges say little of less
                assert inside.mean() > 0.75
    assert moved > 10


SHAPES, CORNERS = [(64, 48), (20, 10), (30, 30)], st.tuples(*[st.integers(-20, 90)] * 4)
OF_ONE = st.lists(st.builds(Found, CORNERS, st.integers(0, 9), st.booleans()), max_size=4)


def loaded(split: str = "test", size: int = 10, **options) -> ImageData:
    return load_data("scenes", split, size=size, **{"task": "detection", **options})


@settings(max_examples=40, deadline=None)
@given(st.lists(OF_ONE, min_size=3, max_size=3))
def test_each_image_has_its_own_objects_clipped_or_dropped(found):
    objects, rows = tabled(found, SHAPES), []
    assert len(objects) == 3 and objects.sizes == COCO_SIZES == (1024, 9216)
    for index, (of_image, (width, height)) in enumerate(zip(found, SHAPES, strict=True)):
        clipped = [
            ([max(0, x1), max(0, y1), min(width, x2), min(height, y2)], kind, crowd)
            for (x1, y1, x2, y2), kind, crowd in of_image
        ]
        kept = [one for one in clipped if one[0][2] > one[0][0] and one[0][3] > one[0][1]]
        boxes, kinds, crowd = objects.of(index)
        assert [*zip(boxes.tolist(), kinds.tolist(), crowd.tolist(), strict=True)] == kept
        assert boxes.shape == (len(kept), 4) and boxes.dtype == torch.float32
        rows += [index] * len(kept)
    assert objects.owners.tolist() == rows
    counted, part = objects.counted(), objects.part(1, 9)
    assert len(counted) == 3 and counted.kinds.tolist() == objects.kinds[~objects.crowd].tolist()
    assert len(part) == 2 and len(objects.part(1, 1)) == 0
    assert all(map(torch.equal, part.of(1), objects.of(2)))


def test_a_crop_shows_what_is_in_its_box_and_nothing_else():
    crops = cropped(DATA, 8)
    assert torch.equal(crops.labels, DATA.objects.counted().kinds)  # no crowd
    assert crops.images.shape[1:] == (3, 8, 8) and (crops.images == 255).all()  # else a margin
    assert (crops.task, crops.objects, crops.classes) == ("classification", None, tuple("abcd"))
    # A box of any shape is stretched to a square.
    data, crops = loaded(), loaded(task="crops", crop_size=24)
    assert crops.images.shape == (len(data.objects.kinds), 3, 24, 24)
    assert torch.equal(crops.labels, data.objects.kinds)
    x1, y1, x2, y2 = data.objects.boxes[7].int().tolist()
    window = data.images[int(data.objects.owners[7]), :, y1:y2, x1:x2].float().unsqueeze(0)
    expected = torch.nn.functional.interpolate(window, size=24, mode="bilinear", antialias=True)
    assert (crops.images[7] - expected[0]).abs().max() <= 1.5


def test_crops_are_cut_out_of_their_own_split():
    fit, dev, whole = (loaded(split, task="crops") for split in ("fit", "dev", "train"))
    assert torch.equal(fit.images, whole.images) and fit.fingerprint == whole.fingerprint
    crops = cropped(loaded("dev"), 32)
    assert torch.equal(dev.images, crops.images) and dev.fingerprint == crops.fingerprint
    assert dev.fingerprint != whole.fingerprint


def test_crops_of_photographs_are_read_when_asked_for(photographs):
    name, root = photographs
    data = load_data(name, "test", task="crops", crop_size=16, data_root=root)
    assert len(data) == 5  # the difficult one, or the crowd, is left out
    batch = next(Batches(data, 8).in_order())
    middle = batch.images[:, :, 8, 8] * torch.tensor(data.std) + torch.tensor(data.mean)
    shades = torch.tensor([SHADES[data.classes[label]] for label in data.labels])
    assert (255 * middle - shades).abs().max() < 8


@pytest.mark.parametrize(("ask", "says"), [
    (lambda: loaded(task="crops", crop_size=True), "crop_size is True; .* 8 to 512"),
    (lambda: cropped(DATA.first(1), 8), "none of the images has an object"),
    (lambda: cropped(WITHOUT, 8), "images with objects, and this data has none"),
    (lambda: DetectionBatches(DATA, 3, ("flop",)), "Unknown augm.* 'flop'.*'flip'"),
    (lambda: DetectionBatches(DATA, 3, workers=-1), "workers is -1"),
    (lambda: DetectionBatches(WITHOUT, 3), "images with objects"),
])  # fmt: skip
def test_what_cannot_be_cut_out_or_loaded_is_refused(ask, says, read):
    with pytest.raises(KdlibError, match=says):
        ask()
    with pytest.raises(KdlibError, match="task 'crops'"):
        Batches(read, 3)


def test_each_object_of_scenes_has_the_box_of_what_is_seen_of_it(tmp_path):
    data, truth = loaded(size=12), scenes("test", 2, 4, 64, torch.arange(12))
    assert torch.equal(data.images, truth.images) and data.task == "detection"
    assert data.classes == sprite_bank().kinds and not data.labels.any()
    assert data.objects.counts.tolist() == [6] * 12 and not data.objects.crowd.any()
    assert torch.equal(data.objects.kinds.view(12, 6), truth.objects)
    assert torch.equal(data.objects.boxes.view(12, 6, 4), truth.boxes.float())
    root = write_fashion(tmp_path, 200)
    data = load_data("fashion_scenes", "train", size=4, data_root=root, task="detection")
    assert len(data.classes) == 50 and data.objects.counts.tolist() == [6] * 4


def test_objects_that_are_hardly_seen_are_left_out_and_a_third_is_small_a_third_large():
    data, truth = loaded(size=200, distractors=12), scenes("test", 2, 12, 64, torch.arange(200))
    seen = truth.masks.flatten(2).sum(2)
    assert (seen < 20).any()
    assert torch.equal(data.objects.counts, (seen >= 20).sum(1))
    assert torch.equal(data.objects.kinds, truth.objects[seen >= 20])
    assert (data.objects.boxes[:, 2:] > data.objects.boxes[:, :2]).all()
    for image_size in (32, 64):
        objects = loaded(size=300, image_size=image_size).objects
        areas = (objects.boxes[:, 2:] - objects.boxes[:, :2]).prod(1)
        counts = torch.bucketize(areas, torch.tensor(objects.sizes), right=True).bincount()
        assert (counts / len(areas)).tolist() == pytest.approx([1 / 3] * 3, abs=0.07)


VOC = "VOCdevkit/VOC2007"
PHOTOGRAPH = {"voc": f"{VOC}/JPEGImages/000022.jpg", "coco": "coco/val2017/000000001002.jpg"}
OF_COCO = "coco/annotations/instances_val2017.json"
ANNOTATION = {"voc": f"{VOC}/Annotations/000021.xml", "coco": OF_COCO}
CHECKED = {
    "voc": "voc, train, objects: 8 of 8 images read (published: 16,551), 12 objects, 20 classes",
    "coco": "coco, test, objects: 4 of 4 images read (published: 5,000), 6 objects",
}


def on_disk(name: str, root: Path, split: str = "test", size: int | None = None):
    return load_data(name, split, size=size, data_root=root, task="detection")


def test_objects_have_corners_published_classes_and_crowds(photographs, capsys):
    (name, root), data = photographs, on_disk(*photographs)
    assert capsys.readouterr().out == ""
    classes, listed = data.classes, {tuple(box for _, box in found): found for found in OBJECTS}
    for index in range(4):
        boxes, kinds, crowd = data.objects.of(index)
        found = listed[tuple(map(tuple, boxes.int().tolist()))]
        assert [classes[kind] for kind in kinds] == [name for name, _ in found]
        assert crowd.tolist() == [place == 2 for place in range(len(found))]
    assert data.objects.sizes == (32**2, 96**2)
    assert data.images.read(0).shape == (PICTURE[1], PICTURE[0], 3)
    ends = {"voc": (20, "aeroplane", "tvmonitor"), "coco": (80, "person", "toothbrush")}
    assert (len(set(classes)), classes[0], classes[-1]) == ends[name]
    assert main(["data", "check", name, "--data-root", str(root)]) == 0
    assert CHECKED[name] in capsys.readouterr().out


def test_photographs_belong_to_their_objects_and_parts_to_their_split(photographs):
    whole, dev, few = (on_disk(*photographs, *of) for of in (["train"], ["dev"], ["train", 3]))
    assert (len(whole), len(dev), len(dev.images), len(dev.objects), len(few)) == (8, 2, 2, 2, 3)
    assert (dev.images.read(1) == whole.images.read(7)).all()
    assert torch.equal(dev.objects.of(1)[0], whole.objects.of(7)[0])
    assert torch.equal(few.objects.of(2)[0], whole.objects.of(2)[0])
    batches = DetectionBatches(whole, 3, ("zoom_out", "iou_crop"), workers=2)
    assert len({image.shape for batch in batches.epoch(0, 0) for image in batch.images}) > 3
    brightest = {"person": 0, "dog": 1, "train": 2}
    for _, image, boxes, labels in rows(batches.in_order()):
        for (x, y), label in zip(((boxes[:, :2] + boxes[:, 2:]) / 2).int(), labels, strict=True):
            assert int(image[:, y, x].argmax()) == brightest[whole.classes[int(label) - 1]]


def edit(root: Path, name: str, pattern: str, new: str, count: int = 1) -> None:
    """Put something else where a pattern is first found in an annotation; 0: everywhere in all."""
    every = {"voc": "VOCdevkit/*/Annotations/*.xml", "coco": "coco/annotations/*.json"}[name]
    for path in [root / ANNOTATION[name]] if count else root.glob(every):
        path.write_text(re.sub(pattern, new, path.read_text(), count=count, flags=re.DOTALL))


def test_categories_of_coco_go_by_their_names_and_voc_takes_both_years(tmp_path):
    ids = r'("category_id": |"id": (?=\d+, "name"))', r"\g<1>9"
    edit(WRITERS["coco"](tmp_path), "coco", *ids, count=0)
    assert sorted(set(on_disk("coco", tmp_path).objects.kinds.tolist())) == [0, 6, 16]
    names = [Path(n).name for n in list_voc("detection", "train", WRITERS["voc"](tmp_path)).names]
    numbers = (30, 31, 32, 33, 10, 11, 12, 13)
    assert names == [f"{number:06}.{kind}" for kind in ("jpg", "xml") for number in numbers]
    edit(tmp_path, "voc", "<difficult>0</difficult>", "")  # none need say so
    assert int(on_disk("voc", tmp_path).objects.crowd.sum()) == 1  # that of another photograph


BOX = r'"bbox": \[.*?\]'


@pytest.mark.parametrize(("name", "how", "says"), [
    ("coco", (f"{BOX}, ", ""), r"annotations\.0\.bbox: Field required"),
    ("coco", (BOX, '"bbox": [1, 2, 3, Infinity]'), "be a finite number"),
    ("coco", (r'_id": \d+, "bbox', '_id": 5, "bbox'), "annotation 10000: there is no category 5"),
    ("coco", (r'image_id": \d+', 'image_id": 5'), "annotation 10000: there is no image 5"),
    ("coco", ('"person"', '"unicorn"'), "category 1: 'unicorn' is not one of"),
    ("coco", (r'height": \d+', 'height": -3'), r"images\.0\.height: .*greater than 0, not -3"),
    ("coco", ('"images": .*, "categories"', '"images": [], "annotations": [], "categories"'),
     "images: List should have at least 1"),
    ("coco", ("^.*$", "{"), "JSON.*Get"),
    ("voc", ("train</name>", "trian</name>"), r"object 1: its class is 'trian'; valid: aeroplane"),
    ("voc", ("<bndbox>.*</bndbox>", ""), r"objects\.0\.xmin: Field required"),
    ("voc", ("<ymax>38", "<ymax>nan"), r"objects\.0\.ymax: Input should be a finite .*, not nan"),
    ("voc", ("<width>64", "<width>0"), r"width: .*greater than 0, not 0"),
    ("voc", ("</annotation>", ""), "cannot be read as XML"),
    *((name, (pattern, new, 0), f"{name}, test: .*no object of any class")
      for name, pattern, new in (
        ("coco", r'"annotations": \[.*?\], "cat', '"annotations": [], "cat'),
        ("coco", BOX, '"bbox": [900, 900, 9, 9]'), ("coco", '"iscrowd": 0', '"iscrowd": 1'),
        ("voc", "<object>.*</object>", ""), ("voc", "<difficult>0", "<difficult>1"),
    )),
    ("voc", PHOTOGRAPH["voc"], r"1 of 8 photographs are missing.*000022\.jpg"),
    ("voc", ANNOTATION["voc"], r"1 of 8 photographs are missing.*000021\.xml"),
    ("voc", f"{VOC}/ImageSets/Main/test.txt", r"test\.txt is missing.*Main.*VOCDetection"),
    ("coco", PHOTOGRAPH["coco"], r"1 of 4 photographs are missing.*1002\.jpg"),
    ("coco", ANNOTATION["coco"], r"val2017\.json is missing.*ROOT/coco.*unpack"),
])  # fmt: skip
def test_a_damaged_annotation_and_a_missing_file_are_named(name, how, says, tmp_path):
    root = WRITERS[name](tmp_path)
    if isinstance(how, str):
        (root / how).unlink()
    else:
        edit(root, name, *how)
        says = says if len(how) > 2 else rf"{Path(ANNOTATION[name]).name}.*{says}"
    with pytest.raises(KdlibError, match=rf"(?s){says}"):
        on_disk(name, root)


@pytest.mark.parametrize("tag", range(2, 9))
@pytest.mark.parametrize("name", WRITERS)
def test_boxes_of_a_photograph_that_exif_turns_fit_or_it_is_refused(name, tag, tmp_path):
    """Upright annotations show by their sides that they are; those of stored pixels cannot."""
    data, path = on_disk(name, WRITERS[name](tmp_path)), tmp_path / PHOTOGRAPH[name]
    before = rows(DetectionBatches(data, 4, workers=0).in_order())
    seen = Image.open(path).convert("RGB")
    turned(path, seen, tag)
    if tag > 4:
        assert equal(before, rows(DetectionBatches(data, 4, workers=0).in_order()))
        stored(path, seen, tag)  # and boxes that were drawn on that
    with pytest.raises(KdlibError, match=rf"{path.name} is turned by its EXIF orientation \({tag}"):
        rows(DetectionBatches(data, 4, workers=0).in_order())


@pytest.mark.parametrize("name", WRITERS)
def test_content_alone_makes_the_fingerprint_and_a_damaged_photograph_is_named(name, tmp_path):
    copy = WRITERS[name](tmp_path / "copy")
    data, path = on_disk(name, WRITERS[name](tmp_path)), tmp_path / PHOTOGRAPH[name]
    assert data.fingerprint == on_disk(name, copy).fingerprint
    edit(copy, name, *{"voc": ("xmin>11", "xmin>12"), "coco": (r"\[10, ", "[11, ")}[name])
    assert data.fingerprint != on_disk(name, copy).fingerprint
    Image.new("RGB", (48, 64)).save(path)
    with pytest.raises(KdlibError, match=rf"{path.name} is 48 x 64 pixels.*says 64 x 48"):
        list(DetectionBatches(data, 4, workers=1).in_order())
    path.write_bytes(b"")
    for workers in (0, 1):
        with pytest.raises(KdlibError, match=rf"{path.name} cannot be read") as error:
            list(DetectionBatches(data, 3, workers=workers).epoch(0, 0))
        assert "Traceback" not in str(error.value)
