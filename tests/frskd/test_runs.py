"""Runs whose teacher is the student's own, of images and of pixels; the masks of Pascal VOC."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from data_files import stored, turned, write_voc
from PIL import Image
from training import history_of, result_of, tiny

from kdlib import KdlibError, RunConfig, create_model, fit, load_data, predict, trained_network
from kdlib.data.batches import Batches
from kdlib.data.image_data import IGNORED
from kdlib.evaluate import evaluate_student, images_at_once
from kdlib.files import load_tensors
from kdlib.frskd.losses import refined_network
from kdlib.frskd.voc import MARGIN, list_voc
from kdlib.models.output import count_parameters
from kdlib.runs import run_directory
from study.cli import main
from study.records import load_records, load_tables, validate_record

SIDE, KINDS = 32, 69  # 68 kinds of objects, and the background


def masks(**changes) -> RunConfig:
    """A tiny run of segmentation."""
    networks = dict.fromkeys(("student", "teacher"), "scenes_segmenter_tiny")
    own = {"task": "segmentation", "method": "frskd_pixels", "epochs": 2}
    return tiny(**{**networks, **own, **changes})


@pytest.mark.parametrize(("config", "classes", "keys", "watched"), [
    (tiny(method="frskd", epochs=2), 16, ["top1", "top5", "mca"], "accuracy"),
    (masks(), KINDS, ["miou", "pixel_accuracy"], "miou"),
], ids=["classification", "segmentation"])  # fmt: skip
def test_a_self_teacher_is_kept_and_not_deployed(config, classes, keys, watched, tmp_path):
    task, best, of_pixels = config.task, keys[0], config.task == "segmentation"
    configs = [replace(config, method="student").canonical(), config]
    plain, taught = fit(configs, tmp_path, progress=False)
    (alone,) = fit([config], tmp_path / "alone", progress=False)
    assert result_of(alone) == result_of(taught)  # in lock-step or not
    for one, record in zip(configs, (plain, taught), strict=True):
        validate_record(record, run_directory(one, tmp_path) / "record.json")
        results = record["results"]
        assert 0 <= results[best] <= results[f"best_monitored_{best}"] + 1e-6 <= 1 + 1e-6
        assert len(results["per_class"]) == classes and ("top1" in results) != of_pixels
    found = taught["self_teacher"]
    assert plain["self_teacher"] is None and taught["ssim"] is None
    assert set(found) == {*keys, "relevance", "parameters", "flops"}
    assert all(0 <= found[key] <= 1 for key in keys)
    assert found["parameters"] > 0 and found["flops"] > 0
    assert (taught["relevance"] is None) == (found["relevance"] is None) == of_pixels
    assert of_pixels or len(found["relevance"]["energy_share"]) == 3
    assert taught["cost"]["parameters"] == plain["cost"]["parameters"]
    header = history_of(run_directory(config, tmp_path))[0]
    assert header == f"epoch,learning_rate,ce,self_ce,{config.method},{watched}"
    # Tables never mix tasks.
    assert list(load_tables(tmp_path)) == [task]
    table = load_records(tmp_path, task=task).set_index("method")
    assert table.loc["student", best] == plain["results"][best]
    assert table.loc[config.method, f"self_teacher_{best}"] == found[best]
    assert table["top1"].isna().all() == of_pixels
    with pytest.raises(KdlibError, match="no record of detection"):
        load_records(tmp_path, task="detection")
    # The deployed network is plain, and its self-teacher can be looked at.
    tensors, _ = load_tensors(run_directory(config, tmp_path) / "weights.safetensors")
    create_model(config.student, classes).load_state_dict(tensors)
    data = load_data("scenes", "test", size=32, image_size=SIDE, task=task)
    quality = evaluate_student(refined_network(config, tmp_path, classes), None, data)
    assert quality["results"][best] == pytest.approx(found[best])
    with pytest.raises(KdlibError, match="'student' has no self-teacher"):
        refined_network(configs[0], tmp_path, classes)


@pytest.mark.parametrize(("config", "header"), [
    (tiny(method="frskd+kd", epochs=1), "epoch,learning_rate,ce,self_ce,frskd,kd,accuracy"),
    (masks(method="at+kd", epochs=1), "epoch,learning_rate,ce,at,kd,miou"),
])  # fmt: skip
def test_a_teacher_may_help(config, header, tmp_path):
    for run in (config.teacher_config(), config):
        (record,) = fit([run], tmp_path, progress=False)
    assert history_of(run_directory(config, tmp_path))[0] == header
    assert len(record["ssim"]) == 3
    assert (record["self_teacher"] is None) == (config.task == "segmentation")


def test_what_tells_rotations_is_deployed_as_a_plain_classifier(tmp_path):
    config = tiny(method="student", augmentation=["sla"], epochs=1)
    (record,) = fit([config], tmp_path, progress=False)
    network = trained_network(config, tmp_path, 16)
    data = load_data("scenes", "test", size=config.test_size, image_size=config.image_size)
    top1 = (predict(network, data).argmax(1) == data.labels).float().mean().item()
    results = record["results"]
    assert results["top1"] == pytest.approx(top1) == results["last_monitored_top1"]
    assert record["cost"]["parameters"] == count_parameters(network)


def test_photographs_with_masks_are_learnt_from(tmp_path):
    own = {"dataset": "voc", "train_size": None, "test_size": None, "batch_size": 3, "epochs": 1}
    config = masks(**own, augmentation=["flip", "random_crop"], gradient_clip=2.0)
    (record,) = fit([config], tmp_path, data_root=write_voc(tmp_path / "data"), progress=False)
    assert len(record["results"]["per_class"]) == 21 and 0 <= record["results"]["miou"] <= 1


@pytest.mark.parametrize(("changes", "says"), [
    ({"method": "crd"}, "'crd' is for classification and crops, not.*student, kd, at"),
    ({"method": "dct+gate"}, r"'dct\+gate' is for .*each without \+gate"),
    ({"student": "resnet8"}, "'resnet8' is not for task 'segmentation'"),
    ({"dataset": "cifar100"}, "'cifar100' has no truth for task 'segmentation'"),
    ({"augmentation": ["flip", "cutmix"]}, "'cutmix' changes the label of an image"),
])  # fmt: skip
def test_what_means_nothing_for_pixels_is_refused(changes, says, tmp_path):
    with pytest.raises(KdlibError, match=says):
        fit([masks(teacher="none", **changes)], tmp_path, progress=False)


FOLDER, LIST = "VOCdevkit/VOC2007", "ImageSets/Segmentation/test.txt"
MASK = "SegmentationClass/000004.png"


@pytest.fixture
def root(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path / "cache"))
    return write_voc(tmp_path)


def loaded(root: Path, split: str = "test", image_size: int = 512):
    return load_data("voc", split, image_size=image_size, data_root=root, task="segmentation")


def test_each_photograph_is_trained_on_once_and_none_that_is_tested(root, capsys):
    names = [Path(name).name for name in list_voc("segmentation", "train", root).names]
    stems = ("2007_000001", "2008_000010", "000002")
    assert names == [f"{stem}.{kind}" for kind in ("jpg", "png") for stem in stems]
    assert len(list_voc("segmentation", "test", root).names) == 4
    assert main(["data", "check", "voc", "--data-root", str(root)]) == 0
    said = "voc, test: 2 of 2 images read, 21 classes (background, aeroplane"
    assert said in capsys.readouterr().out


def test_a_window_of_the_full_size_shows_every_pixel_at_its_own_resolution(root):
    data = loaded(root)
    (batch,) = Batches(data, 8).in_order()
    assert (data.task, len(data.classes)) == ("segmentation", 21)
    assert batch.images.shape == (2, 3, 512, 512)
    for labels in batch.labels:
        places = torch.nonzero(labels != IGNORED)
        assert (places.amax(0) - places.amin(0) + 1).tolist() == [36, 60]  # all but the border
        _, counts = labels[labels != IGNORED].unique(return_counts=True)
        assert counts.tolist() == [36 * 30, 36 * 30]
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


@pytest.mark.parametrize("tag", range(2, 9))
def test_a_mask_of_a_photograph_that_exif_turns_fits_or_is_refused(root, tag):
    path, data = root / FOLDER / "JPEGImages/000004.jpg", loaded(root)
    before, seen = next(Batches(data, 8).in_order()), Image.open(path).convert("RGB")
    turned(path, seen, tag)
    if tag > 4:
        assert torch.equal(next(Batches(data, 8).in_order()).images, before.images)
        stored(path, seen, tag)
    with pytest.raises(KdlibError, match=rf"000004\.jpg is turned by its EXIF .*\({tag}\).* mask"):
        next(Batches(data, 8).in_order())
    stored(path, seen, 1)
    turned(root / FOLDER / MASK, Image.open(root / FOLDER / MASK), tag)
    with pytest.raises(KdlibError, match=r"000004\.png has an EXIF orientation"):
        next(Batches(data, 8).in_order())


def test_masks_of_one_class_alone_are_nothing_to_learn_from(root):
    alone = r"voc, train: the 3 .* one class alone \(background\)"
    for shade, says in ((0, alone), (255, "no ob")):
        for path in root.rglob("SegmentationClass/*.png"):
            Image.new("L", (60, 40), shade).save(path)
        with pytest.raises(KdlibError, match=says):
            loaded(root, "train")


@pytest.mark.parametrize(("file", "content", "says"), [
    ("JPEGImages/000004.jpg", b"JFIF", r"000004\.jpg cannot be read"),
    (MASK, b"PNG", r"000004\.png cannot be read"),
    (MASK, Image.new("RGB", (60, 40)), r"000004\.png has colours"),
    (MASK, Image.new("L", (30, 40)), r"000004\.jpg is 60 x 40 .*000004\.png says 30 x 40"),
    (MASK, Image.new("L", (60, 40), 21), r"000004\.png has the values 21; valid: 0 to 20"),
    (MASK, None, r"1 of 4 photographs are missing(.|\n)*000004\.png"),
    (LIST, None, r"test\.txt is missing(.|\n)*Segmentation(.|\n)*VOCDetection"),
    (LIST, b"", r"test\.txt is empty"),
])  # fmt: skip
def test_what_is_missing_or_damaged_is_named(file, content, says, root):
    path = root / FOLDER / file
    path.unlink()
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content:
        content.save(path)
    with pytest.raises(KdlibError, match=says):
        next(Batches(loaded(root), 8).in_order())
