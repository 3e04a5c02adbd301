"""``python -m kdlib.train``: one run from a file, by one process or by several."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdlib.errors import EXIT_MISTAKE, KdlibError, ended
from kdlib.runs import RunConfig, earlier, run_directory
from kdlib.tasks import TASKS
from kdlib.team import ALONE, Team, launched_team, left_by_others
from kdlib.train import fit
from kdlib.trainee import DivergedError


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; returns the exit status (2: one line says what is wrong)."""
    options = parser().parse_args(arguments)
    return ended(lambda: launch(options))


def launch(options: argparse.Namespace) -> int:
    """Train in this process's place in a launch; what all processes meet, one of them reports."""
    team = ALONE
    try:
        team = launched_team(options.device, options.sync_batch_norm)
        train(options, team)
    except KdlibError as error:
        if team.is_main:
            print(error, file=sys.stderr)
        elif not isinstance(error, DivergedError):  # which all meet
            print(f"process {team.rank} of {team.size}: {error}", file=sys.stderr)
        return EXIT_MISTAKE
    except RuntimeError as error:
        if team.size == 1 or not left_by_others(error):
            raise
        if team.is_main:
            print("Another process of this launch has ended; see what it said.", file=sys.stderr)
        return EXIT_MISTAKE
    return 0


def train(options: argparse.Namespace, team: Team) -> None:
    """Train the run of ``options.config`` and, first, those whose files it reads."""
    with team.main_first():  # the main process says what is wrong with it
        run = read_config(options.config)
        runs = [*earlier([run]), run]
    how: dict[str, Any] = {"data_root": options.data_root, "device": options.device}
    for config in runs:
        record = fit(config, options.runs, progress=not options.no_progress, team=team, **how)
        if team.is_main:  # a dictionary's run has no accuracy
            metric = TASKS[config.task].metric
            reached = record.get("results", {}).get(metric)
            said = "finished" if reached is None else f"{metric} {100 * reached:.2f} %"
            path = run_directory(config, options.runs) / "record.json"
            print(f"{config.method}: {said}: {path}", flush=True)


def read_config(path: Path) -> RunConfig:
    """The run that a file describes, JSON or YAML: fields of :class:`~kdlib.runs.RunConfig`.

    Raises:
        KdlibError: there is no such file, it is no mapping, or a field or its value is not valid.
    """
    kind, read = ("JSON", json.loads) if path.suffix == ".json" else ("YAML", _from_yaml)
    try:
        values = read(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise KdlibError(f"{path} cannot be read as {kind} ({reason}).") from error
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise KdlibError(
            f"{path} holds no fields of a run; write one a line, such as 'method: dct+kd'."
        )
    return RunConfig(**values).canonical()


def _from_yaml(text: str) -> Any:
    try:
        import yaml
    except ModuleNotFoundError as error:
        raise KdlibError(
            "YAML needs a package: python -m pip install pyyaml; or write JSON, to a file .json"
        ) from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    top = argparse.ArgumentParser(
        prog="python -m kdlib.train",
        description="Train one run, and first whatever it needs: its teacher, and what its method "
        "starts from. What is finished is kept; a run that was killed goes on.",
        epilog="several GPUs: accelerate launch --multi_gpu --num_processes 4 -m kdlib.train "
        "--config run.yaml. Without GPUs: add --device cpu.",
    )
    add: Any = top.add_argument
    where: dict[str, Any] = {"type": Path, "metavar": "FOLDER"}
    fields = "fields of a run in YAML (or .json), such as 'method: dct+kd'; all have defaults"
    add("--config", type=Path, required=True, metavar="FILE", help=fields)
    shared = "of all runs; shared, if processes run on several machines (default: runs)"
    add("--runs", default=Path("runs"), help=shared, **where)
    add("--data-root", help="of the real data sets", **where)
    add("--device", choices=("cpu", "cuda"), help="default: GPUs if there are any")
    norms = "batch norms over the images of all GPUs, not of each by itself"
    add("--sync-batch-norm", action="store_true", help=norms)
    add("--no-progress", action="store_true", help="show no bar")
    return top
