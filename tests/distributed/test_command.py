"""`python -m kdlib.train`, by one process, by several, and when one of them is killed."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from data_files import FASHION, write_fashion
from teams import PATIENCE_S, started
from training import TINY, history_of, result_of, tiny

from kdlib.files import save_tensors
from kdlib.launch import main
from kdlib.models import create_model
from kdlib.runs import read_record, run_directory
from kdlib.trainee import Trainee

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
