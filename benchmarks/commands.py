"""`python -m benchmarks.commands`: how long the project's commands take in a fresh clone."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import RESULTS, command
from kdlib.files import write_json
from study.cli import Words
from study.export import machine_name

ROOT = Path(__file__).parents[1]
TIMED = ("make test", "make reproduce")


@command("benchmarks.commands")
def main(commands: Words = None, *, to: Path = RESULTS / "commands.json") -> None:
    """Wall time of commands in a fresh clone of HEAD.

    Installation included, caches of packages as this machine has them, none of scenes. Takes over
    an hour. Commands that are not named keep the time that was measured last.

    Args:
        commands: such as 'make test'; by default that and 'make reproduce'.
        to: the JSON file.
    """
    known = json.loads(to.read_text(encoding="utf-8")) if to.exists() else {}
    with tempfile.TemporaryDirectory(prefix="kdlib-clone-") as folder:
        subprocess.run(["git", "clone", "--quiet", ROOT, f"{folder}/clone"], check=True)
        timed = {one: measure(one, Path(folder)) for one in commands or TIMED}
    write_json(to, {**known, **timed})
    print(to)


def measure(words: str, folder: Path) -> dict[str, Any]:
    """A command's seconds in ``folder/clone``, and where and of what; its failure is an error."""
    clone, start = folder / "clone", time.perf_counter()
    environment = {**os.environ, "KDLIB_CACHE": str(folder / "cache")}
    subprocess.run(words.split(), cwd=clone, env=environment, check=True)
    spent = round(time.perf_counter() - start)
    head = ["git", "-C", str(clone), "rev-parse", "HEAD"]
    commit = subprocess.run(head, capture_output=True, text=True).stdout.strip()
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    where = {"cores": cores, "machine": machine_name(), "commit": commit or None}
    return {"seconds": spent, **where}


if __name__ == "__main__":
    sys.exit(main())
