"""SRM's three runs: each leaves a record that the next one reads, wherever it is stopped."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training import history_of, killed_at_random, result_of, tiny

from kdlib.checkpoints import load_tensors
from kdlib.data import load_data
from kdlib.distill import create_distiller
from kdlib.errors import KdlibError
from kdlib.launch import earlier
from kdlib.methods import run_before
from kdlib.runs import RunConfig, configs_of, read_record, run_directory
from kdlib.srm.stages import Continued, DictionaryLearner
from kdlib.train import _trainee_of, fit
from kdlib.trainee import predicted, trained_network
from study.jobs import plan
from study.profiles import expand, lockstep_groups
from study.records import find_records, load_records, validate_record

OPTIONS = {"dictionary_epochs": 3, "sparsity": 0.2, "init_share": 0.5}


def srm(**changes: object) -> RunConfig:
    own = {"method": "srm+kd", "method_options": OPTIONS, "epochs": 4, "teacher": "scenes_medium"}
    return tiny(**{**own, **changes})


def stages(run: RunConfig) -> list[RunConfig]:
    """Teacher, dictionaries, initialisation and the run itself."""
    return [*earlier([run]), run]


def learned(root: Path, run: RunConfig) -> Path:
    for one in stages(run):
        fit([one], root, progress=False)
    return root


def same(root: Path, other: Path, run: RunConfig) -> bool:
    """Whether records, histories and weights of all stages agree to the bit."""
    pairs = [[run_directory(one, folder) for folder in (root, other)] for one in stages(run)]
    records = [[result_of(read_record(d / "record.json")) for d in pair] for pair in pairs]
    histories = [[history_of(d) for d in pair] for pair in pairs]
    weights = [[(d / "weights.safetensors").read_bytes() for d in pair] for pair in pairs]
    return all(one == two for one, two in (*records, *histories, *weights))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A folder in which nothing was interrupted."""
    return learned(tmp_path_factory.mktemp("whole"), srm())


def test_the_stages_share_out_the_epochs_and_share_what_they_can():
    run = srm()
    teacher, dictionary, initialisation = earlier([run])
    assert [one.method for one in (dictionary, initialisation)] == ["srm_dictionary", "srm_init"]
    assert (dictionary.epochs, initialisation.epochs, run.epochs) == (3, 2, 4)
    taught = [one.teacher_config() for one in (dictionary, initialisation, run)]
    assert taught == [teacher] * 3
    plain = srm(method="srm", kd_weight=3.0)
    other = srm(init_seed=5, learning_rate=0.3, teacher_learning_rate=0.1, student="scenes_mobile")
    assert run_before(plain) == initialisation
    assert run_before(other) != initialisation and run_before(run_before(other)) == dictionary


def test_on_logits_it_goes_on_from_an_initialisation_of_its_own():
    on_logits, released = srm(method="srm_logits+kd"), srm()
    as_option = srm(method_options={**OPTIONS, "release": False})
    assert run_before(on_logits) == run_before(as_option) != run_before(released)
    assert run_before(run_before(on_logits)) == run_before(run_before(released))


@pytest.mark.parametrize(("epochs", "of_init"), [(1, 1), (2, 1), (5, 2), (360, 160)])
def test_the_initialisation_leaves_the_task_an_epoch(epochs, of_init):
    run = RunConfig(method="srm", epochs=epochs)
    assert run_before(run).epochs == of_init


def test_a_record_tells_of_each_stage(whole):
    found = {r["config"]["method"]: (p, r) for p, r in find_records(whole).items()}
    for path, record in found.values():
        validate_record(record, path)
    kept = found["srm_dictionary"][1]["dictionary"]
    assert "results" not in found["srm_dictionary"][1]
    assert [(s["atoms"], s["kept"]) for s in kept["stages"]] == [(32, 6), (64, 12), (128, 25)]
    assert all(0 < stage["error"] < stage["energy"] for stage in kept["stages"])
    beside = [{coding["dictionary"] for coding in stage["codings"]} for stage in kept["stages"]]
    assert beside == [{"SRM", "k-means"}] * 3
    last = found["srm+kd"][1]
    assert last["results"]["last_epoch"] == 4 and last["ssim"]
    epochs = [row.split(",")[0] for row in history_of(found["srm+kd"][0].parent)]
    assert epochs == ["epoch", "3", "4"]
    text = (found["srm+kd"][0].parent / "history.csv").read_text().splitlines()[1:]
    own = sum(float(line.rsplit(",", 1)[1]) for line in text)
    earlier_s = found["srm_init"][1]["cost"]["train_seconds"]
    assert last["cost"]["train_seconds"] == pytest.approx(earlier_s + own)


def test_stages_are_no_results_to_compare(whole):
    assert set(load_records(whole)["method"]) == {"student", "srm+kd"}


def test_a_record_of_nothing_is_refused(whole):
    (path, record), *_ = find_records(whole).items()
    broken = {
        name: value for name, value in record.items() if name not in ("results", "dictionary")
    }
    with pytest.raises(KdlibError):
        validate_record(broken, path)


@pytest.mark.parametrize("place", [1, 2, 3])
def test_a_stage_resumes_to_the_same_bits_when_stopped_after_any_epoch(
    place, whole, tmp_path, monkeypatch
):
    run = stages(srm())[place]
    for one in stages(srm())[:place]:
        copy(run_directory(one, whole), run_directory(one, tmp_path))
    kind = _trainee_of(run)
    end_epoch, stopped = kind.end_epoch, 0

    def stop_after(trainee, row):
        end_epoch(trainee, row)
        raise KeyboardInterrupt

    monkeypatch.setattr(kind, "end_epoch", stop_after)
    while stopped < run.epochs and not (run_directory(run, tmp_path) / "record.json").exists():
        try:
            fit([run], tmp_path, progress=False)
        except KeyboardInterrupt:
            stopped += 1
    monkeypatch.undo()
    fit([run], tmp_path, progress=False)
    for one in stages(srm())[place + 1 :]:
        fit([one], tmp_path, progress=False)
    assert stopped == (2 if run.method == "srm+kd" else run.epochs)
    assert same(whole, tmp_path, srm())


def copy(source: Path, target: Path) -> None:
    target.mkdir(parents=True)
    for file in source.iterdir():
        (target / file.name).write_bytes(file.read_bytes())


def test_killed_at_random_moments_all_stages_end_with_the_same_records(whole, tmp_path):
    files = [run_directory(one, whole) / "record.json" for one in stages(srm())]
    start = (run_directory(stages(srm())[0], whole) / "config.json").stat().st_mtime
    duration = max(file.stat().st_mtime for file in files) - start
    assert killed_at_random(lambda root: learned(root, srm()), tmp_path, duration)
    assert same(whole, learned(tmp_path, srm()), srm())


def test_the_teacher_never_moves(tmp_path, monkeypatch):
    from kdlib import train
    from kdlib.train import load_teacher

    held, load = [], load_teacher

    def remember(*arguments):
        teacher = load(*arguments)
        held.append((teacher, {k: v.clone() for k, v in teacher.state_dict().items()}))
        return teacher

    monkeypatch.setattr(train, "load_teacher", remember)
    learned(tmp_path, srm(method_options={**OPTIONS, "dictionary_epochs": 1}, epochs=2))
    assert len(held) == 3
    for teacher, before in held:
        assert not any(module.training for module in teacher.modules())
        assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_the_state_of_least_training_loss_is_kept(whole, tmp_path, monkeypatch):
    dictionary = stages(srm())[1]
    copy(run_directory(stages(srm())[0], whole), run_directory(stages(srm())[0], tmp_path))
    kind, first = DictionaryLearner, {}
    end_epoch = kind.end_epoch

    def worse_after_the_first(trainee, row):
        end_epoch(trainee, {**row, "srm_dictionary": float(len(trainee.history))})
        first.setdefault("state", {k: v.clone() for k, v in trainee.best.state_dict().items()})

    monkeypatch.setattr(kind, "end_epoch", worse_after_the_first)
    (record,) = fit([dictionary], tmp_path, progress=False)
    kept, _ = load_tensors(run_directory(dictionary, tmp_path) / "weights.safetensors")
    assert record["dictionary"]["best_epoch"] == 1
    assert all(torch.equal(value, first["state"][name]) for name, value in kept.items())


def test_the_rate_of_the_dictionaries_falls_twice_and_that_of_the_task_has_its_own_cycle(whole):
    run = srm()
    made = trainee(srm_dictionary := stages(run)[1], whole)
    rates = [made.rate(done, 10) for done in (0, 2, 3, 20, 21, 29)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-5])
    assert srm_dictionary.epochs == 3
    task, alone = trainee(run, whole), trainee(tiny(method="student", epochs=2), whole)
    assert task.first == 2
    for step in (0, 7, 19):
        assert task.rate(20 + step, 10) == alone.rate(step, 10)
        assert task.progress(20 + step, 10) == alone.progress(step, 10)


def trainee(run: RunConfig, root: Path):
    from kdlib.train import _lesson, _trainee_of, prepare

    task = prepare([run], root, None, "cpu")
    lesson = _lesson(task, run.image_size)
    return _trainee_of(run)(run, 16, root, task.device, "float32", lesson)


def test_the_probe_is_what_the_record_of_the_initialisation_tells(whole):
    run = stages(srm())[2]
    data = load_data("scenes", "test", size=run.test_size, image_size=run.image_size)
    network = trained_network(run, whole, len(data.classes))
    right = (predicted(network, data) == data.labels).float().mean().item()
    record = read_record(run_directory(run, whole) / "record.json")
    assert record["results"]["top1"] == pytest.approx(right)


@pytest.mark.parametrize("classifier", ["fresh", "probe"])
def test_the_student_starts_from_the_initialised_features(whole, classifier):
    run = srm(method_options={**OPTIONS, "classifier": classifier})
    made = trainee(run, whole)
    assert isinstance(made, Continued)
    left, _ = load_tensors(run_directory(run_before(run), whole) / "weights.safetensors")
    plain = trainee(tiny(method="student"), whole).student.state_dict()
    for name, value in made.student.state_dict().items():
        source = plain if name.startswith("classifier") and classifier == "fresh" else left
        assert torch.equal(value, source[name]), name


def test_a_stage_that_is_missing_is_named(whole, tmp_path):
    teacher, dictionary, initialisation = earlier([srm()])
    copy(run_directory(teacher, whole), run_directory(teacher, tmp_path))
    for run, missing in ((srm(), initialisation), (initialisation, dictionary)):
        with pytest.raises(KdlibError, match=f"'{missing.method}' that is not finished"):
            fit([run], tmp_path, progress=False)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"mux": 2}, "Did you mean 'mu'"), ({"mu": 0}, "mu is 0"), ({"sparsity": 1}, "sparsity is 1"),
     ({"targets": "both"}, "global-local"), ({"classifier": "new"}, "fresh, probe")],
)  # fmt: skip
def test_an_option_that_means_nothing_is_refused(options, says):
    with pytest.raises(KdlibError, match=says):
        earlier([srm(method_options=options)])


@pytest.mark.parametrize("place", [1, 2, 3])
@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"augmentation": ["flip", "mixup"]}, "leave 'mixup' out of augmentation"),
        ({"augmentation": ["sla"]}, "leave 'sla' out of augmentation"),
        ({"task": "segmentation"}, "is for classification and crops, not for task 'segmentation'"),
    ],
)
def test_no_stage_mixes_images_or_gives_pixels_classes(place, changes, says):
    run = stages(srm(method="srm", **changes))[place]
    with pytest.raises(KdlibError, match=f"'{run.method}'.*{says}"):
        create_distiller(run)


def test_a_stage_is_not_asked_for_by_itself():
    with pytest.raises(KdlibError, match="trained first"):
        expand("quick", methods=["srm_init"])


def as_notebook_05(parameters) -> list[RunConfig]:
    shared = {n: v for n, v in parameters.items() if n not in ("methods", "options")}
    return configs_of(parameters["methods"], parameters["options"], shared)


def test_a_batch_plans_the_stages_one_after_the_other(tmp_path):
    wanted = expand("quick", methods=["student", "srm", "srm+kd"], seeds=[0, 1])
    jobs = plan(wanted, tmp_path, 7)
    done: set[str] = set()
    for job in ordered(jobs):
        assert {run.run_id for run in job.needs} <= done
        if job.notebook == "05_distill":
            assert as_notebook_05(json.loads(json.dumps(job.parameters))) == list(job.runs)
        done |= {run.run_id for run in job.runs}
    assert done == {run.run_id for run in [*earlier(wanted), *wanted]}
    methods = [run.method for job in jobs for run in job.runs]
    assert methods.count("srm_dictionary") == 1 and methods.count("srm_init") == 2


def ordered(jobs):
    """As Snakemake runs them: whichever has all that it needs."""
    waiting, done = list(jobs), set()
    while waiting:
        job = next(j for j in waiting if {r.run_id for r in j.needs} <= done)
        waiting.remove(job)
        done |= {run.run_id for run in job.runs}
        yield job


def test_a_trial_of_one_epoch_never_trains_a_run_beside_what_it_starts_from():
    run = replace(srm(epochs=1), method_options={**OPTIONS, "dictionary_epochs": 1})
    groups = lockstep_groups(stages(run)[1:])
    assert [len(group) for group in groups] == [1, 1, 1]


def test_a_planned_batch_runs_to_its_end(tmp_path):
    wanted = [srm(epochs=2, method=m) for m in ("student", "srm", "srm+kd")]
    for job in plan(wanted, tmp_path, 7):
        runs = as_notebook_05(job.parameters) if job.notebook == "05_distill" else list(job.runs)
        fit(runs, tmp_path, progress=False)
    assert plan(wanted, tmp_path, 7) == []
    assert set(load_records(tmp_path)["label"]) >= {"student", "srm", "srm+kd"}
