"""A batch's jobs name exactly the runs that are missing, and ask the notebooks for just those."""

import json
from dataclasses import replace

import pytest

from kdlib.files import write_json
from kdlib.runs import RunConfig, run_directory
from study.jobs import STUDENTS_NOTEBOOK, TEACHER_NOTEBOOK, as_plan, plan, record_path
from study.notebooks import NOTEBOOKS, parameter_defaults
from study.profiles import expand

FOLDERS = {"runs_root", "data_root"}


def runs(*methods: str, **changes: object) -> list[RunConfig]:
    configs = [RunConfig(**{"method": method, **changes}) for method in methods]
    return [config.canonical() for config in configs]


def finish(run: RunConfig, root) -> None:
    write_json(run_directory(run, root) / "record.json", {})


def planned(wanted, root, largest=6) -> list[str]:
    return [run.run_id for job in plan(wanted, root, largest) for run in job.runs]


def as_notebook_05(parameters) -> list[RunConfig]:
    """The runs that the students' notebook makes of its parameters."""
    shared = {n: v for n, v in parameters.items() if n not in ("methods", "options")}
    pairs = zip(parameters["methods"], parameters["options"], strict=True)
    return [RunConfig(**{**shared, "method": m, **o}).canonical() for m, o in pairs]


def test_every_run_is_in_one_job_after_its_teacher(tmp_path):
    wanted = runs("student", "kd", "at", "dct")
    names = planned(wanted, tmp_path)
    assert names[0] == wanted[1].teacher_config().run_id
    assert sorted(names[1:]) == sorted(run.run_id for run in wanted)


def test_what_is_finished_is_no_job(tmp_path):
    wanted = runs("kd", "at")
    finish(wanted[0], tmp_path)
    finish(wanted[0].teacher_config(), tmp_path)
    assert planned(wanted, tmp_path) == [wanted[1].run_id]
    finish(wanted[1], tmp_path)
    assert planned(wanted, tmp_path) == []


def test_a_student_of_a_finished_teacher_still_waits_for_its_record(tmp_path):
    wanted = runs("kd")
    finish(wanted[0].teacher_config(), tmp_path)
    (job,) = plan(wanted, tmp_path, 6)
    assert job.needs == (wanted[0].teacher_config(),)


def test_large_groups_are_split_evenly(tmp_path):
    wanted = runs("kd", "at", "dct", "dct+kd", "newl2")
    sizes = [len(job.runs) for job in plan(wanted, tmp_path, 3) if job.needs]
    assert sizes == [3, 2]


@pytest.mark.parametrize("profile", ["quick", "full", "tune", "standard", "paper", "segmentation"])
def test_the_parameters_of_a_job_name_its_runs(tmp_path, profile):
    for job in plan(expand(profile, "scenes"), tmp_path, 6):
        if job.notebook == STUDENTS_NOTEBOOK:
            assert as_notebook_05(job.parameters) == list(job.runs)


def test_the_jobs_of_the_published_protocol_name_its_runs(tmp_path):
    wanted = expand("paper", "mit67", ["student", "kd", "at+kd"], [0])
    planned_jobs = plan(wanted, tmp_path, 7)
    taught = [job for job in planned_jobs if job.notebook == TEACHER_NOTEBOOK]
    assert {job.parameters["teacher_start"] for job in taught} == {"IMAGENET1K_V1"}
    for job in taught:
        assert [RunConfig(**job.parameters).teacher_config()] == list(job.runs)
    found = [r for j in planned_jobs if j not in taught for r in as_notebook_05(j.parameters)]
    assert sorted(run.run_id for run in found) == sorted(run.run_id for run in wanted)
    for job in planned_jobs:
        assert set(job.parameters) <= set(parameter_defaults(NOTEBOOKS / f"{job.notebook}.ipynb"))


def test_the_parameters_of_a_teacher_s_job_name_its_run(tmp_path):
    own = {"teacher_epochs": 7, "teacher_seed": 3, "teacher_learning_rate": 0.01}
    wanted = runs("kd", teacher="resnet18", teacher_start="DEFAULT", **own)
    job = plan(wanted, tmp_path, 6)[0]
    assert RunConfig(**job.parameters).teacher_config() == job.runs[0]


@pytest.mark.parametrize(
    "own",
    [
        {"task": "segmentation", "student": "scenes_segmenter"},
        {"gradient_clip": 2.0},
        {"optimiser": "adam"},
    ],
)
def test_the_students_notebook_trains_the_teachers_that_their_own_has_no_word_for(tmp_path, own):
    wanted = runs("kd", **own)
    found = plan(wanted, tmp_path, 6)
    assert [job.notebook for job in found] == [STUDENTS_NOTEBOOK] * 2
    assert as_notebook_05(found[0].parameters) == [wanted[0].teacher_config()]
    valid = set(parameter_defaults(NOTEBOOKS / f"{STUDENTS_NOTEBOOK}.ipynb"))
    assert all(set(job.parameters) <= valid for job in found)


def test_a_plan_names_the_records_that_each_job_makes_and_needs(tmp_path):
    wanted = runs("student", "kd", "at")
    plan = as_plan(wanted, tmp_path, 6)
    teacher = record_path(wanted[1].teacher_config(), tmp_path)
    records = [record_path(run, tmp_path) for run in wanted]
    assert plan["wanted"] == records
    first, plain, pair = plan["jobs"]
    assert (first["makes"], first["needs"]) == ([teacher], [])
    assert (plain["makes"], plain["needs"]) == (records[:1], [])
    assert (pair["makes"], pair["needs"]) == (records[1:], [teacher])
    # What others wait for goes first, then the longest.
    assert first["priority"] > pair["priority"] > plain["priority"]
    assert json.loads(json.dumps(plan)) == plan


def test_names_of_jobs_are_unique_and_repeatable(tmp_path):
    wanted = expand("full", "scenes")
    names = [job.name for job in plan(wanted, tmp_path, 4)]
    assert len(set(names)) == len(names)
    assert names == [job.name for job in plan(wanted, tmp_path, 4)]


def test_weights_that_differ_are_options_of_each_student(tmp_path):
    kd = runs("kd")[0]
    (job,) = (j for j in plan([kd, replace(kd, kd_weight=2.0)], tmp_path, 6) if j.needs)
    assert [option["kd_weight"] for option in job.parameters["options"]] == [1.0, 2.0]


@pytest.mark.parametrize("name", [TEACHER_NOTEBOOK, STUDENTS_NOTEBOOK])
def test_the_notebooks_have_the_parameters_that_jobs_give(tmp_path, name):
    wanted = expand("quick", "scenes", seeds=[0])
    given = {n for job in plan(wanted, tmp_path, 6) if job.notebook == name for n in job.parameters}
    assert given | FOLDERS <= set(parameter_defaults(NOTEBOOKS / f"{name}.ipynb"))
