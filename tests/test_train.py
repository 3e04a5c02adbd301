"""The loop: lock-step equals separate, resume equals never stopped, the teacher never moves."""

import contextlib
import csv
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from shutil import copytree

import pytest
import torch
from torch import nn, optim
from training import check_like, tiny

from kdlib import FrozenTeacher, KdlibError, create_model, fit, load_data, train_state
from kdlib.evaluate import attention_on, predict, trained_network
from kdlib.files import load_tensors, not_finite
from kdlib.runs import RunConfig, earlier, is_finished, read_record, run_directory
from kdlib.seeds import derive_seed, seed_everything
from kdlib.train_state import (
    DivergedError,
    TrainState,
    create_optimiser,
    learning_rate,
    resolve_precision,
)
from study.records import validate_record

METHODS = ("student", "kd", "at+kd", "dct+gate+kd", "crd", "vid+kd")
CONFIGS, TEACHER = [tiny(method=method) for method in METHODS], tiny().teacher_config()
CHECKPOINT, WEIGHTS = "checkpoint.safetensors", "weights.safetensors"
WILD = {"method": "kd", "kd_weight": 1e39}


@pytest.fixture(scope="module")
def together(taught, tmp_path_factory) -> tuple[Path, list[dict], list, list]:
    """A folder of all methods in lock-step, records, what was said of epochs, and the teacher."""
    root = copytree(taught, tmp_path_factory.mktemp("together") / "runs")
    rows, held, load = [], [], TrainState.teacher_for

    def remember(*given):
        held.append(load(*given))
        held.append(deepcopy(held[0].state_dict()))
        return held[0]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainState, "teacher_for", remember)
        found = fit(CONFIGS, root, progress=False, on_epoch=lambda *said: rows.append(said))
    return root, found, rows, held


@pytest.mark.parametrize("config", CONFIGS, ids=METHODS)
def test_lock_step_gives_the_numbers_of_separate_runs(config, together, undisturbed):
    check_like(run_directory(config, together[0]), undisturbed(config))


def test_a_run_leaves_its_files_and_is_not_run_again(together):
    root, records, rows, _ = together
    assert [config for config, _ in rows] == CONFIGS * CONFIGS[0].epochs
    for config, record in zip(CONFIGS, records, strict=True):
        directory = run_directory(config, root)
        files = {path.name for path in directory.iterdir()}
        assert files == {"config.json", "history.csv", "weights.safetensors", "record.json"}
        assert record["provenance"]["data_fingerprint"] and record["diverged"] is None
        assert record["results"]["last_epoch"] == config.epochs
        with (directory / "history.csv").open() as file:
            written = [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)]
        assert written == [row for of, row in rows if of == config]
    assert list(rows[2][1]) == ["epoch", "learning_rate", "ce", "at", "kd", "accuracy", "seconds"]
    assert fit(CONFIGS, root, on_epoch=pytest.fail) == records


def test_the_teacher_is_frozen_and_never_moves(together):
    teacher, before = together[3]
    assert isinstance(teacher.train(), FrozenTeacher)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not any(module.training for module in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher(torch.randn(2, 3, 32, 32)).logits.requires_grad


@pytest.mark.parametrize(("fields", "works"), [
    ({"method": "student", "image_size": 16}, False),
    ({"method": "reviewkd"}, False), ({"method": "famkd"}, False), ({"method": "kd"}, True),
    ({"method": "crd"}, True),
])  # fmt: skip
def test_a_batch_of_one_image_is_told_before_training_where_nothing_can_be_normalised(
    fields, works, root
):
    config = tiny(**{"batch_size": 1, "train_size": 4, "epochs": 1, **fields})
    for needed in earlier([config, replace(config, batch_size=2)]):
        fit(needed, root, progress=False)
    if not works:
        with pytest.raises(KdlibError, match="'scenes_small' cannot learn.*Set batch_size to 2"):
            fit(config, root, progress=False)
        assert [path.name for path in run_directory(config, root).iterdir()] == ["config.json"]
        config = replace(config, batch_size=2, train_size=4)
    assert fit(config, root, progress=False)["diverged"] is None


@pytest.mark.parametrize(("changes", "says"), [
    ([{}], r"teacher's weights are missing.*teacher_config"),
    ([{}, {"data_seed": 9}], "share 'data_seed', but it is 0 and 9"),
    ([{}, {"teacher_seed": 9}], "share 'teacher_seed', but it is 0 and 9"),
    ([], "nothing to train"),
    *[([{"method": name, "teacher": "none"}], f"'{name}' learns from a teacher".replace("+", "."))
      for name in ("kd", "dct+gate", "frskd+kd", "srm", "crd")],
    ([{"device": "cuda:7"}], "Unknown device of this machine 'cuda:7'.*cpu"),
])  # fmt: skip
def test_what_cannot_be_trained_is_refused(changes, says, tmp_path):
    device = changes[0].pop("device", None) if changes else None
    with pytest.raises(KdlibError, match=says):
        fit([tiny(**own) for own in changes], tmp_path, device=device, progress=False)
    assert not list(tmp_path.rglob("record.json"))


def test_who_diverges_stops_with_its_terms_and_takes_nobody_along(together, root):
    sound, wild = CONFIGS[3], tiny(**WILD)
    with pytest.raises(KdlibError, match=r"'kd' is not finite in epoch 1.*kd inf.*learning rate"):
        fit([wild, sound], root, progress=False)
    assert not (run_directory(wild, root) / "record.json").exists()
    check_like(run_directory(sound, root), run_directory(sound, together[0]))


OVERFLOWING = {"teacher": "scenes_tiny", "student": "scenes_teacher"}


@pytest.mark.parametrize("wild", [
    {"method": "fitnet", **OVERFLOWING}, {"method": "semckd", **OVERFLOWING},
    {"method": "kd", "learning_rate": 1000.0, "teacher_learning_rate": 0.1, "epochs": 1},
    {"method": "kd", "learning_rate": 1e30, "teacher_learning_rate": 0.1, "epochs": 1},
    {"method": "srm_dictionary", "weight": 1e39, "split": "dev"},
], ids=str)  # fmt: skip
def test_what_is_not_finite_at_the_end_stays_out_of_records_and_stops_nobody(wild, tmp_path):
    configs = [tiny(**{**wild, "method": one}) for one in ("student", wild["method"], "kd", "at")]
    configs = list({config.run_id: config for config in configs}.values())
    for config in earlier(configs):
        fit(config, tmp_path, progress=False)
    with contextlib.suppress(DivergedError):
        fit(configs, tmp_path, progress=False)
    finished = [config for config in configs if is_finished(config, tmp_path)]
    assert len(finished) >= len(configs) - 1 or wild.get("learning_rate")
    for config in configs:
        directory = run_directory(config, tmp_path)
        if config in finished:
            record = read_record(directory / "record.json")
            validate_record(record, directory / "record.json")
            assert not not_finite(load_tensors(directory / WEIGHTS)[0])
        else:
            with pytest.raises(DivergedError, match=r"not finite in epoch \d, step \d"):
                fit(config, tmp_path, progress=False)
            checkpoint = directory / CHECKPOINT
            assert not checkpoint.exists() or not not_finite(load_tensors(checkpoint)[0])


def test_in_the_search_for_a_weight_divergence_is_a_result(tmp_path):
    wild = tiny(**WILD, split="dev")
    for config in (wild.teacher_config(), wild):
        record = fit(config, tmp_path, progress=False)
    assert "'kd' is not finite in epoch 1, step " in record["diverged"]
    assert record["results"]["last_epoch"] == 0
    validate_record(record, run_directory(wild, tmp_path) / "record.json")
    untrained, _ = load_tensors(run_directory(wild, tmp_path) / "weights.safetensors")
    seed_everything(derive_seed(wild.init_seed, "weights"))
    fresh = create_model(wild.student, 16).state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in untrained.items())


def test_a_network_comes_back_and_scores_again_what_its_record_says(together):
    root, config, record = together[0], CONFIGS[1], together[1][1]
    data = load_data("scenes", "test", size=32, image_size=32)
    network = trained_network(config, root, len(data.classes))
    right = (predict(network, data).argmax(1) == data.labels).double().mean().item()
    assert right == pytest.approx(record["results"]["top1"])
    maps = attention_on(network, data.first(5))
    assert all(len(stage) == 5 and stage.ndim == 3 and stage.isfinite().all() for stage in maps)
    assert not any(stage.requires_grad for stage in maps)
    with pytest.raises(KdlibError, match="no finished run"):
        trained_network(replace(config, epochs=99), root, 16)


# How a run learns, beside what golden learning rates and fingerprints hold.
def test_an_optimiser_has_a_run_s_values_not_what_is_frozen_and_a_rate_rises_for_a_fifth():
    layer, config = nn.Linear(2, 2), RunConfig(epochs=10, learning_rate=0.2)
    layer.bias.requires_grad_(False)
    for kind, own in ((optim.Adam, {"betas": (0.8, 0.999)}), (optim.SGD, {"momentum": 0.8})):
        values = {"momentum": 0.8, "weight_decay": 1e-3, "optimiser": kind.__name__.lower()}
        made = create_optimiser(replace(config, **values), layer)
        (group,) = made.param_groups
        assert type(made) is kind and [one is layer.weight for one in group.pop("params")] == [True]
        assert group.items() >= {"lr": 0.2, "weight_decay": 1e-3, **own}.items()
    found = [learning_rate(config, (n + 0.5) / 1000, 10) for n in range(1000)]
    assert found.index(max(found)) in (199, 200)
    assert max(found) == pytest.approx(0.2, rel=0.01) and found[-1] < 1e-5


@pytest.mark.parametrize(("gain", "chosen"), [(2.0, "bfloat16"), (1.05, "float32")])
def test_precision_is_measured_once_on_a_machine(gain, chosen, tmp_path, monkeypatch):
    cpu, times = torch.device("cpu"), iter([gain, 1.0])
    monkeypatch.setenv("KDLIB_CACHE", str(tmp_path))
    with monkeypatch.context() as patch:
        patch.setattr(train_state, "latency", lambda step: step() or next(times))
        assert [resolve_precision("auto", cpu) for _ in range(3)] == [chosen] * 3
    assert resolve_precision("float32", cpu) == "float32"
