"""Blocks of ``docs/grids.md``."""

import json
from pathlib import Path
from typing import Any

from kdlib.markdown import markdown_table


def blocks(measurements: Path) -> dict[str, str]:
    """Text of each block, by name, from the records in a folder."""
    return {
        "planning": _planning(measurements / "planning.json"),
        "slurm": _slurm(measurements / "slurm.json"),
    }


def _planning(path: Path) -> str:
    """What it costs to plan a large grid."""
    if not path.exists():
        return "Not measured yet: `python -m benchmarks.planning`."
    record = json.loads(path.read_text(encoding="utf-8"))
    head = ["jobs", "runs", "seconds", "of the processor", "peak MiB", "load of the machine"]
    names = ("jobs", "runs", "seconds", "processor_seconds", "peak_mib", "load")
    row = [str(record[name]) for name in names]
    return f"{markdown_table(head, [row])}\n{_source(record['provenance'])}"


def _slurm(path: Path) -> str:
    """What the grid on SLURM went through, and what was left of it."""
    if not path.exists():
        return "Not measured yet: `bash tests/cluster/run.sh --to benchmarks/results/slurm.json`."
    record = json.loads(path.read_text(encoding="utf-8"))
    equal, load = "equal to those left alone", "load of the machine"
    head = ["SLURM jobs", "kills", "records", equal, "seconds", load]
    cells = (str(record[name]) for name in ("records", "equal", "seconds", "load"))
    row = [str(record["jobs_submitted"]), str(len(record["kills"])), *cells]
    table = markdown_table(head, [row])
    killed = "; ".join(record["kills"])
    return f"{table}\nKilled, in this order: {killed}. {_source(record['provenance'])}"


def _source(provenance: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in provenance["versions"].items())
    commit = (provenance["commit"] or "?")[:7]
    return f"{provenance['cores']} cores of {provenance['machine']}; {versions}; commit {commit}."
