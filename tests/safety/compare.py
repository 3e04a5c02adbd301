"""Remakes small runs of every kind with two trees of the project and compares them to the bit.

    python tests/safety/compare.py BASE_TREE [NEW_TREE] [--base-json FILE] [--only 'NAME,...']

Both use the script beside this one. ``--base-json`` reads what the base has made on this same
machine, or keeps it there if there is no such file. The exit status is 1 if anything differs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SHOWN = 3


def start(tree: Path, out: Path, only: str) -> subprocess.Popen[bytes]:
    """A process that remakes with the code of a tree, in one thread."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = {**os.environ, **threads, "PYTHONPATH": str(tree)}
    command = [sys.executable, str(HERE / "remake.py"), str(out), "--only", only]
    with out.with_suffix(".log").open("wb") as log:
        return subprocess.Popen(command, cwd=tree, env=environment, stdout=log, stderr=log)


def remade(trees: dict[Path, Path], only: str) -> list[dict[str, Any]]:
    """What every file of ``trees`` says, of those that are missing once its tree has made it."""
    missing = {file: tree for file, tree in trees.items() if not file.exists()}
    working = {file: start(tree.resolve(), file, only) for file, tree in missing.items()}
    for file, process in working.items():
        status, log = process.wait(), file.with_suffix(".log")
        if status:
            sys.stderr.write(log.read_text(errors="replace"))
        log.unlink()
    made = [json.loads(file.read_text()) if file.exists() else {} for file in trees]
    return [{n: e for n, e in one.items() if _matches(n, only)} for one in made]


def _matches(name: str, only: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in only.split(","))


def differences(one: Any, other: Any, path: str = "") -> Iterator[str]:
    """Where two values differ, and how."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in {**one, **other}:
            yield from differences(one.get(key), other.get(key), f"{path}/{key}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for index, pair in enumerate(zip(one, other, strict=True)):
            yield from differences(*pair, f"{path}/{index}")
    elif one != other:
        yield f"{path[1:] or 'the whole'}: {str(one)[:40]} -> {str(other)[:40]}"


def verdict(one: Any, other: Any) -> tuple[bool, str]:
    """Whether a kind is the same, and what to say of it."""
    if one is None or other is None or "error" in one or "error" in other:
        told = [(part or {"error": "not made"}).get("error", "made") for part in (one, other)]
        return False, f"{told[0]} -> {told[1]}"
    found = list(differences(one, other))
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return not found, "; ".join(found[:SHOWN]) + more if found else "same bits"


def report(base: dict[str, Any], new: dict[str, Any]) -> bool:
    """Print a line for each kind; whether all are the same."""
    verdicts = {name: verdict(base.get(name), new.get(name)) for name in {**base, **new}}
    print(*(f"{name:44} {text}" for name, (_, text) in verdicts.items()), sep="\n")
    same = sum(equal for equal, _ in verdicts.values())
    print(f"{same} of {len(verdicts)} kinds are the same to the bit.")
    return same == len(verdicts) > 0


def main() -> int:
    """Compare, and say by the exit status whether all is the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("new", type=Path, nargs="?", default=HERE.parents[1])
    parser.add_argument("--base-json", type=Path)
    parser.add_argument("--only", default="*")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kept = given.base_json or Path(folder) / "base.json"
        trees = {kept.resolve(): given.base, Path(folder) / "new.json": given.new}
        return not report(*remade(trees, given.only))


if __name__ == "__main__":
    sys.exit(main())
