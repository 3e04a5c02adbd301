"""Blocks of ``docs/deployment.md``."""

import json
from pathlib import Path
from typing import Any

from kdlib.export.report import checked, gains, size_table, speed_table, where

FILE = "deployment.json"


def blocks(measurements: Path) -> dict[str, str]:
    """Text of each block, by name, from the records in a folder."""
    return {"deployment": _deployment(measurements / FILE)}


def _deployment(path: Path) -> str:
    """What the student gains: size, accuracy, speed; and how exact each format is."""
    if not path.exists():
        return "Not measured yet: `python -m benchmarks.deployment RUN`."
    records = json.loads(path.read_text(encoding="utf-8"))["exports"]
    formats = {record["format"]: record for record in records}
    facts, source = records[0]["facts"], records[0]["provenance"]
    run = f"Run `{facts['run_id']}`, trained at commit {(facts['commit'] or '?')[:7]}"
    parts = [
        f"{run}; exported at {source['commit'][:7]}.\n",
        size_table(list(formats.values())),
        *(_of_record(record) for record in records),
    ]
    return "\n".join(parts)


def _of_record(record: dict[str, Any]) -> str:
    """How fast one format is, and how exact."""
    title = f"**{record['runtime']}** (`--format {record['format']}`). {where(record)}\n"
    return "\n".join([title, speed_table(record), f"{gains(record)} {checked(record)}\n"])
