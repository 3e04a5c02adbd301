"""Records on disk: found, checked against their schema, published."""

import json
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from kdlib.analyses.answers import FILE as ANSWERS_FILE
from kdlib.analyses.files import FILE, MAPS_FILE
from kdlib.errors import KdlibError
from kdlib.files import write_atomic
from kdlib.runs import read_record

PUBLISHED_FILES = ("history.csv", "record.json")
ANALYSIS_FILES = (MAPS_FILE, ANSWERS_FILE, FILE)  # published where a run has them


def validate_record(record: Mapping[str, Any], path: Path) -> None:
    """Check a record against ``record.schema.json``, and its name against its directory's.

    Raises:
        KdlibError: names the file, the place in it and what is wrong there.
    """
    problem = next(iter(_schema().iter_errors(record)), None)
    if problem is not None:
        where = ".".join(str(part) for part in problem.absolute_path) or "the record"
        raise KdlibError(f"{path}: {where}: {problem.message[:300]}. Delete it and run again.")
    try:
        json.dumps(record, allow_nan=False)
    except ValueError as error:
        text = f"{path} holds a number that is not finite. Delete it and run again."
        raise KdlibError(text) from error
    name, digits = record["run_id"], record["config_hash"][:10]
    if name != Path(path).parent.name or not name.endswith(digits):
        raise KdlibError(
            f"{path} is the record of '{name}' with hash {digits}; a record lies in the directory "
            "of its own run. Move it back, or delete it and run again."
        )


def find_records(*roots: Path) -> dict[Path, dict[str, Any]]:
    """All records under ``roots``, by path; of a run found twice, the earlier root's.

    Raises:
        KdlibError: a root that does not exist, or a damaged or invalid record.
    """
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for root in map(Path, roots):
        if not root.is_dir():
            raise KdlibError(f"There is no folder {root}; give the folder that holds the runs.")
        for path in sorted(root.glob("*/record.json")):
            if path.parent.name not in found:
                record = read_record(path)
                validate_record(record, path)
                found[path.parent.name] = path, record
    return dict(found.values())


def publish(run_root: Path, record_root: Path, run_ids: Iterable[str] | None = None) -> list[Path]:
    """Copy records, histories and analyses of finished runs to where they are committed.

    Args:
        run_root: the folder of runs; unfinished ones are passed over.
        record_root: the folder to publish to; a run's earlier copy is replaced.
        run_ids: only these runs.

    Returns:
        The published records, in the order of their names.

    Raises:
        KdlibError: a record is damaged, its history is missing, or a run asked for is not
            finished. Nothing is copied then.
    """
    records = {path.parent.name: path.parent for path in find_records(run_root)}
    chosen = sorted(records if run_ids is None else set(run_ids))
    for name in chosen:
        _check_finished(name, records, run_root)
    for name in chosen:
        analysis = [file for file in ANALYSIS_FILES if (records[name] / file).exists()]
        for file in (*analysis, *PUBLISHED_FILES):
            content = (records[name] / file).read_bytes()
            _write_bytes(Path(record_root) / name / file, content)
    return [Path(record_root) / name / "record.json" for name in chosen]


def _check_finished(name: str, records: Mapping[str, Path], root: Path) -> None:
    if name not in records:
        raise KdlibError(f"'{name}' has no record in {root}: it is not finished. Finish it first.")
    if not (records[name] / "history.csv").exists():
        raise KdlibError(f"{records[name]} has a record but no history.csv; delete it, run again.")


def _write_bytes(path: Path, content: bytes) -> None:
    write_atomic(path, lambda temporary: temporary.write_bytes(content))


@cache
def _schema() -> Draft202012Validator:
    text = files("kdlib").joinpath("record.schema.json").read_text(encoding="utf-8")
    return Draft202012Validator(json.loads(text))
