"""``python -m kdlib.train``: one run from a file, by one process or by several."""

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from kdlib.errors import EXIT_MISTAKE, KdlibError, ended
from kdlib.process_group import ALONE, launched_world
from kdlib.runs import RunConfig, earlier, run_directory
from kdlib.tasks import TASKS
from kdlib.train import fit
from kdlib.train_state import DivergedError

LOST = ("gloo", "nccl", "connection", "peer", "recv")  # words of who has lost another process


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; returns the exit status (2: one line says what is wrong)."""
    parser = ArgumentParser(
        prog="python -m kdlib.train",
        allow_abbrev=False,
        description="Train one run, and first whatever it needs: its teacher, and what its method "
        "starts from. What is finished is kept; a run that was killed goes on.",
        epilog="several GPUs: accelerate launch --multi_gpu --num_processes 4 -m kdlib.train "
        "--config run.yaml. Without GPUs: add --device cpu.",
    )
    fields = "fields of a run in YAML (or .json), such as 'method: dct+kd'; all have defaults"
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help=fields)
    shared = "of all runs; shared, if processes run on several machines (default: runs)"
    parser.add_argument("--runs", type=Path, metavar="FOLDER", default=Path("runs"), help=shared)
    parser.add_argument("--data-root", type=Path, metavar="FOLDER", help="of the real data sets")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: GPUs if there are any")
    norms = "batch norms over the images of all GPUs, not of each by itself"
    parser.add_argument("--sync-batch-norm", action="store_true", help=norms)
    parser.add_argument("--no-progress", action="store_true", help="show no bar")
    options = parser.parse_args(arguments)
    words = [word.partition("=")[0] for word in arguments or sys.argv[1:] if word[:2] == "--"]
    if twice := [word for word in words if words.count(word) > 1]:
        parser.error(f"{twice[0]} is given twice; give it once")
    return ended(lambda: launch(options))


def launch(options: Namespace) -> int:
    """Train in this process's place in a launch; what all processes meet, one of them reports."""
    world = ALONE
    try:
        world = launched_world(options.device, options.sync_batch_norm)
        world.gathered(None)  # before all have come, none may leave
        with world.main_first():  # the main process says what is wrong with it
            run = read_config(options.config)
            runs = [*earlier([run]), run]
        how: dict[str, Any] = {"data_root": options.data_root, "device": options.device}
        for config in runs:
            record = fit(config, options.runs, progress=not options.no_progress, world=world, **how)
            if world.is_main:  # a dictionary's run has no accuracy
                metric = TASKS[config.task].metric
                reached = record.get("results", {}).get(metric)
                said = "finished" if reached is None else f"{metric} {100 * reached:.2f} %"
                path = run_directory(config, options.runs) / "record.json"
                print(f"{config.method}: {said}: {path}", flush=True)
        return 0
    except KdlibError as error:
        if world.is_main:
            raise
        if not isinstance(error, DivergedError):  # which all meet
            raise KdlibError(f"process {world.rank} of {world.size}: {error}") from error
    except RuntimeError as error:
        if world.size == 1 or not any(word in str(error).lower() for word in LOST):
            raise
        if world.is_main:
            print("Another process of this launch has ended; see what it said.", file=sys.stderr)
    return EXIT_MISTAKE


def read_config(path: Path) -> RunConfig:
    """The run that a file describes, JSON or YAML: fields of :class:`~kdlib.runs.RunConfig`."""
    kind = "JSON" if path.suffix == ".json" else "YAML"
    try:
        parse = json.loads if kind == "JSON" else import_module("yaml").safe_load
        values = parse(path.read_text(encoding="utf-8"))
    except ModuleNotFoundError as error:
        says = "YAML needs a package: python -m pip install pyyaml; or write JSON, to a file .json"
        raise KdlibError(says) from error
    except Exception as error:  # YAML's own cannot be named where it is not installed
        reason = " ".join(str(error).split())
        raise KdlibError(f"{path} cannot be read as {kind} ({reason}).") from error
    if isinstance(values, dict) and all(isinstance(name, str) for name in values):
        return RunConfig(**values).canonical()
    raise KdlibError(f"{path} holds no fields of a run; write one a line, as 'method: dct+kd'.")
