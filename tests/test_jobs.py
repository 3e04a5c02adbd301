"""A batch's jobs name exactly the runs that are missing, and ask the notebook for just those."""

import json
import shlex

import pytest

from kdlib.files import write_json
from kdlib.runs import RunConfig, needed_by, run_directory
from study.jobs import NOTEBOOK, as_plan, notebook_command, plan, record_path
from study.notebooks import find_notebook, parameter_defaults, parse_value
from study.profiles import expand


def runs(*methods: str, **changes: object) -> list[RunConfig]:
    return [RunConfig(method=method, **changes).canonical() for method in methods]


def finish(run: RunConfig, root) -> None:
    write_json(run_directory(run, root) / "record.json", {})


def planned(wanted, root, largest=6) -> list[str]:
    return [run.run_id for job in plan(wanted, root, largest) for run in job.runs]


def made_by(job) -> list[RunConfig]:
    """The runs that the notebook makes of a job's parameters, through JSON as it gets them."""
    fields = json.loads(json.dumps(job.parameters))["runs"]
    return [RunConfig(**own).canonical() for own in fields]


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
    assert job.runs == tuple(wanted[2:]) and needed_by(job.runs) == [teacher]
    for run in wanted[2:]:
        finish(run, tmp_path)
    assert planned(wanted, tmp_path) == []


def test_large_groups_are_split_evenly_and_names_of_jobs_are_unique_and_repeatable(tmp_path):
    wanted = [*runs("kd", "at", "dct", "dct+kd"), *runs("kd", kd_weight=2.0)]  # whatever weights
    assert [len(job.runs) for job in plan(wanted, tmp_path, 3)[1:]] == [3, 2]
    first, again = ([job.name for job in plan(wanted, tmp_path, 4)] for _ in "ab")
    assert first == again and len(set(first)) == len(first)


@pytest.mark.parametrize("profile", ["quick", "study_tune", "standard", "paper", "segmentation"])
def test_the_parameters_of_a_job_name_its_runs(tmp_path, profile):
    jobs = plan(expand(profile, "mit67" if profile == "paper" else "scenes"), tmp_path, 6)
    assert all(made_by(job) == list(job.runs) for job in jobs)
    assert len({job.name for job in jobs}) == len(jobs)


def test_a_job_s_runs_keep_every_field_to_the_letter(tmp_path):
    own = {"sample": 3, "teacher_sample": 2, "teacher_train_size": 50, "guide": "noise"}
    own |= {"kd_weight": 1, "gradient_clip": 2.0, "method_options": {"band": [0.25, 1]}}
    wanted = runs("kd", "dct+kd", teacher_start="DEFAULT", optimiser="adam", **own)
    jobs = plan([*wanted, *runs("kd", precision="bfloat16", **own)], tmp_path, 6)
    assert [len(job.runs) for job in jobs] == [1, 1, 2, 1]  # two teachers; those in lock-step
    assert [made_by(job) for job in jobs] == [list(job.runs) for job in jobs]
    assert [run.run_id for run in made_by(jobs[2])] == [run.run_id for run in wanted]
    defaults = parameter_defaults(find_notebook(NOTEBOOK))
    assert defaults.keys() == {"runs", "runs_root", "data_root"}
    words = shlex.split(notebook_command(wanted[1]))
    assert [RunConfig(**own) for own in parse_value(words[-1])] == wanted[1:]


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
