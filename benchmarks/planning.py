"""`python -m benchmarks.planning`: what it costs to plan a large grid, before any job runs."""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from kdlib.errors import KdlibError
from kdlib.files import write_json
from study.export import machine_name

ROOT = Path(__file__).parents[1]
NEEDED = ("kdlib", "notebooks", "profiles", "workflow")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns the exit status (2: the user's mistake)."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.planning",
        description="Seconds and memory of a dry run of a grid of which nothing is done yet: from "
        "the command to the list of its jobs. About a minute.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--profile", default="full", help="what the grid consists of")
    parser.add_argument("--seeds", type=int, default=60, help="how many, the more the more jobs")
    parser.add_argument("--to", type=Path, default=ROOT / "benchmarks/results/planning.json")
    options = parser.parse_args(arguments)
    try:
        measured = measure(options.profile, options.seeds)
    except KdlibError as error:
        print(error, file=sys.stderr)
        return 2
    write_json(options.to, measured)
    print("{jobs} jobs, {runs} runs: {seconds} s ({processor_seconds} s of the processor), "
          "{peak_mib} MiB at most".format(**measured))  # fmt: skip
    return 0


def measure(profile: str, seeds: int) -> dict[str, Any]:
    """Plan the grid in an empty folder that has this checkout's code.

    Raises:
        KdlibError: Snakemake refused; with what it said.
    """
    with tempfile.TemporaryDirectory(prefix="kdlib-") as folder:
        for name in NEEDED:
            (Path(folder) / name).symlink_to(ROOT / name)
        start = time.perf_counter()
        done = subprocess.run(command(profile, seeds), cwd=folder, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise KdlibError(f"Snakemake cannot plan this:\n{done.stderr[-2000:]}")
        (plan,) = (json.loads(path.read_text()) for path in Path(folder).glob(".snakemake/kdlib/*"))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "profile": profile,
        "seeds": seeds,
        "jobs": len(plan["jobs"]),
        "runs": len(plan["wanted"]),
        "seconds": round(seconds, 1),
        "processor_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_mib": round(used.ru_maxrss / 1024),
        "load": round(os.getloadavg()[0], 1),
        "provenance": provenance(),
    }


def command(profile: str, seeds: int) -> list[str]:
    """A dry run of a profile with seeds 0, 1, ..."""
    many = ",".join(map(str, range(seeds)))
    snakemake = [sys.executable, "-m", "snakemake", "--snakefile", "workflow/Snakefile"]
    flags = ["--cores", "2", "--nolock", "--dry-run", "--quiet", "rules", "reason", "host"]
    return [*snakemake, *flags, "--config", f"profile={profile}", f"seeds={many}"]


def provenance() -> dict[str, Any]:
    """Which code, packages and machine."""
    head = ["git", "-C", str(ROOT), "rev-parse", "HEAD"]
    commit = subprocess.run(head, capture_output=True, text=True).stdout.strip()
    return {
        "commit": commit or None,
        "versions": {name: version(name) for name in ("snakemake", "torch")},
        "cores": len(os.sched_getaffinity(0)),
        "machine": machine_name(torch.device("cpu")),
    }


if __name__ == "__main__":
    sys.exit(main())
