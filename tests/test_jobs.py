"""A batch's jobs name exactly the runs that are missing, and ask the notebooks for just those."""

import json

import pytest

from kdlib.files import write_json
from kdlib.runs import RunConfig, run_directory
from study.jobs import STUDENTS_NOTEBOOK, TEACHER_NOTEBOOK, as_plan, plan, record_path
from study.notebooks import NOTEBOOKS, parameter_defaults
from study.profiles import expand

VALID = {
    name: set(parameter_defaults(NOTEBOOKS / f"{name}.ipynb"))
    for name in (TEACHER_NOTEBOOK, STUDENTS_NOTEBOOK)
}


def runs(*methods: str, **changes: object) -> list[RunConfig]:
    return [RunConfig(method=method, **changes).canonical() for method in methods]


def finish(run: RunConfig, root) -> None:
    write_json(run_directory(run, root) / "record.json", {})


def planned(wanted, root, largest=6) -> list[str]:
    return [run.run_id for job in plan(wanted, root, largest) for run in job.runs]


def made_by(job) -> list[RunConfig]:
    """The runs that a notebook makes of a job's parameters, all of which it has."""
    assert set(job.parameters) | {"runs_root", "data_root"} <= VALID[job.notebook]
    if job.notebook == TEACHER_NOTEBOOK:
        return [RunConfig(**job.parameters).teacher_config()]
    shared = {n: v for n, v in job.parameters.items() if n not in ("methods", "options")}
    pairs = zip(job.parameters["methods"], job.parameters["options"], strict=True)
    return [RunConfig(**{**shared, "method": m, **o}).canonical() for m, o in pairs]


def test_every_run_that_is_not_finished_is_in_one_job_after_its_teacher(tmp_path):
    wanted = runs("student", "kd", "at", "dct")
    teacher = wanted[1].teacher_config()
    names = planned(wanted, tmp_path)
    assert names[0] == teacher.run_id
    assert sorted(names[1:]) == sorted(run.run_id for run in wanted)
    finish(teacher, tmp_path)
    for run in wanted[:2]:
        finish(run, tmp_path)
    (job,) = plan(wanted, tmp_path, 6)
    assert job.runs == tuple(wanted[2:]) and job.needs == (teacher,)
    for run in wanted[2:]:
        finish(run, tmp_path)
    assert planned(wanted, tmp_path) == []


def test_large_groups_are_split_evenly_and_names_of_jobs_are_unique_and_repeatable(tmp_path):
    wanted = [*runs("kd", "at", "dct", "dct+kd"), *runs("kd", kd_weight=2.0)]  # whatever weights
    assert [len(job.runs) for job in plan(wanted, tmp_path, 3) if job.needs] == [3, 2]
    first, again = ([job.name for job in plan(wanted, tmp_path, 4)] for _ in "ab")
    assert first == again and len(set(first)) == len(first)


@pytest.mark.parametrize("profile", ["quick", "full", "tune", "standard", "paper", "segmentation"])
def test_the_parameters_of_a_job_name_its_runs(tmp_path, profile):
    jobs = plan(expand(profile, "mit67" if profile == "paper" else "scenes"), tmp_path, 6)
    assert all(made_by(job) == list(job.runs) for job in jobs)
    assert len({job.name for job in jobs}) == len(jobs)


@pytest.mark.parametrize(("own", "notebook"), [
    ({"teacher": "resnet18", "teacher_start": "DEFAULT", "teacher_seed": 3}, TEACHER_NOTEBOOK),
    ({"teacher_epochs": 7, "teacher_learning_rate": 0.01}, TEACHER_NOTEBOOK),
    ({"task": "segmentation", "student": "scenes_segmenter"}, STUDENTS_NOTEBOOK),
    ({"gradient_clip": 2.0}, STUDENTS_NOTEBOOK),
    ({"optimiser": "adam"}, STUDENTS_NOTEBOOK),
])  # fmt: skip
def test_teachers_are_trained_by_the_notebook_that_has_words_for_them(tmp_path, own, notebook):
    wanted = runs("kd", **own)
    teacher, student = plan(wanted, tmp_path, 6)
    assert (teacher.notebook, student.notebook) == (notebook, STUDENTS_NOTEBOOK)
    assert made_by(teacher) == [wanted[0].teacher_config()] and made_by(student) == wanted


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
