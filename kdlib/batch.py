"""`python -m kdlib.batch`: one job of a batch: its notebook, its GPUs, and no mistake made twice.

A batch tries a job again when it failed, for its machine may have died, and it goes on from its
last checkpoint. A mistake of the user's would only be made again, so it is written down beside
the executed notebook, and the job's further tries end at once.
"""

import argparse
import json
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path

from kdlib.endings import EXIT_FAILED, EXIT_MISTAKE, ended
from kdlib.errors import KdlibError
from kdlib.execute import ExecutionError, execute_notebook, find_notebook
from kdlib.files import write_text
from kdlib.gpus import own_gpus


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit status (2: the user's mistake, 1: a failure)."""
    options = parser().parse_args(arguments)
    return ended(lambda: run_once(options))


def run_once(options: Namespace) -> int:
    """Run the job, unless an earlier try has shown that the user has to mend something."""
    mistake = options.output.with_suffix(".mistake.txt")
    if options.attempt > 1 and mistake.exists():
        print(f"Not tried again:\n{mistake.read_text(encoding='utf-8')}", file=sys.stderr)
        return EXIT_MISTAKE
    mistake.unlink(missing_ok=True)
    try:
        run_job(options)
    except (KdlibError, ExecutionError) as error:
        print(error, file=sys.stderr)
        if not is_mistake(error):
            return EXIT_FAILED
        write_text(mistake, f"{error}\n")
        return EXIT_MISTAKE
    return 0


def run_job(options: Namespace) -> None:
    """Execute the notebook, on GPUs that no other job of this machine has.

    Raises:
        KdlibError: a parameter is wrong, or there are too few GPUs.
        ExecutionError: the notebook failed.
    """
    notebook, limit_s = find_notebook(options.notebook), 60 * options.minutes
    with own_gpus(options.gpus) as taken:
        if taken:
            print(f"{options.output.stem}: GPU {', '.join(taken)}")
        execute_notebook(notebook, options.output, options.parameters, limit_s)


def is_mistake(error: Exception) -> bool:
    """Whether the user made it, outside the notebook or in one of its cells.

    What a full disk or a dead machine did is none, nor an error of another name.
    """
    return type(error) is KdlibError or getattr(error.__cause__, "ename", "") == "KdlibError"


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    top = argparse.ArgumentParser(
        prog="python -m kdlib.batch",
        description="One job of a batch, as workflow/Snakefile calls it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = top.add_argument
    add("notebook", help="a name such as 05_distill, or the path of a notebook")
    add("--output", type=Path, required=True, metavar="FILE", help="the executed notebook")
    add("--parameters", type=json.loads, default={}, metavar="JSON", help="of the notebook")
    add("--attempt", type=int, default=1, metavar="N", help="which try of the job this is")
    add("--minutes", type=float, default=1440, help="for the whole notebook")
    add("--gpus", type=int, default=0, metavar="N", help="to lock for this job alone")
    return top


if __name__ == "__main__":
    sys.exit(main())
