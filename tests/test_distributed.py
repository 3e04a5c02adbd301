"""Several processes that train together: each one's part, the numbers of one, `kdlib.train`."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from accelerate import PartialState
from processes import outcomes, statuses
from torch import Tensor
from training import TINY, check_like, tiny

from kdlib import KdlibError, create_model, files, load_data, train
from kdlib.data.batches import Batch, Batches
from kdlib.detection.batches import DetectionBatches
from kdlib.detection.evaluation import evaluate_detector
from kdlib.distill import TeacherOutput
from kdlib.evaluate import evaluate_student, predict
from kdlib.files import load_tensors
from kdlib.launch import main
from kdlib.process_group import ALONE, ProcessGroup, Shard, launched_world
from kdlib.runs import RunConfig, read_record, run_directory
from kdlib.seeds import seed_everything
from kdlib.train import check_world, fit
from kdlib.train_state import TrainState
from study.records import validate_record


def launched(work: Callable[[], Any]) -> list[Callable[[], Any]]:
    """``work`` for two processes, each with the environment that a launcher gives."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    shared |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}

    def act(rank: str) -> Any:
        os.environ.update(**shared, RANK=rank, LOCAL_RANK=rank)
        PartialState._reset_state()  # what the test's own process knows of its launch
        return work()

    return [partial(act, rank) for rank in "01"]


def together(work: Callable[[ProcessGroup], Any]) -> list[Any]:
    """What ``work`` returns in each of two processes, or the error that it raises there."""

    def act() -> Any:
        world = launched_world("cpu")
        try:
            return work(world)
        finally:
            world.gathered(None)  # whoever ends at once takes the others' connections along

    return outcomes(*launched(act))


@pytest.mark.parametrize("size", [2, 3, 8])
@pytest.mark.parametrize("count", [2, 3, 5, 16, 33])
def test_every_image_of_a_batch_counts_once(count, size):
    batch = torch.randperm(count)
    parts = [ProcessGroup(rank, size).own(batch) for rank in range(size)]
    counted = [part for part, shard in parts if shard.counted]
    assert torch.equal(torch.cat(counted), batch) and parts[0][1].counted
    assert all(len(part) >= 2 for part, _ in parts)
    assert sum(shard.counted for _, shard in parts) == count
    assert {shard.whole for _, shard in parts} == {count}
    assert ALONE.own(batch) == (batch, None)
    assert ALONE.in_order([1, 2]) == [1, 2] and ALONE.from_main(3) == 3


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize(
    "augmentation", [("flip", "crop"), ("flip", "mixup"), ("crop", "cutmix"), ("cutmix", "sla")]
)
def test_an_image_is_augmented_the_same_in_every_launch(augmentation, size):
    scenes = load_data("scenes", "train", size=27, image_size=32)
    launches = [ALONE, *(ProcessGroup(rank, size) for rank in range(size))]
    epochs = [Batches(scenes, 12, augmentation, world=world).epoch(3, 1) for world in launches]
    for batch, *shares in zip(*epochs, strict=True):
        counted = [share for share in shares if share.shard.counted]
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
    launches = (ALONE, ProcessGroup(0, 2), ProcessGroup(1, 2))
    epochs = [DetectionBatches(scenes, 9, ("flip",), world=world).epoch(0, 0) for world in launches]
    whole, *parts = map(next, epochs)
    assert [part.shard for part in parts] == [Shard(5, 9), Shard(4, 9)]
    assert all(map(torch.equal, [image for part in parts for image in part.images], whole.images))
    targets = [target for part in parts for target in part.targets]
    boxes = [[target["boxes"] for target in some] for some in (targets, whole.targets)]
    assert all(map(torch.equal, *boxes)) and len(boxes[0]) == len(boxes[1])


@pytest.mark.parametrize(("fields", "size", "fits", "says"), [
    ({"batch_size": 16}, 9, 8, "16 images.*9 processes.*at most 8"),
    *(
        ({"method": method}, 2, 1, "cannot be trained by 2 processes.*in one")
        for method in ("crd", "crd+kd", "srm_dictionary", "srm_init")
    ),
])  # fmt: skip
def test_what_a_launch_cannot_share_is_refused(fields, size, fits, says):
    with pytest.raises(KdlibError, match=says):
        check_world([tiny(**fields)], ProcessGroup(0, size))
    check_world([tiny(**fields)], ProcessGroup(0, fits))
    assert ProcessGroup(0, size).conditions(torch.device("cpu"))["processes"] == size


def test_a_launch_of_more_processes_than_gpus_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(KdlibError, match="2 processes on a machine with 1 GPUs; .*--device cpu"):
        launched_world()


class InParts(TrainState):
    """One process in the place of two: it takes each one's part by itself, and adds gradients."""

    def step(self, batch: Batch, teacher: Any, lr: float, progress: float) -> dict[str, Tensor]:
        self.optimiser.param_groups[0]["lr"] = lr
        self.optimiser.zero_grad()
        count, told = len(batch.indices), defaultdict(float)
        parts = torch.arange(count).chunk(2) if count >= 4 else [torch.arange(count)]
        for number, rows in enumerate(parts):
            before = {name: value.clone() for name, value in self.parts.named_buffers()}
            some = Batch(batch.images[rows], batch.labels[rows], batch.indices[rows])
            if (known := teacher) is not None:
                stages = tuple(stage[rows] for stage in teacher.stages)
                known = TeacherOutput(teacher.logits[rows], stages, teacher.embedding[rows])
            terms = self.parts(some, known, progress)
            (sum(terms.values()) * len(rows) / count).backward()
            for name, value in self.parts.named_buffers() if number else ():
                value.copy_(before[name])  # running means are those of the main process
            for name, term in terms.items():
                told[name] += term.detach() * len(rows) / count
        self.optimiser.step()
        return told


def trained(configs: list[RunConfig], root: Path, world: ProcessGroup) -> Any:
    """The records of runs that several processes train; the others write nothing but caches."""
    written = files.writing
    if not world.is_main:
        files.writing = lambda path: written(None if path.is_relative_to(root) else path)
    heard: list[Any] = []
    records = fit(configs, root, progress=False, world=world, on_epoch=lambda *it: heard.append(it))
    assert bool(heard) == world.is_main
    return records


def test_losses_are_those_of_one_process_within_1e_5(taught, tmp_path, monkeypatch):
    # 33 images are 17 and 16; of 69 the last 3 of an epoch are too few for two processes.
    # More than 250 test images: both processes evaluate.
    sizes = {"train_size": 69, "batch_size": 33, "epochs": 3, "test_size": 300}
    teacher = run_directory(tiny().teacher_config(), taught) / "weights.safetensors"
    methods = ("student", "dct+gate+kd", "vid", "frskd")
    configs = [tiny(method=m, teacher_weights=str(teacher), **sizes) for m in methods]
    mine, theirs = together(partial(trained, configs, tmp_path / "two"))
    assert mine == theirs
    monkeypatch.setattr(train, "state_of", lambda config: InParts)
    one = fit(configs, tmp_path / "one", progress=False)
    for config, record, reference in zip(configs, mine, one, strict=True):
        two, alone = (run_directory(config, tmp_path / name) for name in ("two", "one"))
        histories = (path / "history.csv" for path in (two, alone))
        rows, others = (np.loadtxt(path, delimiter=",", skiprows=1) for path in histories)
        assert len(rows) == config.epochs
        assert rows[:, :-1] == pytest.approx(others[:, :-1], abs=1e-5, rel=1e-5)  # not the seconds
        error = reference["results"]["ece"]
        assert record["results"]["ece"] == pytest.approx(error, abs=1e-6)
        assert {**record["results"], "ece": error} == reference["results"]
        assert record["ssim"] == (reference["ssim"] and pytest.approx(reference["ssim"], abs=1e-4))
        assert record["provenance"].items() >= {"processes": 2, "batch_norm": "own"}.items()
        validate_record(record, two / "record.json")
        own = {"self_teacher.safetensors"} if config.method == "frskd" else set()
        names, others = ({path.name for path in folder.iterdir()} for folder in (two, alone))
        assert names == others | own
        weights, others = (load_tensors(d / "weights.safetensors")[0] for d in (two, alone))
        torch.testing.assert_close(weights, others, atol=1e-4, rtol=1e-4)


def measured(task: str, world: ProcessGroup) -> Any:
    """What evaluation says of 33 images in batches of 8: five batches, the last of one image."""
    data = load_data("scenes", "test", size=33, image_size=32, task=task)
    names = {"detection": "ssd_tiny", "segmentation": "segmenter_tiny", "classification": "small"}
    name, options = f"scenes_{names[task]}", {"image_size": 32} if task == "detection" else {}
    seed_everything(0)
    student, teacher = (create_model(name, len(data.classes), **options).eval() for _ in range(2))
    if task == "detection":
        return evaluate_detector(student, data, batch_size=8, world=world)
    if task == "segmentation":
        return evaluate_student(student, None, data.first(5), batch_size=2, world=world)
    logits = predict(student, data, 8, world=world).tolist()
    return logits, evaluate_student(student, teacher, data, batch_size=8, world=world)


@pytest.mark.parametrize("task", ["classification", "segmentation", "detection"])
def test_metrics_are_those_of_one_process_to_the_bit(task):
    alone = measured(task, ALONE)
    assert together(partial(measured, task)) == [alone, alone]


def test_a_detector_learns_in_two_processes(tmp_path):
    sizes = {"image_size": 32, "train_size": 10, "test_size": 5, "batch_size": 10, "epochs": 2}
    config = tiny(task="detection", student="scenes_ssd_tiny", method="student", **sizes)
    mine, theirs = together(partial(trained, [config], tmp_path))
    assert mine == theirs and mine[0]["provenance"]["processes"] == 2


SHORT = {"method": "student", "epochs": 5}


def arguments(folder: Path, *more: str, **fields: object) -> list[str]:
    """Those of a command that trains a tiny run in a folder."""
    (folder / "run.yaml").write_text(yaml.safe_dump({**TINY, **fields}))
    places = [f"--config={folder / 'run.yaml'}", f"--runs={folder / 'runs'}"]
    return [*places, "--device=cpu", "--no-progress", *more]


def test_one_process_trains_the_teacher_and_the_run(tmp_path, capsys):
    as_json, usual = tmp_path / "run.json", arguments(tmp_path)
    as_json.write_text(json.dumps(TINY))
    for given in (usual, [f"--config={as_json}", *usual[1:]]):
        assert main(given) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == said[2:], "a run is the same in YAML and in JSON"
    for line, config in zip(said[:2], (tiny().teacher_config(), tiny()), strict=True):
        path = run_directory(config, tmp_path / "runs") / "record.json"
        record = read_record(path)
        assert f"top1 {100 * record['results']['top1']:.2f} %" in line and line.endswith(str(path))
        assert record["provenance"]["processes"] == 1


@pytest.mark.parametrize(("text", "said"), [
    ("tempratur: 3", "Unknown run parameter 'tempratur'.*Did you mean 'temperature'"),
    ("1: 2", "no fields of a run"),
    ("", "no fields of a run"),
    ("a: [", "cannot be read as YAML"),
    (None, r"run\.yaml cannot be read"),
    ("dataset: mit67", "(?s)mit67.*To get it"),
    ("learning_rate: 1e-1", "learning_rate is '1e-1' .text to YAML.*as in 1.0e-1"),
])  # fmt: skip
def test_what_is_wrong_is_told_and_leaves_no_record(text, said, tmp_path, capsys):
    given, config = arguments(tmp_path, f"--data-root={tmp_path}"), tmp_path / "run.yaml"
    if text is None:
        config.unlink()
    else:
        config.write_text(text)
    assert main(given) == 2
    told = capsys.readouterr().err
    assert re.search(said, told) and "Traceback" not in told, told
    assert len(told.splitlines()) <= (24 if "To get it" in told else 1)
    assert not list(tmp_path.rglob("record.json"))


def test_an_option_given_twice_is_refused(tmp_path, capsys):
    for twice in (["--device", "cpu"], ["--no-progress"], [f"--config={tmp_path}"]):
        with pytest.raises(SystemExit):
            main(arguments(tmp_path, *twice))
        assert f"{twice[0].partition('=')[0]} is given twice" in capsys.readouterr().err


def launch(folder: Path, *more: str, **fields: object) -> tuple[list[int | None], list[str]]:
    """How two processes end that train a run together, and what each said of errors."""
    given, errors = arguments(folder, *more, **fields), [folder / f"{rank}.err" for rank in "01"]

    def act() -> None:  # like the interpreter, it ends with what ``main`` returns
        with errors[int(os.environ["RANK"])].open("w", buffering=1) as sys.stderr:
            os._exit(main(given))

    return statuses(*launched(act)), [path.read_text() for path in errors]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The directory of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    assert launch(folder, **SHORT)[0] == [0, 0]
    return run_directory(tiny(**SHORT), folder / "runs")


@pytest.mark.parametrize(("victim", "moment"), [(0, "end_epoch"), (1, "step")])
def test_when_one_is_killed_the_other_ends_and_the_next_launch_goes_on(
    victim, moment, whole, tmp_path, monkeypatch
):
    usual, seen = getattr(TrainState, moment), []

    def fatal(state: TrainState, *given: Any) -> Any:
        """The fourth step, or end of an epoch, is the last of one process."""
        seen.append(moment)
        found = usual(state, *given)
        if state.world.rank == victim and len(seen) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(TrainState, moment, fatal)
        ends, said = launch(tmp_path, **SHORT)
    assert ends[victim] == -signal.SIGKILL and ends[1 - victim] == 2
    mine = run_directory(tiny(**SHORT), tmp_path / "runs")
    assert (mine / "checkpoint.safetensors").exists() and not (mine / "record.json").exists()
    assert ("Another process of this launch has ended" in said[0]) == (victim == 1)
    assert launch(tmp_path, **SHORT)[0] == [0, 0]
    check_like(mine, whole)
    assert read_record(mine / "record.json")["provenance"]["processes"] == 2


@pytest.mark.parametrize(("fields", "more", "said"), [
    ({"method": "dtc"}, [], "Unknown method 'dtc'"),
    ({}, ["--sync-batch-norm"], "between GPUs alone"),
    ({"learning_rate": 1e30}, [], "is not finite"),
])  # fmt: skip
def test_several_processes_tell_what_is_wrong_once(fields, more, said, tmp_path):
    fields = {"method": "student", **fields}
    ends, told = launch(tmp_path, *more, **fields)
    assert ends == [2, 2] and said in "".join(told)
    assert len([line for line in "".join(told).splitlines() if line and "it/s" not in line]) == 1
    assert not list(tmp_path.rglob(f"*-{fields['method']}-s*/record.json"))


def test_accelerate_launches_it(tmp_path):
    """As a user does; that needs seconds for starting three interpreters."""
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    launcher += ["--num_processes=2", "--num_machines=1", "--main_process_port=0"]
    command = [*launcher, "-m", "kdlib.train", *arguments(tmp_path, method="student", epochs=1)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = tmp_path.glob("runs/*/record.json")
    assert done.stdout.count(str(path)) == 1
    assert read_record(path)["provenance"]["processes"] == 2
