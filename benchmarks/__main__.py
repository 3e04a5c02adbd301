"""`python -m benchmarks`: what a distillation step costs, beside its floor and its peers."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdlib.errors import KdlibError
from kdlib.runs import RunConfig

if TYPE_CHECKING:
    from benchmarks.measure import Plan

RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns the exit status (2: the user's mistake)."""
    options = parser().parse_args(arguments)
    from benchmarks.measure import measure
    from benchmarks.report import report
    from kdlib.files import write_json

    try:
        for plan in plans(options):
            record = measure(plan, progress=sys.stderr.isatty())
            path = options.to / file_name(record)
            write_json(path, record)
            print(f"{report(record)}\n{path}\n")
    except KdlibError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def plans(options: argparse.Namespace) -> "list[Plan]":
    """What to measure, a plan a precision.

    Raises:
        KdlibError: an option that a run cannot have.
    """
    from benchmarks.measure import Plan

    chosen = {name: getattr(options, name) for name in ("teacher", "student")}
    chosen |= {name: getattr(options, name) for name in ("image_size", "batch_size")}
    configs = [RunConfig.from_dict({**chosen, "precision": one}) for one in options.precision]
    return [Plan(config, options.rounds, options.device, options.threads) for config in configs]


def file_name(record: dict[str, Any]) -> str:
    """Such as ``amd-epyc-cpu-1-bfloat16.json``: machine, device, threads, precision."""
    source = record["provenance"]
    facts = (source[name] for name in ("machine", "device", "threads", "precision"))
    return re.sub(r"[^a-z0-9]+", "-", " ".join(map(str, facts)).lower()) + ".json"


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    usual = RunConfig()
    top = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="What a distillation step costs over its floor, what lock-step saves, and "
        "the speed beside torchdistill's. Compared steps run in turn, so other programs on the "
        "machine hardly matter. About three minutes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = top.add_argument
    add("--teacher", default=usual.teacher, help="the teacher's network")
    add("--student", default=usual.student, help="the students' network")
    add("--image-size", type=int, default=usual.image_size, help="pixels a side")
    add("--batch-size", type=int, default=usual.batch_size, help="images a step")
    both, precisions = ["float32", "bfloat16"], "one or several of float32, bfloat16"
    add("--precision", nargs="+", default=both, metavar="NAME", help=precisions)
    add("--rounds", type=int, default=20, help="how often each step is timed")
    add("--threads", type=int, default=1, help="of the processor")
    add("--device", default="cpu", help="cpu, cuda, ...")
    add("--to", type=Path, default=RESULTS, metavar="FOLDER", help="where the JSON goes")
    return top


if __name__ == "__main__":
    sys.exit(main())
