"""The published numbers of detectors: what stands in for them, what would run them."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic import scatter, write_run

from kdlib.runs import RunConfig
from study.ledger.commands import recipe_of
from study.ledger.page import make_ledger
from study.ledger.rows import (
    AGREES,
    DETECTORS_METHODS_OF,
    DISAGREES,
    METRICS,
    NOT_OFFERED,
    NOT_RUN,
    REFERENCE,
    SAME,
    UNDECIDED,
    asked_of,
    published_numbers,
)
from study.records import load_records

SETTING = RunConfig(task="detection", student="scenes_ssd", teacher="scenes_medium", crop_size=24)
MAP = {"student": 0.40, "kd_cls": 0.42, "loc": 0.38, "kd_loc": 0.45, "kd_cls_loc": 0.50}


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """Three seeds of each method on Scenes, and an ablation that stands for none of them."""
    root = tmp_path_factory.mktemp("detectors")
    for seed in range(3):
        seeds = {"data_seed": seed, "init_seed": seed}
        for method, ap in MAP.items():
            shift = 0.01 * seed + scatter(method, seed) / 10
            write_run(root, replace(SETTING, method=method, **seeds), ap + shift)
        hot = {"method": "kd_cls", "method_options": {"temperature": 1.0}}
        write_run(root, replace(SETTING, **hot, **seeds), 0.2)
    found = make_ledger(load_records(root, task=None)).numbers
    return found[found["paper"] == "classifier-to-detector"]


def row_of(numbers, **wanted):
    chosen = np.logical_and.reduce([numbers[name] == value for name, value in wanted.items()])
    return numbers[chosen].iloc[0]


def published(**wanted):
    return row_of(published_numbers(), paper="classifier-to-detector", **wanted)


def test_every_number_is_judged_has_a_command_or_a_reason(numbers):
    assert len(numbers) == 166 and set(numbers["metric"]) == set(METRICS)
    told = (numbers["ours_n"] > 0) | (numbers["command"] != "") | (numbers["reason"] != "")
    assert told.all() and numbers["traps"].map(len).all()


@pytest.mark.parametrize(
    ("method", "metric", "status"),
    [
        ("student", "mAP", REFERENCE),
        ("KD_cls", "mAP", AGREES),
        ("loc (pixels)", "mAP", DISAGREES),
        ("loc (pixels)", "AP50", AGREES),  # published as a loss
        ("loc + KD_loc", "AP80", AGREES),
        ("loc + KD_loc", "AP50", UNDECIDED),  # within what claims nothing
        ("KD_cls + loc + KD_loc", "APs", AGREES),
        ("KD_cls + loc + KD_loc", "APl", NOT_RUN),  # Scenes made up here has none
    ],
)
def test_a_small_ssd_stands_in_metric_by_metric(numbers, method, metric, status):
    row = row_of(numbers, student="SSD300-VGG16", method=method, metric=metric)
    assert row["status"] == status
    if row["ours_n"]:
        assert (row["ours_method"], row["ours_n"]) == (DETECTORS_METHODS_OF[method], 3)


def test_gains_are_those_of_the_metric_and_of_no_ablation(numbers):
    row = row_of(numbers, student="SSD300-VGG16", method="KD_cls", metric="AP75")
    assert row["ours_mean"] == pytest.approx(41, abs=0.2)
    assert row["ours_gain"] == pytest.approx(2, abs=0.2)


def test_nothing_stands_in_for_other_kinds_teachers_and_sweeps(numbers):
    measured = numbers[numbers["ours_n"] > 0]
    assert set(measured["student"]) == {"SSD300-VGG16", "SSD512-VGG16"}
    assert set(measured["teacher"]) == {"ResNet-50 (crops)"}
    swept = measured[measured["method"].str.contains("lambda")]
    assert swept["method"].tolist() == ["KD_cls lambda .4 T 2"]


def test_a_detector_alone_is_compared_with_whoever_teaches_it_elsewhere():
    row = published(student="RetinaNet-R50", method="KD_cls + loc + KD_loc")
    assert row["gain"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("FGFI", "method FGFI is not offered"),
        ("KD_cls + loc + KD_loc + FKD", "is not offered"),
        ("KD (detector teacher)", "is not offered"),
    ],
)
def test_methods_that_there_are_not_are_named(method, words):
    assert words in recipe_of(published(student="Faster R-CNN-R50", method=method)).reason


def test_networks_that_there_are_not_are_named(numbers):
    row = published(student="Faster R-CNN-QR50", method="KD_cls", metric="mAP")
    assert recipe_of(row).reason == "network Faster R-CNN-QR50 is not offered"
    row = published(teacher="ResNeXt-101 (crops)")
    assert recipe_of(row).reason == "network ResNeXt-101 (crops) is not offered"
    assert row_of(numbers, teacher="ResNeXt-101 (crops)")["status"] == NOT_OFFERED


def test_the_profile_runs_the_protocol_and_sweeps_are_runs_of_their_own():
    recipe = recipe_of(published(student="SSD300-VGG16", method="KD_cls", metric="mAP"))
    assert recipe.command == "make reproduce PROFILE=detection DATASET=coco METHODS=kd_cls"
    assert (recipe.run.student, recipe.run.task) == ("ssd300_vgg16", "detection")
    swept = recipe_of(published(method="KD_cls lambda .1 T 1"))
    assert swept.command.startswith("python -m kdlib run 05_distill")
    assert (swept.run.weight, swept.run.method_options["temperature"]) == (0.1, 1.0)
    assert recipe_of(published(method="KD_cls lambda .4 T 2")).run == recipe.run
    assert asked_of("KD_cls lambda .4 T 2") == asked_of("KD_cls")
    taught = recipe_of(published(teacher="ResNet-18 (crops)"))
    assert taught.run.teacher == "resnet18" and "resnet18" in taught.command


def test_the_published_protocol_is_compared_by_value(tmp_path):
    wanted = {"student": "SSD300-VGG16", "method": "KD_cls", "metric": "AP80"}
    write_run(tmp_path, recipe_of(published(**wanted)).run, 0.25)
    found = row_of(make_ledger(load_records(tmp_path, task=None)).numbers, **wanted)
    assert found["status"] == SAME
    assert found["ours_difference"] == pytest.approx(19 - 21.0)
