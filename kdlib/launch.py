"""``python -m kdlib.train``: one run from a file, by one process or by several."""

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from kdlib.errors import EXIT_MISTAKE, KdlibError, ended
from kdlib.methods import run_before
from kdlib.runs import RunConfig, run_directory
from kdlib.tasks import TASKS
from kdlib.team import Team, launched_team, left_by_others
from kdlib.train import fit
from kdlib.trainee import DivergedError


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; returns the exit status (2: told in one line what is wrong)."""
    options = parser().parse_args(arguments)
    return ended(lambda: launch(options))


def launch(options: argparse.Namespace) -> int:
    """Train in this process's place in a launch; what all processes meet, one of them tells."""
    team = Team()
    try:
        team = launched_team(options.device, options.sync_batch_norm)
        train(options, team)
    except KdlibError as error:
        _tell(error, team)
        return EXIT_MISTAKE
    except RuntimeError as error:
        if team.size == 1 or not left_by_others(error):
            raise
        if team.is_main:
            print("Another process of this launch has ended; see what it said.", file=sys.stderr)
        return EXIT_MISTAKE
    return 0


def train(options: argparse.Namespace, team: Team) -> None:
    """Train the run of ``options.config`` and, first, those whose files it reads.

    Raises:
        KdlibError: see :func:`read_config` and :func:`kdlib.train.fit`.
    """
    with team.main_first():  # the main process tells what is wrong with it
        run = read_config(options.config)
        runs = [*earlier([run]), run]
    how: dict[str, Any] = {"data_root": options.data_root, "device": options.device}
    how |= {"progress": not options.no_progress, "team": team}
    for config in runs:
        (record,) = fit([config], options.runs, **how)
        if team.is_main:
            print(_headline(config, record, options.runs), flush=True)


def read_config(path: Path) -> RunConfig:
    """The run that a YAML file describes: fields of :class:`~kdlib.runs.RunConfig`.

    Raises:
        KdlibError: there is no such file, it is no mapping in YAML, or a field or its value is
            not valid.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise KdlibError(f"{path} cannot be read as YAML ({reason}).") from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise KdlibError(
            f"{path} holds no fields of a run; write one a line, such as 'method: dct+kd'."
        )
    return RunConfig.from_dict(values).canonical()


def _headline(config: RunConfig, record: dict[str, Any], runs: Path) -> str:
    """What was reached, and where the record is; a dictionary's run has no accuracy."""
    metric = TASKS[config.task].metric
    reached = record.get("results", {}).get(metric)
    said = "finished" if reached is None else f"{metric} {100 * reached:.2f} %"
    return f"{config.method}: {said}: {run_directory(config, runs) / 'record.json'}"


def _tell(error: KdlibError, team: Team) -> None:
    """One line for all: of errors that all processes meet, the main one's."""
    if team.is_main:
        print(error, file=sys.stderr)
    elif not isinstance(error, DivergedError):
        print(f"process {team.rank} of {team.size}: {error}", file=sys.stderr)


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    top = argparse.ArgumentParser(
        prog="python -m kdlib.train",
        description="Train one run, and first whatever it needs: its teacher, and what its method "
        "starts from. What is finished is kept; a run that was killed goes on.",
        epilog="several GPUs: accelerate launch --multi_gpu --num_processes 4 -m kdlib.train "
        "--config run.yaml. Without GPUs: add --device cpu.",
    )
    add = top.add_argument
    add(
        "--config",
        type=Path,
        required=True,
        metavar="FILE",
        help="fields of a run in YAML, such as 'method: dct+kd'; all have defaults",
    )
    add(
        "--runs",
        type=Path,
        default=Path("runs"),
        metavar="FOLDER",
        help="of all runs; shared, if processes run on several machines (default: runs)",
    )
    add("--data-root", type=Path, metavar="FOLDER", help="of the real data sets")
    add("--device", choices=("cpu", "cuda"), help="default: GPUs if there are any")
    add(
        "--sync-batch-norm",
        action="store_true",
        help="batch norms over the images of all GPUs, not of each by itself",
    )
    add("--no-progress", action="store_true", help="show no bar")
    return top


def earlier(runs: Iterable[RunConfig]) -> list[RunConfig]:
    """All runs that must be finished before ``runs``, in an order in which they can be trained."""
    needed = needed_by(runs)
    return each_once([*earlier(needed), *needed]) if needed else []


def teacher_of(run: RunConfig) -> list[RunConfig]:
    """The run that trains the teacher of a run, if one does."""
    untaught = run.teacher == "none" or run.teacher_weights
    return [] if untaught else [run.teacher_config()]


def each_once(runs: Iterable[RunConfig]) -> list[RunConfig]:
    """Runs without repetition, in their order."""
    return list({run.run_id: run for run in runs}.values())


def needed_by(runs: Iterable[RunConfig]) -> list[RunConfig]:
    """The runs whose files these read: their teachers, and what they start from; each once."""
    before = ((*teacher_of(run), run_before(run)) for run in runs)
    return each_once(one for found in before for one in found if one is not None)
