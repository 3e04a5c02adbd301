"""`python -m cluster`, with `tests` on the path: run the grid, check it, print the figures."""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cluster.grid import RECORDS, ROOT, copy_tree, killed, left_alone, outcome
from cluster.slurm import PACKAGES, Cluster, missing_programs, search_path
from kdlib.files import write_json
from study.export import machine_name

EXIT_FAILED, EXIT_MISSING = 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns the exit status (1: a record is not as it should be, 2: no SLURM here)."""
    parser = argparse.ArgumentParser(
        prog="tests/cluster/run.sh",
        description="Run a small grid through a real SLURM of one node on loopback; kill a job "
        "twice, the controller and Snakemake on the way; compare every record with those of the "
        "same grid left alone. About five minutes on two idle cores.",
    )
    parser.add_argument("--install", action="store_true", help="install SLURM with apt-get first")
    parser.add_argument("--to", type=Path, metavar="FILE", help="write the figures there, as JSON")
    options = parser.parse_args(arguments)
    if options.install and missing_programs():
        install()
    if missing_programs():
        print(f"There is no {', '.join(missing_programs())} here; --install.", file=sys.stderr)
        return EXIT_MISSING
    figures = measure()
    print(json.dumps(figures, indent=1))
    if options.to:
        write_json(options.to, figures)
    return 0 if figures["equal"] == RECORDS == figures["records"] else EXIT_FAILED


def install() -> None:
    """Install SLURM and munge; their own daemons need not start."""
    own = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    get = ["apt-get", "install", "--yes", "--no-install-recommends", *PACKAGES]
    for command in (["apt-get", "update"], get):
        subprocess.run(command, env=own, check=True, stdout=sys.stderr)


def measure() -> dict[str, Any]:
    """Both grids, one after the other; what was killed, and how many records are as they were."""
    start = time.perf_counter()
    folder = Path(tempfile.mkdtemp(prefix="kdlib-"))
    try:
        tree = copy_tree(folder / "tree")
        expected = left_alone(tree)
        alone_s = time.perf_counter() - start
        (folder / "slurm").mkdir()
        with Cluster(folder / "slurm") as cluster:
            kills = killed(tree, cluster)
            submitted = len(cluster.jobs())
        found = outcome(tree / "runs")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "jobs_submitted": submitted,
        "kills": kills,
        "records": len(found),
        "equal": sum(found.get(run) == result for run, result in expected.items()),
        "seconds": round(time.perf_counter() - start),
        "seconds_left_alone": round(alone_s),
        "load": round(os.getloadavg()[0], 1),
        "provenance": provenance(),
    }


def provenance() -> dict[str, Any]:
    """Which code, packages and machine."""
    head = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    commit = subprocess.run(head, capture_output=True, text=True).stdout.strip()
    plugin = "snakemake-executor-plugin-slurm"
    controller = shutil.which("slurmctld", path=search_path()) or "slurmctld"
    slurm = subprocess.run([controller, "-V"], capture_output=True, text=True)
    return {
        "commit": commit or None,
        "versions": {
            "snakemake": version("snakemake"),
            plugin: version(plugin),
            "slurm": slurm.stdout.split()[-1],
        },
        "cores": len(os.sched_getaffinity(0)),
        "machine": machine_name(torch.device("cpu")),
    }


if __name__ == "__main__":
    sys.exit(main())
