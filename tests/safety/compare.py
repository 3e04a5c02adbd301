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
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from itertools import repeat
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def remake(tree: Path, out: Path, only: str) -> None:
    """Remake with the code of a tree; tell what it says if anything is wrong."""
    own = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": str(tree)}
    command = [sys.executable, HERE / "remake.py", out, only]
    done = subprocess.run(command, cwd=tree, env=os.environ | own, capture_output=True, text=True)
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)


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


def verdict(one: dict[str, Any], other: dict[str, Any]) -> str:
    """How two entries differ; nothing where they are the same."""
    if "error" in one or "error" in other:
        return f"{one.get('error', 'made')} -> {other.get('error', 'made')}"
    first, *more = list(differences(one, other)) or [""]
    return f"{first} and {len(more)} more" if more else first


def main() -> int:
    """Compare, and say by the exit status whether all is the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("new", type=Path, nargs="?", default=HERE.parents[1])
    parser.add_argument("--base-json", type=Path)
    parser.add_argument("--only", default="*")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kept, new = given.base_json or Path(folder) / "base.json", Path(folder) / "new.json"
        trees = {kept.resolve(): given.base.resolve(), new: given.new.resolve()}
        missing = {file: tree for file, tree in trees.items() if not file.exists()}
        with ThreadPoolExecutor() as pool:
            list(pool.map(remake, missing.values(), missing, repeat(given.only)))
        made = [json.loads(file.read_text()) if file.exists() else {} for file in trees]
    names = [n for n in made[0] | made[1] if any(fnmatch(n, p) for p in given.only.split(","))]
    verdicts = {n: verdict(*(one.get(n, {"error": "not made"}) for one in made)) for n in names}
    print(*(f"{name:44} {text or 'same bits'}" for name, text in verdicts.items()), sep="\n")
    same = list(verdicts.values()).count("")
    print(f"{same} of {len(verdicts)} kinds are the same to the bit.")
    return not same == len(verdicts) > 0


if __name__ == "__main__":
    sys.exit(main())
