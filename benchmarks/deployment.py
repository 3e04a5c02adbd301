"""`python -m benchmarks.deployment`: what students gain where they are deployed."""

import sys
import tempfile
from itertools import product
from pathlib import Path

from benchmarks import RESULTS, command
from kdlib.files import write_json
from study.cli import Count, Sizes
from study.export import FORMATS, Plan, export_run, report


@command("benchmarks.deployment")
def main(
    run: Path,
    *,
    runs: Path = Path("runs"),
    threads: Sizes = (1,),
    rounds: Count = 30,
    to: Path = RESULTS / "deployment.json",
) -> None:
    """Size, accuracy and speed of a run's student beside its teacher's.

    In PyTorch and as exported files of each format. A minute or two for networks of Scenes.

    Args:
        run: a run's directory, its id or how its id begins.
        runs: folder of all runs.
        threads: numbers of threads of the processor.
        rounds: how often each network is timed.
        to: the JSON file.
    """
    records = []
    with tempfile.TemporaryDirectory(prefix="kdlib-deployment-") as folder:
        for name, count in product(FORMATS, threads):
            file = Path(folder) / f"student{FORMATS[name].suffix}"
            records.append(export_run(run, runs, Plan(name, file, count, rounds=rounds)))
            print(report(records[-1]), end="\n\n")
    write_json(to, {"exports": records})
    print(to)


if __name__ == "__main__":
    sys.exit(main())
