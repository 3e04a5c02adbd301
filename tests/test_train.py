"""The loop: lock-step equals separate, resume equals never killed, the teacher never moves."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from training import history_of, result_of, tiny

from kdlib.distill import FrozenTeacher
from kdlib.errors import KdlibError
from kdlib.files import load_tensors, save_tensors
from kdlib.models import create_model
from kdlib.runs import RunConfig, run_directory
from kdlib.seeds import derive_seed, seed_everything
from kdlib.train import fit
from kdlib.trainee import Trainee
from study.records import validate_record

METHODS = ("student", "kd", "at", "dct+gate+kd", "crd", "vid+kd")


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> Path:
    """A runs folder that holds the tiny teacher."""
    root = tmp_path_factory.mktemp("runs")
    fit([tiny().teacher_config()], root, progress=False)
    return root


def copy_teacher(taught: Path, root: Path) -> Path:
    name = tiny().teacher_config().run_id
    (root / name).mkdir(parents=True)
    for file in (taught / name).iterdir():
        (root / name / file.name).write_bytes(file.read_bytes())
    return root


def test_lock_step_gives_the_numbers_of_separate_runs(taught, tmp_path):
    configs = [tiny(method=method) for method in METHODS]
    together = fit(configs, copy_teacher(taught, tmp_path / "together"), progress=False)
    root = copy_teacher(taught, tmp_path / "apart")
    apart = [fit([config], root, progress=False)[0] for config in configs]
    assert [result_of(r) for r in together] == [result_of(r) for r in apart]


def test_a_finished_run_is_not_run_again(taught):
    config = tiny(method="at")
    first = fit([config], taught, progress=False)
    assert fit([config], taught, progress=False) == first


def test_a_record_holds_provenance_and_no_checkpoint_is_left(taught):
    config = tiny(method="release_a")
    record = fit([config], taught, progress=False)[0]
    files = {path.name for path in run_directory(config, taught).iterdir()}
    assert files == {"config.json", "history.csv", "weights.safetensors", "record.json"}
    assert record["provenance"]["data_fingerprint"]
    assert record["results"]["last_epoch"] == config.epochs


# Besides the plain case: a memory with random draws, and layers of the method's own.
@pytest.mark.parametrize("method", ["dct+kd", "crd", "famkd"])
def test_a_run_resumes_to_the_same_bits_when_stopped_after_any_epoch(
    method, taught, tmp_path, monkeypatch
):
    config = tiny(method=method)
    whole = fit([config], copy_teacher(taught, tmp_path / "whole"), progress=False)[0]
    root = copy_teacher(taught, tmp_path / "stopped")
    pass

    end_epoch, finished = Trainee.end_epoch, []

    def stop_after(trainee, row):
        end_epoch(trainee, row)
        finished.append(row)
        raise KeyboardInterrupt

    monkeypatch.setattr(Trainee, "end_epoch", stop_after)
    for _ in range(config.epochs):
        with pytest.raises(KeyboardInterrupt):
            fit([config], root, progress=False)
    monkeypatch.undo()
    resumed = fit([config], root, progress=False)[0]
    assert len(finished) == config.epochs
    assert result_of(resumed) == result_of(whole)
    ours, theirs = (run_directory(config, r) for r in (root, tmp_path / "whole"))
    assert history_of(ours) == history_of(theirs)
    assert (ours / "weights.safetensors").read_bytes() == (
        theirs / "weights.safetensors"
    ).read_bytes()


SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from kdlib.train import fit
from training import tiny
fit([tiny(epochs=40)], Path(sys.argv[1]), progress=False)
"""


def start(root: Path) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(root)], env=environment)


def test_killed_at_ten_random_moments_a_run_ends_with_the_same_record(taught, tmp_path):
    config = tiny(epochs=40)
    whole = copy_teacher(taught, tmp_path / "whole")
    assert start(whole).wait() == 0
    theirs = run_directory(config, whole)
    duration = (theirs / "record.json").stat().st_mtime - (theirs / "config.json").stat().st_mtime
    root = copy_teacher(taught, tmp_path / "killed")
    delays = torch.rand(10, generator=torch.Generator().manual_seed(0)) * duration / 4
    epochs_seen = [killed_after(root, delay, config) for delay in delays.tolist()]
    assert start(root).wait() == 0
    assert len(set(epochs_seen)) > 2, f"the kills met too few different epochs: {epochs_seen}"
    assert history_of(run_directory(config, root)) == history_of(theirs)
    read = fit([config], root, progress=False)[0], fit([config], whole, progress=False)[0]
    assert result_of(read[0]) == result_of(read[1])


def killed_after(root: Path, delay: float, config: RunConfig) -> int:
    """Kill a fresh process ``delay`` seconds into its training; epochs that it left behind."""
    directory = run_directory(config, root)
    (directory / "config.json").unlink(missing_ok=True)
    process = start(root)
    while process.poll() is None and not (directory / "config.json").exists():
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    process.wait()
    checkpoint = directory / "checkpoint.safetensors"
    return len(load_tensors(checkpoint)[1]["history"]) if checkpoint.exists() else 0


def test_no_teacher_tensor_moves(taught, monkeypatch):
    from kdlib import trainee as train
    from kdlib.trainee import load_teacher

    held = []
    load = load_teacher

    def remember(*arguments):
        teacher = load(*arguments)
        held.append((teacher, {k: v.clone() for k, v in teacher.state_dict().items()}))
        return teacher

    monkeypatch.setattr(train, "load_teacher", remember)
    fit([tiny(method="dct+kd", data_seed=5)], taught, progress=False)
    teacher, before = held[0]
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_a_frozen_teacher_stays_frozen():
    teacher = FrozenTeacher(create_model("scenes_small", 4))
    teacher.train()
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher(torch.randn(2, 3, 32, 32)).logits.requires_grad


def test_every_loss_term_is_in_the_history(taught):
    config = tiny(method="at+kd")
    fit([config], taught, progress=False)
    header = history_of(run_directory(config, taught))[0]
    assert header == "epoch,learning_rate,ce,at,kd,accuracy"


def test_a_missing_teacher_says_where_it_was_sought_and_what_to_run(tmp_path):
    with pytest.raises(KdlibError, match="02_teacher"):
        fit([tiny()], tmp_path, progress=False)
    assert not list(tmp_path.rglob("record.json"))


def test_a_teacher_of_other_classes_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_tensors(path, create_model("scenes_small", 7).state_dict(), {"classes": 7})
    with pytest.raises(KdlibError, match="7 classes.*16"):
        fit([tiny(teacher_weights=str(path))], tmp_path, progress=False)
    assert not list(tmp_path.rglob("record.json"))


def test_a_teacher_of_another_architecture_is_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_tensors(path, create_model("resnet8", 16).state_dict(), {"classes": 16})
    with pytest.raises(KdlibError, match="do not fit"):
        fit([tiny(teacher_weights=str(path))], tmp_path, progress=False)


def test_a_pickle_in_the_place_of_weights_is_never_loaded(tmp_path):
    path = tmp_path / "weights.safetensors"
    torch.save({"a": torch.zeros(1)}, path)
    with pytest.raises(KdlibError, match="safetensors"):
        fit([tiny(teacher_weights=str(path))], tmp_path, progress=False)


def test_a_truncated_checkpoint_is_named(taught, tmp_path):
    root = copy_teacher(taught, tmp_path)
    directory = run_directory(tiny(), root)
    directory.mkdir()
    whole = directory / "checkpoint.safetensors"
    save_file({"model.a": torch.zeros(1000)}, whole)
    whole.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(KdlibError, match=r"checkpoint\.safetensors.*Delete"):
        fit([tiny()], root, progress=False)


def test_a_loss_that_is_not_finite_stops_with_its_terms(taught, tmp_path):
    root = copy_teacher(taught, tmp_path)
    config = tiny(method="kd", kd_weight=1e39)
    with pytest.raises(KdlibError, match="kd inf.*learning rate"):
        fit([config], root, progress=False)
    assert not (run_directory(config, root) / "record.json").exists()


def test_who_diverges_takes_nobody_along(taught, tmp_path):
    sound, wild = tiny(), tiny(method="kd", kd_weight=1e39)
    root = copy_teacher(taught, tmp_path / "together")
    with pytest.raises(KdlibError, match="'kd' is not finite"):
        fit([wild, sound], root, progress=False)
    alone = fit([sound], copy_teacher(taught, tmp_path / "alone"), progress=False)[0]
    assert result_of(fit([sound], root, progress=False)[0]) == result_of(alone)
    assert alone["diverged"] is None


def test_in_the_search_for_a_weight_divergence_is_a_result(tmp_path):
    wild = tiny(method="kd", kd_weight=1e39, split="dev")
    fit([wild.teacher_config()], tmp_path, progress=False)
    (record,) = fit([wild], tmp_path, progress=False)
    assert "'kd' is not finite in epoch 1, step " in record["diverged"]
    assert record["results"]["last_epoch"] == 0
    validate_record(record, run_directory(wild, tmp_path) / "record.json")
    untrained, _ = load_tensors(run_directory(wild, tmp_path) / "weights.safetensors")
    seed_everything(derive_seed(wild.init_seed, "weights"))
    fresh = create_model(wild.student, 16).state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in untrained.items())


def test_students_of_different_batches_cannot_be_in_lock_step(tmp_path):
    with pytest.raises(KdlibError, match="data_seed"):
        fit([tiny(), replace(tiny(), data_seed=9)], tmp_path, progress=False)


def test_an_unknown_method_lists_the_valid_ones(taught):
    with pytest.raises(KdlibError, match="Unknown method 'dtc'.*'dct'"):
        fit([tiny(method="dtc")], taught, progress=False)


def test_a_checkpoint_of_other_networks_is_named(taught, tmp_path):
    config = tiny(method="kd")
    path = run_directory(config, copy_teacher(taught, tmp_path)) / "checkpoint.safetensors"
    save_tensors(path, {"model.student.weight": torch.zeros(3)}, {"history": []})
    with pytest.raises(KdlibError, match="checkpoint.safetensors is no checkpoint of this run"):
        fit([config], tmp_path, progress=False)
