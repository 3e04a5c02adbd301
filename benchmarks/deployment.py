"""`python -m benchmarks.deployment`: what students gain where they are deployed."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from kdlib.errors import KdlibError
from kdlib.files import write_json
from study.export import FORMATS, Plan, export_run, report

RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Export a run in each format, measure, print, write; returns the exit status."""
    options = parser().parse_args(arguments)
    records = []
    with tempfile.TemporaryDirectory(prefix="kdlib-deployment-") as folder:
        for name, threads in product(FORMATS, options.threads):
            file = Path(folder) / f"student{FORMATS[name].suffix}"
            plan = Plan(name, file, threads, rounds=options.rounds)
            try:
                records.append(export_run(options.run, options.runs, plan))
            except KdlibError as error:
                print(error, file=sys.stderr)
                return 2
            print(report(records[-1]), end="\n\n")
    write_json(options.to, {"exports": records})
    print(options.to)
    return 0


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.deployment",
        description="Size, accuracy and speed of a run's student beside its teacher's, in PyTorch "
        "and as exported files of each format. A minute or two for networks of Scenes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = top.add_argument
    add("run", type=Path, metavar="RUN", help="a run's directory, its id or how its id begins")
    add("--runs", type=Path, default=Path("runs"), metavar="FOLDER", help="of all runs")
    add("--threads", type=int, nargs="+", default=[1], metavar="N", help="of the processor")
    add("--rounds", type=int, default=30, help="how often each network is timed")
    add("--to", type=Path, default=RESULTS / "deployment.json", metavar="FILE", help="the JSON")
    return top


if __name__ == "__main__":
    sys.exit(main())
