"""SRM's three runs: what each leaves, and what the next one begins with."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training import history_of, tiny

from kdlib import KdlibError, RunConfig, train
from kdlib.files import load_tensors, save_tensors
from kdlib.methods import run_before
from kdlib.process_group import ALONE
from kdlib.runs import earlier, needed_by, run_directory
from kdlib.srm.options import SrmOptions
from kdlib.srm.stages import Continued
from study.jobs import plan
from study.profiles import expand, lockstep_groups
from study.records import find_records, load_records, validate_record

OPTIONS = {"dictionary_epochs": 3, "sparsity": 0.2, "init_share": 0.5}
USUAL = {"method": "srm+kd", "method_options": OPTIONS, "epochs": 4, "teacher": "scenes_medium"}


def srm(**changes: object) -> RunConfig:
    return tiny(**{**USUAL, **changes})


TEACHER, DICTIONARY, INITIALISATION = earlier([srm()])


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder with all four runs."""
    root = tmp_path_factory.mktemp("whole")
    for run in (TEACHER, DICTIONARY, INITIALISATION, srm()):
        train.fit([run], root, progress=False)
    return root


def state(run: RunConfig, root: Path):
    return train.state_of(run)(run, train.prepare([run], root, None, "cpu", ALONE), root)


def test_the_stages_share_out_the_epochs_and_share_what_they_can():
    stages = (DICTIONARY, INITIALISATION, srm())
    found = [(one.method, one.epochs, one.teacher_config()) for one in stages]
    named = [("srm_dictionary", 3), ("srm_init", 2), ("srm+kd", 4)]
    assert found == [(*one, TEACHER) for one in named]
    assert run_before(srm(method="srm", kd_weight=3.0)) == INITIALISATION
    rates = {"learning_rate": 0.3, "teacher_learning_rate": 0.1}
    other = run_before(srm(init_seed=5, student="scenes_mobile", **rates))
    on_logits = run_before(srm(method="srm_logits+kd"))
    for before in (other, on_logits):
        assert before != INITIALISATION and run_before(before) == DICTIONARY
    assert on_logits == run_before(srm(method_options={**OPTIONS, "release": False}))
    assert [SrmOptions(mu=mu).atoms(63) for mu in (2.0, 1.5, 0.001)] == [126, 94, 1]
    assert [SrmOptions().kept(atoms) for atoms in (256, 2048, 9)] == [5, 40, 1]  # as published
    for epochs, of_init in ((1, 1), (2, 1), (5, 2), (360, 160)):  # the task is left one
        assert run_before(RunConfig(method="srm", epochs=epochs)).epochs == of_init
    brief = replace(srm(epochs=1), method_options={**OPTIONS, "dictionary_epochs": 1})
    groups = lockstep_groups([*earlier([brief])[1:], brief])
    assert [len(group) for group in groups] == [1, 1, 1]  # none beside what it starts from


@pytest.mark.parametrize("facts", [{"run": "a"}, {"run": None}, {"teacher": "a"}, {"data": "a"}])
@pytest.mark.parametrize("runs", [(DICTIONARY, INITIALISATION), (INITIALISATION, srm())])
def test_what_a_stage_begins_with_is_of_the_run_the_teacher_and_the_data_that_it_says(
    runs, facts, whole, tmp_path
):
    root, (before, run) = shutil.copytree(whole, tmp_path / "runs"), runs
    path = run_directory(before, root) / "weights.safetensors"
    tensors, said = load_tensors(path)
    save_tensors(path, tensors, {**said, **facts})
    with pytest.raises(KdlibError, match="(is of|not say of which) .*; this needs"):
        state(run, root)


@pytest.mark.parametrize(("options", "optimiser", "rates"), [
    ({}, torch.optim.Adam, [1e-3, 1e-4, 1e-5]),
    ({"init_rate": 0.5, "init_steps": [0.9]}, torch.optim.Adam, [0.5, 0.5, 0.05]),
    ({"init_optimiser": "run"}, torch.optim.SGD, [0.02475, 0.1, 0.0]),
])  # fmt: skip
def test_the_initialisation_has_its_own_optimiser_or_the_run_s(whole, options, optimiser, rates):
    run = run_before(srm(method_options={**OPTIONS, **options}, learning_rate=0.1))
    made = state(replace(run, init_seed=9), whole)
    assert isinstance(made.optimiser, optimiser)
    if optimiser is torch.optim.Adam:
        assert made.optimiser.param_groups[0]["weight_decay"] == 1e-4
    found = [made.rate(step, 500) for step in (49, 200, 999)]  # of 1000
    assert found == pytest.approx(rates, abs=1e-3 * rates[0])


def test_records_tell_of_each_stage(whole):
    found = {r["config"]["method"]: (p, r) for p, r in find_records(whole).items()}
    for path, record in found.values():
        validate_record(record, path)
    path, dictionary = found["srm_dictionary"]
    stages = dictionary["dictionary"]["stages"]
    assert "results" not in dictionary
    assert [(s["atoms"], s["kept"]) for s in stages] == [(32, 6), (64, 12), (128, 25)]
    assert all(0 < stage["error"] < stage["energy"] for stage in stages)
    beside = [{coding["dictionary"] for coding in stage["codings"]} for stage in stages]
    assert beside == [{"SRM", "k-means"}] * 3
    losses = [float(row.split(",")[2]) for row in history_of(path.parent)[1:]]
    assert dictionary["dictionary"]["best_epoch"] == 1 + losses.index(min(losses))
    with pytest.raises(KdlibError):
        validate_record({n: v for n, v in dictionary.items() if n != "dictionary"}, path)
    assert set(load_records(whole)["method"]) == {"student", "srm+kd"}  # stages are no results
    path, record = found["srm+kd"]  # which counts the initialisation
    assert record["results"]["last_epoch"] == 4 and record["ssim"]
    assert [row.split(",")[0] for row in history_of(path.parent)] == ["epoch", "3", "4"]
    rows = (path.parent / "history.csv").read_text().splitlines()[1:]
    seconds = found["srm_init"][1]["cost"]["train_seconds"]
    seconds += sum(float(row.rsplit(",", 1)[1]) for row in rows)
    assert record["cost"]["train_seconds"] == pytest.approx(seconds)


def test_the_state_of_least_training_loss_is_kept(whole):
    run = srm(method_options={**OPTIONS, "mu": 1.0})
    made, kept = state(run_before(run_before(run)), whole), []
    for loss in (0.5, 0.7, 0.3, 0.4):
        with torch.no_grad():
            made.loss.blocks[0].atoms.fill_(loss)
        made.end_epoch({"epoch": 1, "srm_dictionary": loss, "seconds": 1.0})
        kept.append(made.best.blocks[0].atoms.unique().item())
    assert kept == pytest.approx([0.5, 0.5, 0.3, 0.3])
    made.finish()
    weights, _ = load_tensors(made.directory / "weights.safetensors")
    assert weights["blocks.0.atoms"].unique().item() == pytest.approx(0.3)
    shutil.rmtree(made.directory)


def test_the_rate_of_the_dictionaries_falls_twice_and_that_of_the_task_has_its_own_cycle(whole):
    made = state(DICTIONARY, whole)
    rates = [made.rate(done, 10) for done in (0, 2, 3, 20, 21, 29)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])
    task, alone = state(srm(), whole), state(tiny(method="student", epochs=2), whole)
    assert task.first == 2
    for step in (0, 7, 19):
        assert task.rate(20 + step, 10) == alone.rate(step, 10)
        assert task.progress(20 + step, 10) == alone.progress(step, 10)


@pytest.mark.parametrize("classifier", ["fresh", "probe"])
def test_the_student_starts_from_the_initialised_features(whole, classifier):
    made = state(srm(method_options={**OPTIONS, "classifier": classifier}), whole)
    assert isinstance(made, Continued)
    left, _ = load_tensors(run_directory(INITIALISATION, whole) / "weights.safetensors")
    plain = state(tiny(method="student"), whole).student.state_dict()
    for name, value in made.student.state_dict().items():
        source = plain if name.startswith("classifier") and classifier == "fresh" else left
        assert torch.equal(value, source[name]), name


def test_what_is_missing_or_means_nothing_is_named(whole, tmp_path):
    shutil.copytree(run_directory(TEACHER, whole), run_directory(TEACHER, tmp_path))
    for run, missing in ((srm(), INITIALISATION), (INITIALISATION, DICTIONARY)):
        with pytest.raises(KdlibError, match=f"'{missing.method}' that is not finished"):
            train.fit([run], tmp_path, progress=False)
    with pytest.raises(KdlibError, match="trained first"):
        expand("quick", methods=["srm_init"])
    for name, value, says in (
        ("mux", 2, "Did you mean 'mu'"), ("mu", 0, "mu is 0"), ("sparsity", 1, "sparsity is 1"),
        ("targets", "both", "global-local"), ("classifier", "new", "fresh, probe"),
    ):  # fmt: skip
        with pytest.raises(KdlibError, match=says):
            earlier([srm(method_options={name: value})])


def test_a_batch_plans_the_stages_one_after_the_other(tmp_path, whole):
    wanted = expand("quick", methods=["student", "srm", "srm+kd"], seeds=[0, 1])
    jobs, done = plan(wanted, tmp_path, 7), set()
    while waiting := [job for job in jobs if job.runs[0].run_id not in done]:
        job = next(j for j in waiting if {run.run_id for run in needed_by(j.runs)} <= done)
        done |= {run.run_id for run in job.runs}
    assert done == {run.run_id for run in [*earlier(wanted), *wanted]}
    methods = [run.method for job in jobs for run in job.runs]
    assert methods.count("srm_dictionary") == methods.count("srm_init") == 2  # training sets
    assert plan([srm()], whole, 7) == []
