"""The loop: lock-step equals separate, resume equals never stopped, the teacher never moves."""

import csv
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
import torch
from training import history_of, result_of, tiny

from kdlib import trainee
from kdlib.data import load_data
from kdlib.distill import FrozenTeacher
from kdlib.errors import KdlibError
from kdlib.evaluate import attention_on, predicted, trained_network
from kdlib.files import load_tensors, save_tensors
from kdlib.models import create_model
from kdlib.models import output as cost
from kdlib.runs import RunConfig, run_directory
from kdlib.seeds import derive_seed, seed_everything
from kdlib.train import fit
from study.records import validate_record

METHODS = ("student", "kd", "at+kd", "dct+gate+kd", "crd", "vid+kd")
CONFIGS = [tiny(method=method) for method in METHODS]
WILD = {"method": "kd", "kd_weight": 1e39}


@pytest.fixture(scope="module", autouse=True)
def untimed():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "REPEATS", 1)
        yield


@pytest.fixture(scope="module")
def taught(tmp_path_factory) -> Path:
    """A runs folder that holds the tiny teacher."""
    root = tmp_path_factory.mktemp("runs")
    fit(tiny().teacher_config(), root, progress=False)
    return root


@pytest.fixture
def root(taught, tmp_path) -> Path:
    """A folder of its own that holds the tiny teacher."""
    name = tiny().teacher_config().run_id
    copytree(taught / name, tmp_path / "runs" / name)
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def together(taught) -> tuple[list[dict], list[tuple[RunConfig, dict]]]:
    """The records of all methods in lock-step, and what was said of each epoch."""
    rows: list[tuple[RunConfig, dict]] = []
    found = fit(CONFIGS, taught, progress=False, on_epoch=lambda *said: rows.append(said))
    return found, rows


def test_lock_step_gives_the_numbers_of_separate_runs(together, root):
    apart = [fit(config, root, progress=False) for config in CONFIGS]
    assert [result_of(r) for r in together[0]] == [result_of(r) for r in apart]


def test_a_run_leaves_its_files_and_is_not_run_again(together, taught):
    records, rows = together
    assert [config for config, _ in rows] == CONFIGS * CONFIGS[0].epochs
    for config, record in zip(CONFIGS, records, strict=True):
        directory = run_directory(config, taught)
        files = {path.name for path in directory.iterdir()}
        assert files == {"config.json", "history.csv", "weights.safetensors", "record.json"}
        assert record["provenance"]["data_fingerprint"]
        assert record["results"]["last_epoch"] == config.epochs
        with (directory / "history.csv").open() as file:
            written = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
        assert written == [row for of, row in rows if of == config]
    assert list(rows[2][1]) == ["epoch", "learning_rate", "ce", "at", "kd", "accuracy", "seconds"]
    assert fit(CONFIGS, taught, on_epoch=pytest.fail) == records


class StoppedError(Exception):
    pass


def stop(config: RunConfig, row: dict) -> None:
    raise StoppedError


# Besides the plain case: a memory with random draws, and layers of the method's own.
@pytest.mark.parametrize("method", ["dct+kd", "crd", "famkd"])
def test_a_run_resumes_to_the_same_bits_when_stopped_after_any_epoch(method, taught, root):
    config = tiny(method=method)
    whole = fit(config, taught, progress=False)
    for _ in range(config.epochs):
        with pytest.raises(StoppedError):
            fit(config, root, progress=False, on_epoch=stop)
    assert result_of(fit(config, root, progress=False, on_epoch=pytest.fail)) == result_of(whole)
    ours, theirs = (run_directory(config, one) for one in (root, taught))
    assert history_of(ours) == history_of(theirs)
    weights = [(one / "weights.safetensors").read_bytes() for one in (ours, theirs)]
    assert weights[0] == weights[1]


def test_the_teacher_is_frozen_and_never_moves(taught, monkeypatch):
    held, load = [], trainee.load_teacher

    def remember(*arguments):
        teacher = load(*arguments)
        held.append((teacher, {k: v.clone() for k, v in teacher.state_dict().items()}))
        return teacher

    monkeypatch.setattr(trainee, "load_teacher", remember)
    fit(tiny(method="dct+kd", data_seed=5), taught, progress=False)
    ((teacher, before),) = held
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    teacher.train()
    assert isinstance(teacher, FrozenTeacher)
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher(torch.randn(2, 3, 32, 32)).logits.requires_grad


def other_classes(path: Path) -> None:
    save_tensors(path, create_model("scenes_small", 7).state_dict(), {"classes": 7})


def other_architecture(path: Path) -> None:
    save_tensors(path, create_model("resnet8", 16).state_dict(), {"classes": 16})


@pytest.mark.parametrize(
    ("write", "says"),
    [(other_classes, "7 classes.*16"), (other_architecture, "do not fit")],
)
def test_a_teacher_that_cannot_teach_is_refused(write, says, tmp_path):
    path = tmp_path / "weights.safetensors"
    write(path)
    with pytest.raises(KdlibError, match=says):
        fit(tiny(teacher_weights=str(path)), tmp_path, progress=False)
    assert not list(tmp_path.rglob("record.json"))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ([{}], r"teacher's weights are missing.*02_teacher"),
        ([{"method": "dtc"}], "Unknown method 'dtc'.*'dct'"),
        ([{"student": "scenes_smal"}], "Unknown model 'scenes_smal'.*'scenes_small'"),
        ([{}, {"data_seed": 9}], "share 'data_seed', but it is 0 and 9"),
        ([], "nothing to train"),
    ],
)
def test_what_cannot_be_trained_is_refused(changes, says, tmp_path):
    with pytest.raises(KdlibError, match=says):
        fit([tiny(**own) for own in changes], tmp_path, progress=False)
    assert not list(tmp_path.rglob("record.json"))


def test_a_checkpoint_of_other_networks_is_named(root):
    path = run_directory(tiny(), root) / "checkpoint.safetensors"
    save_tensors(path, {"model.student.weight": torch.zeros(3)}, {"history": []})
    with pytest.raises(KdlibError, match=r"checkpoint\.safetensors.*Delete"):
        fit(tiny(), root, progress=False)


def test_who_diverges_stops_with_its_terms_and_takes_nobody_along(together, root):
    sound, wild = CONFIGS[3], tiny(**WILD)
    with pytest.raises(KdlibError, match=r"'kd' is not finite in epoch 1.*kd inf.*learning rate"):
        fit([wild, sound], root, progress=False)
    assert not (run_directory(wild, root) / "record.json").exists()
    assert result_of(fit(sound, root, on_epoch=pytest.fail)) == result_of(together[0][3])
    assert together[0][3]["diverged"] is None


def test_in_the_search_for_a_weight_divergence_is_a_result(tmp_path):
    wild = tiny(**WILD, split="dev")
    fit(wild.teacher_config(), tmp_path, progress=False)
    record = fit(wild, tmp_path, progress=False)
    assert "'kd' is not finite in epoch 1, step " in record["diverged"]
    assert record["results"]["last_epoch"] == 0
    validate_record(record, run_directory(wild, tmp_path) / "record.json")
    untrained, _ = load_tensors(run_directory(wild, tmp_path) / "weights.safetensors")
    seed_everything(derive_seed(wild.init_seed, "weights"))
    fresh = create_model(wild.student, 16).state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in untrained.items())


def test_a_network_comes_back_and_scores_again_what_its_record_says(together, taught):
    config, record = CONFIGS[1], together[0][1]
    data = load_data("scenes", "test", size=32, image_size=32)
    network = trained_network(config, taught, len(data.classes))
    right = (predicted(network, data) == data.labels).double().mean().item()
    assert right == pytest.approx(record["results"]["top1"])
    maps = attention_on(network, data.first(5))
    assert all(len(stage) == 5 and stage.ndim == 3 and stage.isfinite().all() for stage in maps)
    assert not any(stage.requires_grad for stage in maps)
    with pytest.raises(KdlibError, match="no finished run"):
        trained_network(replace(config, epochs=99), taught, 16)
