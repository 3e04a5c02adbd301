"""`python -m benchmarks.commands`: how long the project's commands take in a fresh clone."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from kdlib.files import write_json
from study.export import machine_name

ROOT = Path(__file__).parents[1]
TIMED = ("make test", "make reproduce")


def main(arguments: Sequence[str] | None = None) -> None:
    """Time the commands one after the other and write what was found."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.commands",
        description="Wall time of commands in a fresh clone of HEAD: installation included, "
        "caches of packages as this machine has them, none of scenes. Takes over an hour. Commands "
        "that are not named keep the time that was measured last.",
    )
    parser.add_argument("commands", nargs="*", default=TIMED, help="default: %(default)s")
    parser.add_argument("--to", type=Path, default=ROOT / "benchmarks/results/commands.json")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="kdlib-clone-") as folder:
        subprocess.run(["git", "clone", "--quiet", ROOT, f"{folder}/clone"], check=True)
        measured = measure(options.commands, Path(folder))
    known = json.loads(options.to.read_text(encoding="utf-8")) if options.to.exists() else {}
    write_json(options.to, {**known, **measured})
    print(options.to)


def measure(commands: Sequence[str], folder: Path) -> dict[str, dict[str, Any]]:
    """Of each command, run in ``folder/clone`` in turn: its seconds, and where and of what.

    Raises:
        CalledProcessError: a command failed; its time would mean nothing.
    """
    clone, measured = folder / "clone", {}
    head = subprocess.run(
        ["git", "-C", clone, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    )
    where = {
        "cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "machine": machine_name(torch.device("cpu")),
        "commit": head.stdout.strip(),
    }
    for command in commands:
        start = time.perf_counter()
        environment = {**os.environ, "KDLIB_CACHE": str(folder / "cache")}
        subprocess.run(command.split(), cwd=clone, env=environment, check=True)
        measured[command] = {"seconds": round(time.perf_counter() - start), **where}
    return measured


if __name__ == "__main__":
    main()
