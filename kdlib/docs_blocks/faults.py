"""Blocks of ``docs/faults.md``."""

import json
from pathlib import Path

from kdlib.markdown import markdown_table

FILE = "faults.json"
OUTCOMES = ("trials", "recovered", "told", "harmless", "failed")


def blocks(measurements: Path) -> dict[str, str]:
    """Text of each block, by name, from the records in a folder."""
    return {"faults": _faults(measurements / FILE)}


def _faults(path: Path) -> str:
    """How often each fault was tried, and what became of it."""
    if not path.exists():
        return "Not measured yet: `make faults`."
    record = json.loads(path.read_text(encoding="utf-8"))
    found, source = record["faults"], record["provenance"]
    rows = [[name, *(str(found[name][o]) for o in OUTCOMES)] for name in sorted(found)]
    total = [str(sum(counts[outcome] for counts in found.values())) for outcome in OUTCOMES]
    where = (
        f"`make faults` at commit {(source['commit'] or '?')[:7]}, Python "
        f"{source['versions']['python']}, torch {source['versions']['torch']}, {source['system']}, "
        f"{source['cores']} cores.\n"
    )
    return "\n".join([where, markdown_table(["fault", *OUTCOMES], [*rows, ["all", *total]])])
