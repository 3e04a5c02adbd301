"""FRSKD's tables from records: names of its variants, the control of equal compute, verdicts."""

from dataclasses import replace

import pytest
from synthetic import edit_record, write_run

from kdlib.runs import RunConfig
from study.profiles import plain_epochs
from study.records import load_records, runs_of
from study.statistics import (
    JOINT,
    LONGER,
    OF_PIXELS,
    PIXEL_CLAIMS,
    gains_by,
    longer_students,
    refinement_verdicts,
    self_taught_runs,
    summary,
)

SETTING = RunConfig(epochs=5)
OPTIONS = {"width": 1}
TOP1 = {"student": 0.60, "frskd": 0.70, "frskd_dct": 0.69}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Three seeds of a student, FRSKD and two variants; students that are longer or mixed."""
    root = tmp_path_factory.mktemp("records")
    frskd = replace(SETTING, method="frskd", method_options=OPTIONS)
    for seed in (0, 1, 2):
        seeds = {"data_seed": seed, "init_seed": seed}
        for method, top1 in TOP1.items():
            run = replace(frskd, method=method, **seeds)
            directory = write_run(root, run, top1 + seed / 100 + 0.001 * (seed == 1))
            if method == "frskd":
                edit_record(directory, self_teacher=self_teacher(top1 + 0.1))
        joint = {"width": 1, "alpha": 0.0, "beta": 0.0}
        write_run(root, replace(frskd, method="frskd_options", method_options=joint, **seeds), 0.65)
        longer = replace(SETTING, epochs=plain_epochs(frskd), **seeds)
        write_run(root, longer, 0.75 + seed / 100)
    other = {"width": 1, "feature": "fitnet"}
    write_run(root, replace(frskd, method="frskd_options", method_options=other), 0.66)
    mixed = replace(frskd, augmentation=("flip", "mixup"))
    write_run(root, mixed, 0.72)
    write_run(root, replace(mixed, method="student"), 0.61)
    write_run(root, replace(frskd, epochs=20), 0.9)
    write_run(root, replace(SETTING, epochs=20), 0.7)
    return root


def self_teacher(top1):
    return {"top1": top1, "top5": 1.0, "mca": top1, "relevance": None, "parameters": 9, "flops": 9}


@pytest.fixture(scope="module")
def runs(root):
    table = load_records(root)
    main = runs_of(table, "scenes", 2)
    return table, main, self_taught_runs(table, main)


def test_variants_are_named_by_what_they_change(runs):
    labels = set(runs[2]["label"])
    assert labels == {"student", "frskd", "frskd_dct", JOINT, "frskd_fitnet", LONGER}


def test_a_row_tells_both_accuracies(runs):
    found = summary(runs[2])
    assert list(found.index[:2]) == ["student", LONGER]
    assert found.loc["frskd", "self_teacher"] == pytest.approx(0.8)
    assert found.loc["frskd", "n"] == 3 and found["self_teacher"].isna().sum() == len(found) - 1


def test_the_student_of_equal_compute_differs_in_epochs_alone(runs):
    table, main, _ = runs
    longer = longer_students(table, main)
    config = RunConfig(method="frskd", method_options=OPTIONS, epochs=5)
    assert set(longer["epochs"]) == {plain_epochs(config)} and len(longer) == 3


def test_equal_epochs_and_equal_compute_are_judged_apart(runs):
    found = refinement_verdicts(runs[2]).set_index("claim")["verdict"]
    assert found["FRSKD helps a student at equal epochs"] == "holds"
    assert found["FRSKD helps a student at equal compute"] == "does not hold"
    assert "It helps with the published weights" not in found


def test_gains_by_augmentation_count_common_seeds(runs):
    table, main, _ = runs
    found = gains_by("augmentation", table, main).set_index("augmentation")
    mixed = found.loc['["flip", "mixup"]']
    assert mixed["gain"] == pytest.approx(0.11) and mixed["n"] == 1
    usual = found.loc['["flip"]']
    assert (usual["n"], usual["self_teacher"]) == (3, pytest.approx(0.8))


def test_gains_by_epochs_are_told_method_by_method(runs):
    table, main, _ = runs
    found = gains_by("epochs", table, main, ("frskd", "frskd_dct"))
    assert found["epochs"].tolist() == [5, 5, 20]
    assert found["method"].tolist() == ["frskd", "frskd_dct", "frskd"]
    assert found["gain"].tolist() == pytest.approx([0.1, 0.09, 0.2])


def test_without_frskd_there_is_nothing_to_compare(tmp_path):
    write_run(tmp_path, SETTING)
    table = load_records(tmp_path)
    alone = self_taught_runs(table, runs_of(table, "scenes", 2))
    assert set(alone["label"]) == {"student"} and refinement_verdicts(alone).empty
    assert gains_by("augmentation", table, alone).empty


def test_of_pixels_it_is_the_iou_that_is_compared(tmp_path):
    pixels = replace(SETTING, task="segmentation", student="scenes_segmenter", epochs=4)
    taught = replace(pixels, method=OF_PIXELS, method_options=OPTIONS)
    longer = replace(pixels, epochs=plain_epochs(taught))
    for seed in range(3):
        for run, iou in ((pixels, 0.5), (taught, 0.6), (longer, 0.7)):
            own = replace(run, data_seed=seed, init_seed=seed)
            write_run(tmp_path, own, iou + seed / 100 + 0.001 * (seed == 1) * (run is taught))
    table = load_records(tmp_path, task="segmentation")
    found = self_taught_runs(table, runs_of(table, "scenes", 2), OF_PIXELS)
    shown = summary(found)
    assert shown["miou"].to_dict() == pytest.approx(
        {"student": 0.51, LONGER: 0.71, OF_PIXELS: 0.61033}, abs=1e-4
    )
    judged = refinement_verdicts(found, PIXEL_CLAIMS).set_index("claim")["verdict"].tolist()
    assert judged == ["holds", "does not hold"]
