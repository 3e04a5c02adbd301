"""The smallest run that still has a teacher, a student and all loss terms."""

from pathlib import Path
from typing import Any

from kdlib.runs import RunConfig

TINY: dict[str, Any] = {
    "student": "scenes_tiny",
    "teacher": "scenes_tiny",
    "train_size": 64,
    "test_size": 32,
    "image_size": 32,
    "batch_size": 32,
    "epochs": 3,
    "teacher_epochs": 1,
    "method": "dct+kd",
}


def tiny(**changes: Any) -> RunConfig:
    """A tiny run with some fields changed."""
    return RunConfig.from_dict({**TINY, **changes}).canonical()


def result_of(record: dict[str, Any]) -> dict[str, Any]:
    """What must be equal in two records of one run: all but timings and the clock."""
    kept = {k: v for k, v in record.items() if k not in ("cost", "provenance")}
    return {**kept, "parameters": record["cost"]["parameters"]}


def history_of(directory: Path) -> list[str]:
    """The history without its last column, the seconds."""
    lines = (directory / "history.csv").read_text().splitlines()
    return [line.rsplit(",", 1)[0] for line in lines]
