"""Detectors in the one training loop: records, resume, lock-step, photographs, what is refused."""

import re
import shutil

import pytest
from detection.detectors import SIZE
from training import check_like, history_of, result_of

from kdlib import KdlibError, RunConfig, fit, load_data, trained_network
from kdlib.detection.evaluation import detect
from kdlib.runs import needed_by, run_directory

SMALL = {
    "task": "detection", "student": "scenes_ssd_tiny", "teacher": "scenes_small",
    "train_size": 32, "test_size": 8, "crop_size": 16, "batch_size": 16, "epochs": 2,
    "teacher_epochs": 1, "learning_rate": 0.01,
}  # fmt: skip
TERMS = {
    "student": set(), "kd_cls": {"kd_cls"}, "loc": {"loc"}, "kd_loc": {"loc", "kd_loc"},
    "kd_cls_loc": {"kd_cls", "loc", "kd_loc"},
}  # fmt: skip


def run(**changes):
    return RunConfig(**{**SMALL, **changes}).canonical()


PUBLISHED = {
    "voc": ("fasterrcnn_mobilenet_v3_large_fpn",
            "loss_classifier,loss_box_reg,loss_objectness,loss_rpn_box_reg"),
    "coco": ("ssdlite320_mobilenet_v3_large", "bbox_regression,classification"),
}  # fmt: skip
CONFIGS = [run(method=method) for method in TERMS]
(TEACHER,) = needed_by(CONFIGS)


def learn(config, root, **place):
    """Train a run and, before it, its teacher."""
    for needed in (*needed_by([config]), config):
        (record,) = fit([needed], root, progress=False, **place)
    return record


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    """All methods of one seed, in lock-step, and the weights of their teacher before."""
    root = tmp_path_factory.mktemp("group")
    fit([TEACHER], root, progress=False)
    weights = (run_directory(TEACHER, root) / "weights.safetensors").read_bytes()
    return root, fit(CONFIGS, root, progress=False), weights


def test_records_tell_the_quality_the_cost_and_every_term_by_name(group):
    root, records, weights = group
    common = {"epoch", "learning_rate", "bbox_regression", "classification", "map50", "seconds"}
    for config, record in zip(CONFIGS, records, strict=True):
        results, cost = record["results"], record["cost"]
        assert 0 <= results["map"] <= results["map50"] <= 1
        assert len(results["ap_by_iou"]) == 10 and results["last_epoch"] == 2
        assert cost["flops"] > 0 and set(cost["latency_ms"]) == {"1", "8"}
        assert record["ssim"] is None and record["relevance"] is None
        columns = (run_directory(config, root) / "history.csv").read_text().splitlines()[0]
        assert set(columns.split(",")) == common | TERMS[config.method]
    assert (TEACHER.task, TEACHER.student, TEACHER.crop_size) == ("crops", "scenes_small", 16)
    assert needed_by([run(method="loc")]) == []
    assert (run_directory(TEACHER, root) / "weights.safetensors").read_bytes() == weights
    # A reader who loads the weights gets the detector that was judged.
    data = load_data("scenes", "test", task="detection", size=8)
    own = {"image_size": 64, "mean": data.mean, "std": data.std}
    network = trained_network(CONFIGS[1], root, 68, **own)
    found = sum(len(one.scores) for one in detect(network, data))
    assert found == records[1]["results"]["detections"]


def test_alone_or_in_lock_step_a_run_ends_the_same_to_the_bit(group, tmp_path):
    shutil.copytree(run_directory(TEACHER, group[0]), run_directory(TEACHER, tmp_path))
    for config in (CONFIGS[2], CONFIGS[4]):
        fit(config, tmp_path, progress=False)
        check_like(run_directory(config, tmp_path), run_directory(config, group[0]))


def test_a_plain_detector_is_one_run_whatever_crops_and_teacher_would_be(group):
    plain = [run(crop_size=size, teacher=name) for size, name in ((16, "none"), (24, "vgg8"))]
    assert plain[0].run_id == plain[1].run_id
    pair = [run(method="loc", crop_size=size) for size in (16, 24)]
    assert pair[0].run_id != pair[1].run_id
    weights = str(run_directory(CONFIGS[0], group[0]) / "weights.safetensors")
    for configs, words in (
        (pair, "must share 'crop_size'"),
        ([run(method="kd_cls", teacher_weights=weights)], "do not fit.*Name the architecture"),
        (needed_by([run(method="kd_cls", teacher="scenes_ssd")]), "not for task 'crops'"),
    ):
        with pytest.raises(KdlibError, match=re.compile(words, re.DOTALL)):
            fit(configs, group[0], progress=False)


@pytest.mark.parametrize(("method", "changes", "words"), [
    ("kd", {}, "not for task 'detection'"),
    ("dct", {}, "Valid there: student, kd_cls, loc, kd_loc, kd_cls_loc"),
    ("kd_cls", {"task": "crops", "student": "scenes_small"}, "is for detection, not for task"),
    ("kd_cls", {"teacher": "none"}, "learns from a teacher; name one"),
    ("kd_cls", {"teacher": "scenes_medium"}, "weights are missing.*Train it first"),
    ("kd_cls+kd", {}, "takes no modifier"), ("kd_loc+gate", {}, "takes no modifier"),
    ("student", {"student": "scenes_small"}, "not for task 'detection'"),
    ("student", {"augmentation": ["mixup"]}, "Unknown augmentation"),
    *((method, {"method_options": options}, words) for method, options, words in (
        ("loc", {"layers": []}, "at least one"), ("loc", {"layers": [-2]}, "-1 for the pixels"),
        ("loc", {"layers": [0]}, "name a teacher"), ("kd_loc", {"loc": -1.0}, "not be negative"),
        ("kd_cls", {"temperature": 0.0}, "greater than 0"),
        ("kd_loc", {"layers": [9]}, r"has 3 stages, so layers may be -1 \(pixels\) to 2"),
    )),
])  # fmt: skip
def test_what_makes_no_sense_is_refused_with_the_reason(method, changes, words, group):
    config = run(method=method, **changes)
    with pytest.raises(KdlibError, match=words):
        fit([config], group[0], progress=False)
    assert not (run_directory(config, group[0]) / "record.json").exists()


def test_a_whole_run_on_photographs_ends_twice_the_same(photographs, tmp_path):
    """Loaded, cropped, trained, evaluated, recorded, as any other run; with one of torchvision."""
    (dataset, root), (student, losses) = photographs, PUBLISHED[photographs[0]]
    config = run(
        dataset=dataset, student=student, teacher="resnet8", method="kd_cls_loc",
        train_size=6, test_size=2, image_size=SIZE, crop_size=32, epochs=1, batch_size=4,
        augmentation=("flip", "photometric", "iou_crop", "zoom_out"), learning_rate=1e-3,
    )  # fmt: skip
    once, again = (learn(config, tmp_path / place, data_root=root) for place in ("1", "2"))
    assert result_of(once) == result_of(again) and 0 <= once["results"]["map"] <= 1
    header = history_of(run_directory(config, tmp_path / "1"))[0]
    assert header == f"epoch,learning_rate,{losses},kd_cls,loc,kd_loc,map50"
