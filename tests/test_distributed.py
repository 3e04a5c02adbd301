"""Several processes that train together: each one's part, the numbers of one, `kdlib.train`."""

import csv
import json
import multiprocessing
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

import pytest
import torch
import yaml
from accelerate import PartialState
from data_files import FASHION, write_fashion
from torch import Tensor
from training import TINY, history_of, result_of, tiny

from kdlib import files, train
from kdlib.data import load_data
from kdlib.data.batches import Batch, Batches
from kdlib.data.photographs import worker_count
from kdlib.detection.batches import DetectionBatches
from kdlib.detection.evaluation import evaluate_detectors
from kdlib.distill import TeacherOutput
from kdlib.errors import KdlibError
from kdlib.evaluate import evaluate_students, predict
from kdlib.files import load_tensors, save_tensors
from kdlib.launch import main
from kdlib.models import create_model
from kdlib.models import output as cost
from kdlib.runs import RunConfig, read_record, run_directory
from kdlib.seeds import seed_everything
from kdlib.team import ALONE, Portion, Team, launched_team
from kdlib.train import check_team, fit
from kdlib.trainee import Trainee
from study.records import validate_record

PATIENCE_S = 120


def started(work: Callable[[], Any]) -> list[Any]:
    """Two processes that call ``work``, each with the environment that a launcher gives."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    shared |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}

    def act(rank: str) -> None:
        os.environ.update(**shared, RANK=rank, LOCAL_RANK=rank)
        torch.set_num_threads(1)
        PartialState._reset_state()  # what the test's own process knows of its launch
        work()

    context = multiprocessing.get_context("fork")
    found = [context.Process(target=act, args=(rank,)) for rank in "01"]
    for process in found:
        process.start()
    return found


def together(work: Callable[[Team], Any]) -> list[Any]:
    """What ``work`` returns in each of two processes, or the error that it raises there."""
    ends = [multiprocessing.Pipe() for _ in range(2)]

    def answer() -> None:
        team = launched_team("cpu")
        try:
            ends[team.rank][1].send(work(team))
        except Exception as error:
            ends[team.rank][1].send(error)
        team.gathered(None)  # whoever ends at once takes the others' connections along

    processes = started(answer)
    try:
        return [theirs.recv() if theirs.poll(PATIENCE_S) else "no answer" for theirs, _ in ends]
    finally:
        for process in processes:
            process.join(PATIENCE_S)
            process.kill()


METHODS = ("student", "dct+gate+kd", "vid", "frskd")
# 33 images are 17 and 16; with 36 the last 3 of an epoch are too few for two processes.
# More than 250 test images: both processes evaluate.
SIZES = {
    "one step an epoch": {"train_size": 33, "batch_size": 33, "epochs": 6, "test_size": 300},
    "uneven": {"train_size": 69, "batch_size": 33, "epochs": 3},
}


@pytest.mark.parametrize("size", [2, 3, 8])
@pytest.mark.parametrize("count", [2, 3, 5, 16, 33])
def test_every_image_of_a_batch_counts_once(count, size):
    batch = torch.randperm(count)
    parts = [Team(rank, size).own(batch) for rank in range(size)]
    counted = [part for part, portion in parts if portion.counted]
    assert torch.equal(torch.cat(counted), batch) and parts[0][1].counted
    assert all(len(part) >= 2 for part, _ in parts)
    assert sum(portion.counted for _, portion in parts) == count
    assert {portion.whole for _, portion in parts} == {count}
    assert ALONE.own(batch) == (batch, None)
    assert ALONE.in_order([1, 2]) == [1, 2] and ALONE.from_main(3) == 3


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


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> str:
    root, config = tmp_path_factory.mktemp("teacher"), tiny().teacher_config()
    fit(config, root, progress=False)
    return str(run_directory(config, root) / "weights.safetensors")


def trained(configs: list[RunConfig], root: Path, team: Team) -> Any:
    """The records of runs that several processes train; all but the main one cannot write."""
    if not team.is_main:
        files.secrets.token_hex = None  # only the main process writes
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


def measured(task: str, team: Team) -> Any:
    """What evaluation says of 33 images in batches of 8: five batches, the last of one image."""
    data = load_data("scenes", "test", size=33, image_size=32, task=task)
    name, options = {
        "detection": ("scenes_ssd_tiny", {"image_size": 32}),
        "segmentation": ("scenes_segmenter_tiny", {}),
        "classification": ("scenes_small", {}),
    }[task]
    seed_everything(0)
    student, teacher = (create_model(name, len(data.classes), **options).eval() for _ in range(2))
    if task == "detection":
        return evaluate_detectors([student], data, 8, team=team)
    if task == "segmentation":
        return evaluate_students([student], None, data.first(5), 2, team=team)
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


SHORT = {"method": "student", "epochs": 5}


def write_config(folder: Path, **fields: object) -> Path:
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump({**TINY, **fields}))
    return path


def arguments(config: Path, runs: Path, *more: str) -> list[str]:
    return [f"--config={config}", f"--runs={runs}", "--device=cpu", "--no-progress", *more]


def test_one_process_trains_the_teacher_and_the_run(tmp_path, capsys):
    config = write_config(tmp_path)
    as_json = config.with_suffix(".json")
    as_json.write_text(json.dumps(yaml.safe_load(config.read_text())))
    for path in (config, as_json):
        assert main(arguments(path, tmp_path / "runs")) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[:2] == said[2:], "a run is the same in YAML and in JSON"
    directories = [run_directory(c, tmp_path / "runs") for c in (tiny().teacher_config(), tiny())]
    for line, directory in zip(said[:2], directories, strict=True):
        record = json.loads((directory / "record.json").read_text())
        assert f"top1 {100 * record['results']['top1']:.2f} %" in line
        assert line.endswith(str(directory / "record.json"))
        assert record["provenance"]["processes"] == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tempratur: 3", "Unknown run parameter 'tempratur'.*Did you mean 'temperature'"),
        ("method: dtc", "Unknown method 'dtc'. Did you mean 'dct'.*parseval"),
        ("- 1", "no fields of a run"),
        ("1: 2", "no fields of a run"),
        ("", "no fields of a run"),
        ("a: [", "cannot be read as YAML"),
        (None, r"run\.yaml cannot be read"),
        ("epochs: many", "epochs"),
        ("dataset: scene", "Unknown data set 'scene'. Did you mean 'scenes'.*imagefolder"),
        ("dataset: mit67", "(?s)mit67.*To get it"),
        ("dataset: fashion_mnist", "train-images-idx3-ubyte"),
        ("teacher_weights: seven.safetensors", "seven.*7 classes.*16"),
    ],
)
def test_what_is_wrong_is_told_in_one_screen_and_leaves_no_record(
    text, said, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    images = write_fashion(tmp_path) / FASHION / "train-images-idx3-ubyte"
    images.write_bytes(images.read_bytes()[:-1000])
    weights = create_model(TINY["teacher"], 7).state_dict()
    save_tensors(Path("seven.safetensors"), weights, {"classes": 7})
    if text is not None:
        usual = yaml.safe_dump(TINY) if text.startswith(("dataset", "teacher")) else ""
        Path("run.yaml").write_text(usual + text)
    assert main(arguments(Path("run.yaml"), Path("runs"), "--data-root=.")) == 2
    told = capsys.readouterr().err
    assert re.search(said, told) and "Traceback" not in told, told
    assert len(told.splitlines()) <= (24 if "To get it" in told or "IDX" in told else 1)
    assert not list(tmp_path.rglob("record.json"))


def command(config: Path, runs: Path, *more: str) -> None:
    """One process of a launch; like the interpreter, it ends with what ``main`` returns."""
    with runs.with_suffix(f".{os.environ['RANK']}.err").open("w", buffering=1) as sys.stderr:
        os._exit(main(arguments(config, runs, *more)))


def mortal_command(config: Path, runs: Path, victim: int, moment: str) -> None:
    """The same, but one process is killed at a moment of its fourth step, or epoch."""
    usual, seen = getattr(Trainee, moment), []

    def fatal(trainee: Trainee, *given: Any) -> Any:
        seen.append(moment)
        found = usual(trainee, *given)
        if trainee.team.rank == victim and len(seen) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(Trainee, moment, fatal)  # of a process that will not live long
    command(config, runs)


def statuses(work: Callable[[], None]) -> list[int | None]:
    """How two processes end that train together."""
    processes = started(work)
    for process in processes:
        process.join(PATIENCE_S)
    return [process.exitcode for process in processes]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> tuple[Path, Path]:
    """The configuration of a run, and the directory of it that nothing happened to."""
    root = tmp_path_factory.mktemp("undisturbed")
    config = write_config(root, **SHORT)
    assert statuses(partial(command, config, root / "runs")) == [0, 0]
    return config, run_directory(tiny(**SHORT), root / "runs")


@pytest.mark.parametrize(("victim", "moment"), [(0, "end_epoch"), (1, "step")])
def test_when_one_is_killed_the_other_ends_and_the_next_launch_goes_on(
    victim, moment, undisturbed, tmp_path
):
    config, theirs = undisturbed
    runs = tmp_path / "runs"
    expected = [2, 2]
    expected[victim] = -signal.SIGKILL
    assert statuses(partial(mortal_command, config, runs, victim, moment)) == expected
    mine = run_directory(tiny(**SHORT), runs)
    assert (mine / "checkpoint.safetensors").exists() and not (mine / "record.json").exists()
    said = (tmp_path / "runs.0.err").read_text()
    assert ("Another process of this launch has ended" in said) == (victim == 1)
    assert statuses(partial(command, config, runs)) == [0, 0]
    assert history_of(mine) == history_of(theirs)
    first, second = (read_record(path / "record.json") for path in (mine, theirs))
    assert result_of(first) == result_of(second)
    assert first["provenance"]["processes"] == 2


@pytest.mark.parametrize(
    ("fields", "more", "said"),
    [
        ({"method": "dtc"}, [], "Unknown method 'dtc'"),
        ({}, ["--sync-batch-norm"], "between GPUs alone"),
        ({"learning_rate": 1e30}, [], "is not finite"),
    ],
)
def test_several_processes_tell_what_is_wrong_once(fields, more, said, tmp_path):
    config = write_config(tmp_path, **{"method": "student", **fields})
    assert statuses(partial(command, config, tmp_path / "runs", *more)) == [2, 2]
    told = "".join((tmp_path / f"runs.{rank}.err").read_text() for rank in (0, 1))
    assert said in told
    assert len([line for line in told.splitlines() if line and "it/s" not in line]) == 1
    name = fields.get("method", "student")
    assert not [path for path in tmp_path.rglob("record.json") if f"-{name}-s" in str(path)]


def test_accelerate_launches_it(tmp_path):
    """As a user does; that needs seconds for starting three interpreters."""
    config, runs = write_config(tmp_path, method="student", epochs=1), tmp_path / "runs"
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    launcher += ["--num_processes=2", "--num_machines=1", "--main_process_port=0"]
    whole = [*launcher, "-m", "kdlib.train", *arguments(config, runs)]
    done = subprocess.run(whole, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = runs.glob("*/record.json")
    assert done.stdout.count(str(path)) == 1
    assert json.loads(path.read_text())["provenance"]["processes"] == 2
