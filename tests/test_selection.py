"""Which runs a notebook reads, out of a folder that holds several settings."""

import pytest
from synthetic import write_grid, write_run

from kdlib.errors import KdlibError
from kdlib.runs import RunConfig
from study.records import load_records, runs_of, sweep_of

METHODS = ("student", "at", "dct")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A sweep over attentions, a reader's smaller trial, a dev split, another data set."""
    root = tmp_path_factory.mktemp("mixed")
    write_grid(root, METHODS, attentions=(1, 2, 4))
    write_grid(root, METHODS, seeds=[0], train_size=2000)
    write_grid(root, [*METHODS, "kd"], seeds=range(5), split="dev")
    write_grid(root, ["dct"], seeds=[0], dataset="fashion_scenes")
    return load_records(root)


def test_the_largest_setting_of_the_test_set_is_taken_with_its_teachers(table):
    runs = runs_of(table, "scenes", 2)
    students = runs[runs["student"] == "scenes_medium"]
    assert len(students) == 9 and set(students["split"]) == {"train"}
    assert students["train_size"].isna().all() and set(students["attentions"]) == {2}
    assert set(runs["student"]) == {"scenes_medium", "scenes_large"}


def test_a_setting_can_be_asked_for_by_its_hash(table):
    trial = table[(table["train_size"] == 2000) & (table["method"] == "dct")].iloc[0]
    runs = runs_of(table, "scenes", 2, trial["setting"])
    assert set(runs["train_size"]) == {2000} and len(runs) == len(METHODS) + 1


def test_what_is_missing_is_said_with_what_there_is(table):
    with pytest.raises(KdlibError, match="'cifar100'.*fashion_scenes.*make reproduce"):
        runs_of(table, "cifar100", 2)
    with pytest.raises(KdlibError, match="setting nonsense.*scenes, attentions 1"):
        runs_of(table, "scenes", 2, "nonsense")
    with pytest.raises(KdlibError, match="'cifar100'"):
        sweep_of(table, "cifar100")


def test_a_sweep_differs_in_attentions_alone(table):
    runs = sweep_of(table, "scenes")
    students = runs[runs["student"] == "scenes_medium"]
    assert sorted(set(students["attentions"])) == [1, 2, 4] and len(students) == 27
    assert students["train_size"].isna().all() and set(runs["split"]) == {"train"}
    assert len(runs) == 27 + 3 and runs["run_id"].is_unique


def test_teachers_whose_students_are_still_to_come_are_no_sweep(tmp_path):
    write_grid(tmp_path, METHODS, attentions=(2,))
    for number in (1, 3, 4):
        write_run(tmp_path, RunConfig(attentions=number, method="dct").teacher_config(), 0.8)
    runs = sweep_of(load_records(tmp_path), "scenes")
    assert set(runs["attentions"]) == {2} and len(runs) == 9 + 1
