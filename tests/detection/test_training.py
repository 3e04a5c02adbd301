"""Detectors in the one training loop: records, resume, lock-step, photographs, what is refused."""

import json
import math
import shutil

import pytest
import torch
from detection.detectors import CLASSES, DETECTORS, SIZE, detector
from safetensors.torch import load_file, save_file
from training import history_of, killed_at_random, result_of

from kdlib.data import load_data
from kdlib.detection.batches import DetectionBatches
from kdlib.detection.evaluation import detect, evaluate_detectors
from kdlib.detection.losses import CropLoss
from kdlib.detection.teacher import CropTeacher
from kdlib.errors import KdlibError
from kdlib.models import create_model
from kdlib.runs import RunConfig, needed_by, run_directory
from kdlib.train import fit

SMALL = {
    "task": "detection", "student": "scenes_ssd_tiny", "teacher": "scenes_small",
    "train_size": 32, "test_size": 16, "crop_size": 16, "batch_size": 16, "epochs": 2,
    "teacher_epochs": 1, "learning_rate": 0.01,
}  # fmt: skip
TERMS = {
    "student": set(), "kd_cls": {"kd_cls"}, "loc": {"loc"}, "kd_loc": {"loc", "kd_loc"},
    "kd_cls_loc": {"kd_cls", "loc", "kd_loc"},
}  # fmt: skip
METHODS = tuple(TERMS)


def run(**changes):
    return RunConfig(**{**SMALL, **changes}).canonical()


def learn(config, root, **place):
    """Train a run and, before it, its teacher."""
    for needed in (*needed_by([config]), config):
        (record,) = fit([needed], root, progress=False, **place)
    return record


@pytest.fixture(scope="module", autouse=True)
def quick_costs():
    """Latencies are measured once: untrained detectors find much, which takes long to select."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdlib.models.output.ENOUGH_S", 0.0)
        yield


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """All methods of one seed, in lock-step, and the weights of their teacher before."""
    root = tmp_path_factory.mktemp("group")
    configs = [run(method=method) for method in METHODS]
    (teacher,) = needed_by(configs)
    fit([teacher], root, progress=False)
    weights = (run_directory(teacher, root) / "weights.safetensors").read_bytes()
    return root, configs, fit(configs, root, progress=False), weights


@pytest.fixture
def taught(group, tmp_path):
    """A folder with the teacher alone."""
    (teacher,) = needed_by(group[1])
    shutil.copytree(run_directory(teacher, group[0]), run_directory(teacher, tmp_path))
    return tmp_path


def test_records_tell_the_quality_the_cost_and_every_term_by_name(group):
    root, configs, records, _ = group
    common = {"epoch", "learning_rate", "bbox_regression", "classification", "map50", "seconds"}
    for config, record in zip(configs, records, strict=True):
        results, cost = record["results"], record["cost"]
        assert 0 <= results["map"] <= results["map50"] <= 1
        assert len(results["ap_by_iou"]) == 10 and results["last_epoch"] == 2
        assert cost["flops"] > 0 and set(cost["latency_ms"]) == {"1", "16"}
        assert record["ssim"] is None and record["relevance"] is None
        columns = (run_directory(config, root) / "history.csv").read_text().splitlines()[0]
        assert set(columns.split(",")) == common | TERMS[config.method]


def test_the_teacher_is_a_classifier_of_crops_that_training_leaves_alone(group):
    root, configs, _, weights = group
    (teacher,) = needed_by(configs)
    assert (teacher.task, teacher.student, teacher.crop_size) == ("crops", "scenes_small", 16)
    assert needed_by([run(method="loc")]) == []
    assert (run_directory(teacher, root) / "weights.safetensors").read_bytes() == weights


def test_alone_killed_or_in_lock_step_a_run_ends_the_same_to_the_bit(group, taught):
    root, configs, records, _ = group
    killed_at_random(lambda place: fit([configs[4]], place, progress=False), taught, 2.0)
    for place in (2, 4):
        (record,) = fit([configs[place]], taught, progress=False)
        assert result_of(record) == result_of(records[place])
        own, other = (run_directory(configs[place], folder) for folder in (taught, root))
        assert history_of(own) == history_of(other)


def test_weights_of_a_run_find_what_its_record_says(group):
    """A reader who loads them gets the detector that was judged."""
    root, configs, records, _ = group
    data = load_data("scenes", "test", task="detection", size=16)
    network = create_model("scenes_ssd_tiny", 68, image_size=64, mean=data.mean, std=data.std)
    network.load_state_dict(load_file(run_directory(configs[1], root) / "weights.safetensors"))
    found = detect(network, data)
    assert sum(len(one.scores) for one in found) == records[1]["results"]["detections"]


def test_a_plain_detector_is_one_run_whatever_crops_and_teacher_would_be():
    plain = [run(crop_size=size, teacher=name) for size, name in ((16, "none"), (24, "vgg8"))]
    assert plain[0].run_id == plain[1].run_id
    assert run(method="loc", crop_size=16).run_id != run(method="loc", crop_size=24).run_id


def test_a_teacher_that_is_missing_or_of_other_classes_is_refused(tmp_path):
    other = tmp_path / "other.safetensors"
    network = create_model("scenes_small", 5)
    save_file(network.state_dict(), other, {"facts": json.dumps({"classes": 5})})
    for weights, words in ((str(other), "5"), (None, "Train it first")):
        with pytest.raises(KdlibError, match=words):
            fit([run(method="kd_cls", teacher_weights=weights)], tmp_path, progress=False)


@pytest.mark.parametrize(("changes", "words"), [
    ({"method": "kd"}, "not for task 'detection'"),
    ({"method": "dct"}, "Valid there: student, kd_cls, loc, kd_loc, kd_cls_loc"),
    ({"method": "kd_cls", "task": "classification", "student": "scenes_small"}, "for detection"),
    ({"method": "kd_cls", "teacher": "none"}, "name a teacher"),
    ({"method": "loc", "method_options": {"layers": []}}, "at least one"),
    ({"method": "loc", "method_options": {"layers": [-2]}}, "-1 for the pixels"),
    ({"method": "loc", "method_options": {"layers": [0]}}, "name a teacher"),
    ({"method": "kd_loc", "method_options": {"loc": -1.0}}, "not be negative"),
    ({"method": "kd_cls", "method_options": {"sigmoid": "softmax"}}, "kl_ce, kl_bce"),
    ({"method": "kd_cls", "method_options": {"temperature": 0.0}}, "greater than 0"),
    ({"method": "kd_cls", "method_options": {"beta": 1.0}}, "Unknown option"),
    ({"method": "kd_cls", "method_options": {"layers": 3}}, "should be a valid list"),
    ({"method": "kd_loc", "method_options": {"layers": [9]}}, "stages"),
    ({"method": "kd_cls+kd"}, "takes no modifier"),
    ({"method": "kd_loc+gate"}, "takes no modifier"),
    ({"student": "scenes_small"}, "not for task 'detection'"),
    ({"augmentation": ["mixup"]}, "Unknown augmentation"),
])  # fmt: skip
def test_what_makes_no_sense_is_refused_with_the_reason(changes, words, taught):
    config = run(**changes)
    with pytest.raises(KdlibError, match=words):
        learn(config, taught)
    assert not (run_directory(config, taught) / "record.json").exists()


def test_methods_with_crops_of_different_sizes_do_not_share_a_step(tmp_path):
    pair = [run(method="loc", crop_size=size) for size in (16, 24)]
    with pytest.raises(KdlibError, match="must share 'crop_size'"):
        fit(pair, tmp_path, progress=False)


def test_another_precision_trains_too(taught):
    config = run(method="kd_cls_loc", precision="bfloat16", epochs=1)
    assert learn(config, taught)["provenance"]["precision"] == "bfloat16"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_too(tmp_path):
    record = learn(run(method="kd_cls_loc"), tmp_path, device="cuda")
    assert record["provenance"]["device"] == "cuda"


def step(name: str, dataset: str, root, network=None):
    """Loss terms of one step on photographs, whose gradients are checked."""
    data = load_data(dataset, "train", task="detection", data_root=root)
    classes = len(data.classes)
    network = network or create_model(name, classes, image_size=SIZE)
    teacher = CropTeacher(create_model("scenes_small", classes), 16, data.mean, data.std)
    batches = DetectionBatches(data.first(4), 4, ("flip", "photometric", "iou_crop"), workers=0)
    (batch,) = batches.epoch(0, 0)
    answer = network.train()(batch.images, batch.targets)
    taught = CropLoss()(answer, teacher.teach(batch), batch)
    loss = torch.stack([*answer.losses.values(), *taught.values()]).sum()
    loss.backward()
    assert set(taught) == {"kd_cls", "loc", "kd_loc"} and math.isfinite(loss.item())
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
    network.zero_grad()
    test = load_data(dataset, "test", task="detection", data_root=root)
    (quality,) = evaluate_detectors([network], test.first(2))
    assert 0 <= quality["results"]["map"] <= 1
    assert len(quality["results"]["per_class"]) == classes


@pytest.mark.parametrize("name", [name for name in DETECTORS if "scenes" not in name])
def test_each_detector_of_torchvision_takes_a_step_on_photographs(name, photographs):
    dataset, root = photographs
    if dataset == "voc":
        step(name, dataset, root, detector(name))
        assert CLASSES == 20
    elif name == "ssdlite320_mobilenet_v3_large":
        step(name, dataset, root)


def test_a_whole_run_on_photographs_ends_twice_the_same(photographs, tmp_path):
    """Loaded, cropped, trained, evaluated, recorded, as any other run."""
    dataset, root = photographs
    config = run(
        dataset=dataset, teacher="resnet8", method="kd_cls_loc", train_size=4, test_size=2,
        image_size=SIZE, crop_size=32, epochs=1, batch_size=2, augmentation=("flip", "zoom_out"),
    )  # fmt: skip
    once, again = (learn(config, tmp_path / place, data_root=root) for place in ("1", "2"))
    assert result_of(once) == result_of(again)
