"""Each process's part of the work; and two on the CPU: losses of one, its metrics, its files."""

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
from kdlib.data.batches import Batch, Batches
from kdlib.data.photographs import worker_count
from kdlib.detection.batches import DetectionBatches
from kdlib.detection.evaluation import evaluate_detectors
from kdlib.distill import TeacherOutput
from kdlib.errors import KdlibError
from kdlib.evaluate import evaluate_students, predict
from kdlib.files import load_tensors
from kdlib.models import create_model
from kdlib.models import output as cost
from kdlib.runs import RunConfig, run_directory
from kdlib.seeds import seed_everything
from kdlib.team import ALONE, Portion, Team
from kdlib.train import check_team, fit
from kdlib.trainee import Trainee
from study.records import validate_record

METHODS = ("student", "dct+gate+kd", "vid", "frskd")
# 33 images are 17 and 16; with 36 the last 3 of an epoch are too few for two processes.
# More than 250 test images: both processes evaluate.
SIZES = {
    "one step an epoch": {"train_size": 33, "batch_size": 33, "epochs": 6, "test_size": 300},
    "uneven": {"train_size": 69, "batch_size": 33, "epochs": 3},
}


@pytest.mark.parametrize("size", [1, 2, 3, 8])
@pytest.mark.parametrize("count", [2, 3, 5, 16, 33])
def test_every_image_of_a_batch_counts_once(count, size):
    batch = torch.randperm(count)
    if size == 1:
        assert ALONE.own(batch) == (batch, None)
        assert ALONE.in_order([1, 2]) == [1, 2] and ALONE.from_main(3) == 3
        return
    parts = [Team(rank, size).own(batch) for rank in range(size)]
    counted = [part for part, portion in parts if portion.counted]
    assert torch.equal(torch.cat(counted), batch) and parts[0][1].counted
    assert all(len(part) >= 2 for part, _ in parts)
    assert sum(portion.counted for _, portion in parts) == count
    assert {portion.whole for _, portion in parts} == {count}


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(
    "augmentation", [("flip", "crop"), ("flip", "mixup"), ("crop", "cutmix"), ("cutmix", "sla")]
)
def test_an_image_is_augmented_the_same_in_every_team(augmentation, size):
    scenes = load_data("scenes", "train", size=27, image_size=32)
    teams = [ALONE, *(Team(rank, size) for rank in range(size))]
    epochs = [Batches(scenes, 12, augmentation, team=team).epoch(3, 1) for team in teams]
    for batch, *shares in zip(*epochs, strict=True):
        counted = [share for share in shares if share.portion.counted]
        for position in batch.indices.unique():  # of joint labels every image is there four times
            rows = batch.indices == position
            (own,) = [share for share in counted if (share.indices == position).any()]
            mine = own.indices == position
            assert torch.equal(own.images[mine], batch.images[rows])
            assert torch.equal(own.labels[mine], batch.labels[rows])
            if batch.mixed:
                assert own.mixed.share == batch.mixed.share
                assert torch.equal(own.mixed.labels[mine], batch.mixed.labels[rows])


def test_objects_are_shared_out_with_their_images():
    scenes = load_data("scenes", "train", size=9, image_size=32, task="detection")
    teams = (ALONE, Team(0, 2), Team(1, 2))
    epochs = [DetectionBatches(scenes, 9, ("flip",), team=team).epoch(0, 0) for team in teams]
    whole, *parts = map(next, epochs)
    assert [part.portion for part in parts] == [Portion(5, 9), Portion(4, 9)]
    assert all(map(torch.equal, [image for part in parts for image in part.images], whole.images))
    targets = [target for part in parts for target in part.targets]
    boxes = [[target["boxes"] for target in some] for some in (targets, whole.targets)]
    assert all(map(torch.equal, *boxes)) and len(boxes[0]) == len(boxes[1])


@pytest.mark.parametrize(
    ("fields", "size", "fits", "says"),
    [
        ({"batch_size": 16}, 9, 8, "16 images.*9 processes.*at most 8"),
        *(
            ({"method": method}, 2, 1, "cannot be trained by 2 processes.*in one")
            for method in ("crd", "crd+kd", "srm_dictionary", "srm_init")
        ),
    ],
)
def test_what_a_team_cannot_share_is_refused(fields, size, fits, says):
    with pytest.raises(KdlibError, match=says):
        check_team([tiny(**fields)], Team(0, size))
    check_team([tiny(**fields)], Team(0, fits))


def test_processes_of_a_machine_share_the_cores_that_read_photographs(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(12), raising=False)
    monkeypatch.delenv("KDLIB_WORKERS", raising=False)
    for size, workers in ((4, 3), (64, 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(size))
        assert worker_count() == workers


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


def rows_of(directory: Path) -> list[dict[str, float]]:
    rows = csv.DictReader((directory / "history.csv").read_text().splitlines())
    return [{n: float(value) for n, value in row.items() if n != "seconds"} for row in rows]


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_losses_are_those_of_one_process_within_1e_5(sizes, teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(cost, "REPEATS", 1)
    configs = [tiny(method=m, teacher_weights=teacher, **sizes) for m in METHODS]
    mine, theirs = together(partial(trained, configs, tmp_path / "two"))
    assert mine == theirs
    monkeypatch.setattr(train, "trainee_of", lambda config: InParts)
    one = fit(configs, tmp_path / "one", progress=False)
    for config, record, reference in zip(configs, mine, one, strict=True):
        two, alone = (run_directory(config, tmp_path / name) for name in ("two", "one"))
        rows = rows_of(two)
        assert len(rows) == sizes["epochs"]
        for row, other in zip(rows, rows_of(alone), strict=True):
            assert row == pytest.approx(other, abs=1e-5, rel=1e-5), config.method
        assert record["results"] == reference["results"]
        assert record["ssim"] == (reference["ssim"] and pytest.approx(reference["ssim"], abs=1e-4))
        assert record["provenance"].items() >= {"processes": 2, "batch_norm": "own"}.items()
        validate_record(record, two / "record.json")
        wanted = {"config.json", "history.csv", "record.json", "weights.safetensors"}
        wanted |= {"self_teacher.safetensors"} if config.method == "frskd" else set()
        assert {path.name for path in two.iterdir()} == wanted
        weights, others = (load_tensors(d / "weights.safetensors")[0] for d in (two, alone))
        torch.testing.assert_close(weights, others, atol=1e-4, rtol=1e-4)


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
    sizes = {"image_size": 32, "train_size": 10, "test_size": 5, "batch_size": 10, "epochs": 2}
    config = tiny(task="detection", student="scenes_ssd_tiny", method="student", **sizes)
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
