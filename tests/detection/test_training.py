"""Detectors in the one training loop: records, resume, lock-step, and what is refused."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from training import history_of, killed_at_random, result_of

from kdlib.data import load_data
from kdlib.detection.evaluation import detect
from kdlib.errors import KdlibError
from kdlib.models import create_model
from kdlib.runs import RunConfig, needed_by, run_directory
from kdlib.train import fit

SMALL = {
    "task": "detection",
    "student": "scenes_ssd_tiny",
    "teacher": "scenes_small",
    "train_size": 32,
    "test_size": 16,
    "crop_size": 16,
    "batch_size": 16,
    "epochs": 2,
    "teacher_epochs": 1,
    "learning_rate": 0.01,
}
METHODS = ("student", "kd_cls", "loc", "kd_loc", "kd_cls_loc")


def run(**changes):
    return RunConfig.from_dict({**SMALL, **changes}).canonical()


def learn(config, root):
    """Train a run and, before it, its teacher."""
    for teacher in needed_by([config]):
        fit([teacher], root, progress=False)
    return fit([config], root, progress=False)[0]


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """All methods of one seed, in lock-step."""
    root = tmp_path_factory.mktemp("group")
    configs = [run(method=method) for method in METHODS]
    for teacher in needed_by(configs):
        fit([teacher], root, progress=False)
    return root, configs, fit(configs, root, progress=False)


def test_records_tell_the_quality_and_the_cost(group):
    for record in group[2]:
        results, cost = record["results"], record["cost"]
        assert 0 <= results["map"] <= results["map50"] <= 1
        assert len(results["ap_by_iou"]) == 10
        assert results["last_epoch"] == 2
        assert cost["flops"] > 0 and set(cost["latency_ms"]) == {"1", "16"}
        assert record["ssim"] is None and record["relevance"] is None


@pytest.mark.parametrize(
    ("method", "terms"),
    [
        ("student", set()),
        ("kd_cls", {"kd_cls"}),
        ("loc", {"loc"}),
        ("kd_loc", {"loc", "kd_loc"}),
        ("kd_cls_loc", {"kd_cls", "loc", "kd_loc"}),
    ],
)
def test_every_term_is_logged_by_name(group, method, terms):
    root, configs, _ = group
    directory = run_directory(configs[METHODS.index(method)], root)
    columns = (directory / "history.csv").read_text().splitlines()[0].split(",")
    common = {"epoch", "learning_rate", "bbox_regression", "classification", "map50", "seconds"}
    assert set(columns) == common | terms


def test_the_teacher_is_a_classifier_of_crops_whatever_the_student(group):
    _, configs, _ = group
    (teacher,) = needed_by(configs)
    assert (teacher.task, teacher.student, teacher.crop_size) == ("crops", "scenes_small", 16)
    assert needed_by([run(method="loc")]) == []


def test_alone_and_in_lock_step_are_the_same_to_the_bit(group, tmp_path):
    _, configs, records = group
    for method in ("kd_cls_loc", "loc"):
        place = METHODS.index(method)
        assert result_of(learn(configs[place], tmp_path)) == result_of(records[place])


def test_a_run_that_is_killed_again_and_again_ends_as_if_it_never_was(group, tmp_path):
    _, configs, records = group
    config = configs[-1]
    for teacher in needed_by([config]):
        fit([teacher], tmp_path, progress=False)
    killed_at_random(lambda root: fit([config], root, progress=False), tmp_path, 4.0)
    (record,) = fit([config], tmp_path, progress=False)
    assert result_of(record) == result_of(records[-1])
    own, other = (run_directory(config, root) for root in (tmp_path, group[0]))
    assert history_of(own) == history_of(other)


def test_weights_of_a_run_find_what_its_record_says(group):
    """A reader who loads them gets the detector that was judged."""
    root, configs, records = group
    data = load_data("scenes", "test", task="detection", size=16)
    detector = create_model("scenes_ssd_tiny", 68, image_size=64, mean=data.mean, std=data.std)
    weights = load_file(run_directory(configs[1], root) / "weights.safetensors")
    detector.load_state_dict(weights)
    found = detect(detector, data)
    assert sum(len(one.scores) for one in found) == records[1]["results"]["detections"]


def test_training_leaves_the_teachers_weights_alone(group, tmp_path):
    config = run(method="kd_cls_loc")
    (teacher,) = needed_by([config])
    fit([teacher], tmp_path, progress=False)
    path = run_directory(teacher, tmp_path) / "weights.safetensors"
    before = path.read_bytes()
    fit([config], tmp_path, progress=False)
    assert path.read_bytes() == before


def test_a_plain_detector_is_one_run_whatever_crops_and_teacher_would_be():
    plain = [run(crop_size=size, teacher=name) for size, name in ((16, "none"), (24, "vgg8"))]
    assert plain[0].run_id == plain[1].run_id
    assert run(method="loc", crop_size=16).run_id != run(method="loc", crop_size=24).run_id


def test_a_teacher_of_other_classes_is_refused(tmp_path):
    other = tmp_path / "other.safetensors"
    network = create_model("scenes_small", 5)
    save_file(network.state_dict(), other, {"facts": json.dumps({"classes": 5})})
    config = run(method="kd_cls", teacher_weights=str(other))
    with pytest.raises(KdlibError, match="5"):
        fit([config], tmp_path, progress=False)


def test_a_missing_teacher_is_told_with_what_to_do(tmp_path):
    with pytest.raises(KdlibError, match="Train it first"):
        fit([run(method="kd_cls")], tmp_path, progress=False)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "kd"}, "not for task 'detection'"),
        ({"method": "dct"}, "Valid there: student, kd_cls, loc, kd_loc, kd_cls_loc"),
        (
            {"method": "kd_cls", "task": "classification", "student": "scenes_small"},
            "for detection",
        ),
        ({"method": "kd_cls", "teacher": "none"}, "name a teacher"),
        ({"method": "loc", "method_options": {"layers": []}}, "at least one"),
        ({"method": "loc", "method_options": {"layers": [-2]}}, "-1 for the pixels"),
        ({"method": "loc", "method_options": {"layers": [0]}}, "name a teacher"),
        ({"method": "kd_loc", "method_options": {"loc": -1.0}}, "not be negative"),
        (
            {"method": "kd_cls", "method_options": {"sigmoid": "softmax"}},
            "kl_ce, kl_bce",
        ),
        ({"method": "kd_cls", "method_options": {"temperature": 0.0}}, "greater than 0"),
        ({"method": "kd_cls", "method_options": {"beta": 1.0}}, "Unknown option"),
        ({"method": "kd_cls", "method_options": {"layers": 3}}, "like its default"),
        ({"student": "scenes_small"}, "not for task 'detection'"),
        ({"augmentation": ["mixup"]}, "Unknown augmentation"),
        ({"method": "kd_loc", "method_options": {"layers": [9]}}, "stages"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(changes, words, tmp_path):
    config = run(**changes)
    with pytest.raises(KdlibError, match=words):
        learn(config, tmp_path)
    assert not (run_directory(config, tmp_path) / "record.json").exists()


@pytest.mark.parametrize("method", ["kd_cls+kd", "kd_loc+gate"])
def test_kd_and_gate_are_no_modifiers_here(method, tmp_path):
    config = run(method=method)
    with pytest.raises(KdlibError, match="takes no modifier"):
        fit([config], tmp_path, progress=False)


def test_methods_with_crops_of_different_sizes_do_not_share_a_step(tmp_path):
    pair = [run(method="loc", crop_size=size) for size in (16, 24)]
    with pytest.raises(KdlibError, match="must share 'crop_size'"):
        fit(pair, tmp_path, progress=False)


def test_another_precision_trains_too(tmp_path):
    record = learn(run(method="kd_cls_loc", precision="bfloat16", epochs=1), tmp_path)
    assert record["provenance"]["precision"] == "bfloat16"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_too(tmp_path):
    config = run(method="kd_cls_loc")
    (teacher,) = needed_by([config])
    fit([teacher], tmp_path, device="cuda", progress=False)
    (record,) = fit([config], tmp_path, device="cuda", progress=False)
    assert record["provenance"]["device"] == "cuda"
