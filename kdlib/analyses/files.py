"""The files of a run's analysis.

``analysis.json`` is written whole or not at all, last of all, and checked when it is read.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pandas as pd
from jsonschema import Draft202012Validator

from kdlib.errors import KdlibError
from kdlib.files import write_text

FILE = "analysis.json"
MAPS_FILE = "attention_maps.safetensors"
SCHEMA_VERSION = 1
DIGITS = 6


def write_analysis(directory: Path, analysis: Mapping[str, Any]) -> Path:
    """Write the analysis of a run beside its record; numbers keep six digits."""
    path = Path(directory) / FILE
    write_text(path, _compact(_rounded(analysis)))
    return path


def read_analysis(path: Path) -> dict[str, Any]:
    """Read and check an analysis.

    Raises:
        KdlibError: it is missing, damaged, or not that of the run in whose directory it lies.
    """
    advice = "Delete it, and analyse the run again."
    try:
        analysis = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise KdlibError(f"{path} is not a readable analysis ({error}). {advice}") from error
    problem = next(iter(_schema().iter_errors(analysis)), None)
    if problem is not None:
        where = ".".join(str(part) for part in problem.absolute_path) or "the analysis"
        raise KdlibError(f"{path}: {where}: {problem.message[:300]}. {advice}")
    if analysis["run_id"] != Path(path).parent.name:
        raise KdlibError(f"{path} is the analysis of '{analysis['run_id']}'. {advice}")
    return analysis


def analyses_of(runs: pd.DataFrame) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Row and analysis of each of ``runs`` (of ``load_records``) that has one.

    Raises:
        KdlibError: as :func:`read_analysis`.
    """
    for row in runs.to_dict("records"):
        path = Path(row["directory"]) / FILE
        if path.exists():
            yield {str(name): value for name, value in row.items()}, read_analysis(path)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, Mapping):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value


def _compact(analysis: Mapping[str, Any]) -> str:
    """JSON with a line for each top-level key: a list of a hundred numbers takes one line."""
    lines = (
        f"{json.dumps(name)}: {json.dumps(value, sort_keys=True, allow_nan=False)}"
        for name, value in sorted(analysis.items())
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"


@cache
def _schema() -> Draft202012Validator:
    text = files("kdlib.analyses").joinpath("analysis.schema.json").read_text(encoding="utf-8")
    return Draft202012Validator(json.loads(text))
