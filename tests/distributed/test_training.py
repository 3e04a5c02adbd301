"""Two processes on the CPU: the losses of one, its metrics, its files."""

import csv
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from teams import together
from torch import Tensor
from training import tiny

from kdlib import files, train
from kdlib.data import load_data
from kdlib.data.batches import Batch
from kdlib.detection.evaluation import evaluate_detectors
from kdlib.distill import TeacherOutput
from kdlib.errors import KdlibError
from kdlib.evaluate import evaluate_students, predict
from kdlib.files import load_tensors
from kdlib.models import create_model
from kdlib.models import output as cost
from kdlib.runs import RunConfig, run_directory
from kdlib.seeds import seed_everything
from kdlib.team import ALONE, Team
from kdlib.train import fit
from kdlib.trainee import Trainee
from study.records import validate_record

METHODS = ("student", "dct+gate+kd", "vid", "frskd")
# 33 images are 17 and 16; with 36 the last 3 of an epoch are too few for two processes.
# More than 250 test images: both processes evaluate.
SIZES = {
    "one step an epoch": {"train_size": 33, "batch_size": 33, "epochs": 12, "test_size": 300},
    "uneven": {"train_size": 69, "batch_size": 33, "epochs": 5},
}


class InParts(Trainee):
    """One process in the place of two: it takes each one's part by itself, and adds gradients."""

    def step(self, batch: Batch, teacher: Any, lr: float, progress: float) -> dict[str, Tensor]:
        self.optimiser.param_groups[0]["lr"] = lr
        self.optimiser.zero_grad()
        count, told = len(batch.indices), defaultdict(float)
        parts = torch.arange(count).chunk(2) if count >= 4 else [torch.arange(count)]
        for number, rows in enumerate(parts):
            before = {name: value.clone() for name, value in self.parts.named_buffers()}
            some = Batch(batch.images[rows], batch.labels[rows], batch.indices[rows])
            terms = self.parts(some, of_teacher(teacher, rows), progress)
            (sum(terms.values()) * len(rows) / count).backward()
            for name, value in self.parts.named_buffers() if number else ():
                value.copy_(before[name])  # running means are those of the main process
            for name, term in terms.items():
                told[name] += term.detach() * len(rows) / count
        self.optimiser.step()
        return told


def of_teacher(teacher: TeacherOutput | None, rows: Tensor) -> TeacherOutput | None:
    if teacher is None:
        return None
    stages = tuple(stage[rows] for stage in teacher.stages)
    return TeacherOutput(teacher.logits[rows], stages, teacher.embedding[rows])


@pytest.fixture(scope="module", autouse=True)
def untimed():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cost, "REPEATS", 1)
        yield


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    root, config = tmp_path_factory.mktemp("teacher"), tiny().teacher_config()
    fit(config, root, progress=False)
    return str(run_directory(config, root) / "weights.safetensors")


def forbid_writing(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("only the main process writes")


def trained(configs: list[RunConfig], root: Path, team: Team) -> Any:
    """The records of runs that several processes train; all but the main one cannot write."""
    if not team.is_main:
        files.secrets.token_hex = forbid_writing
    heard: list[Any] = []
    records = fit(configs, root, progress=False, team=team, on_epoch=lambda *it: heard.append(it))
    assert bool(heard) == team.is_main
    return records


def rows_of(config: RunConfig, root: Path) -> list[dict[str, float]]:
    text = (run_directory(config, root) / "history.csv").read_text().splitlines()
    rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(text)]
    return [{name: row[name] for name in row if name != "seconds"} for row in rows]


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_losses_are_those_of_one_process_within_1e_5(sizes, teacher, tmp_path, monkeypatch):
    configs = [tiny(method=m, teacher_weights=teacher, **sizes) for m in METHODS]
    mine, theirs = together(partial(trained, configs, tmp_path / "two"))
    assert mine == theirs
    monkeypatch.setattr(train, "trainee_of", lambda config: InParts)
    one = fit(configs, tmp_path / "one", progress=False)
    for config, record, reference in zip(configs, mine, one, strict=True):
        rows, expected = (rows_of(config, tmp_path / name) for name in ("two", "one"))
        assert len(rows) == sizes["epochs"]
        for row, other in zip(rows, expected, strict=True):
            assert row == pytest.approx(other, abs=1e-5, rel=1e-5), config.method
        assert record["results"] == reference["results"]
        assert record["ssim"] == (reference["ssim"] and pytest.approx(reference["ssim"], abs=1e-4))
        assert record["provenance"].items() >= {"processes": 2, "batch_norm": "own"}.items()
        directory = run_directory(config, tmp_path / "two")
        validate_record(record, directory / "record.json")
        wanted = {"config.json", "history.csv", "record.json", "weights.safetensors"}
        wanted |= {"self_teacher.safetensors"} if config.method == "frskd" else set()
        assert {path.name for path in directory.iterdir()} == wanted
        same_weights(directory, run_directory(config, tmp_path / "one"))


def same_weights(one: Path, other: Path) -> None:
    mine, theirs = (load_tensors(path / "weights.safetensors")[0] for path in (one, other))
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, theirs[name], atol=1e-4, rtol=1e-4, msg=name)


def network(name: str, classes: int, seed: int, **options: Any) -> torch.nn.Module:
    seed_everything(seed)
    return create_model(name, classes, **options).eval()


def measured(task: str, team: Team) -> Any:
    """What evaluation says of 33 images in batches of 8: five batches, the last of one image."""
    data = load_data("scenes", "test", size=33, image_size=32, task=task)
    classes = len(data.classes)
    if task == "detection":
        detector = network("scenes_ssd_tiny", classes, 0, image_size=32)
        return evaluate_detectors([detector], data, 8, team=team)
    if task == "segmentation":
        student = network("scenes_segmenter_tiny", classes, 0)
        return evaluate_students([student], None, data.first(5), 2, team=team)
    student, teacher = (network("scenes_small", classes, seed) for seed in (0, 1))
    logits = predict(student, data, 8, team=team).tolist()
    return logits, evaluate_students([student, teacher], teacher, data, 8, team=team)


@pytest.mark.parametrize("task", ["classification", "segmentation", "detection"])
def test_metrics_are_those_of_one_process_to_the_bit(task):
    alone = measured(task, ALONE)
    assert together(partial(measured, task)) == [alone, alone]


def test_a_detector_learns_in_two_processes(tmp_path):
    config = tiny(
        task="detection", student="scenes_ssd_tiny", method="student", image_size=32, train_size=10,
        test_size=5, batch_size=10, epochs=2,
    )  # fmt: skip
    mine, theirs = together(partial(trained, [config], tmp_path))
    assert mine == theirs and mine[0]["provenance"]["processes"] == 2


def test_a_run_goes_on_only_as_it_was_begun(tmp_path):
    def stop(config: RunConfig, row: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    config = tiny(method="student")
    with pytest.raises(KeyboardInterrupt):
        fit(config, tmp_path, progress=False, on_epoch=stop)
    for error in together(partial(trained, [config], tmp_path)):
        assert isinstance(error, KdlibError)
        assert "processes 1; this launch has processes 2" in str(error)
    assert fit(config, tmp_path, progress=False)["results"]["last_epoch"] == config.epochs
