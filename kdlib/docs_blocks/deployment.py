"""Blocks of ``docs/deployment.md``."""

import json
from pathlib import Path

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
        f"{run}; exported at {source['commit'][:7]}.",
        size_table(list(formats.values())),
        speed_table(records),
        *(f"{' '.join(gains(record))}\n" for record in formats.values()),
        *(f"`{name}`: {checked(record)}\n" for name, record in formats.items()),
        where(records),
    ]
    return "\n".join(parts)
