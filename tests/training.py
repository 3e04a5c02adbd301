"""The smallest run that still has a teacher, a student and all loss terms, and what it leaves."""

from pathlib import Path
from typing import Any

import pytest

from kdlib import RunConfig, fit, read_record

TINY: dict[str, Any] = {
    "student": "scenes_small", "teacher": "scenes_small", "train_size": 64, "test_size": 32,
    "image_size": 32, "batch_size": 32, "epochs": 3, "teacher_epochs": 1, "method": "dct+kd",
}  # fmt: skip


def tiny(**changes: Any) -> RunConfig:
    """A tiny run with some fields changed."""
    return RunConfig(**{**TINY, **changes}).canonical()


def stop_after_an_epoch(config: RunConfig, root: Path) -> None:
    """Train a run until one more epoch of it is saved."""

    def stop(config: RunConfig, row: dict[str, Any]) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        fit(config, root, progress=False, on_epoch=stop)


def result_of(record: dict[str, Any]) -> dict[str, Any]:
    """What must be equal in two records of one run: all but timings and the clock."""
    kept = {k: v for k, v in record.items() if k not in ("cost", "provenance")}
    return {**kept, "parameters": record["cost"]["parameters"]}


def history_of(directory: Path) -> list[str]:
    """The history without its last column, the seconds."""
    lines = (directory / "history.csv").read_text().splitlines()
    return [line.rsplit(",", 1)[0] for line in lines]


def check_like(ours: Path, theirs: Path) -> None:
    """Two directories of a run hold the same but for its times, and nothing is left over."""
    assert {path.name for path in ours.iterdir()} == {path.name for path in theirs.iterdir()}
    mine, other = (read_record(one / "record.json") for one in (ours, theirs))
    assert result_of(mine) == result_of(other)
    assert history_of(ours) == history_of(theirs)
    for path in ours.glob("*.safetensors"):
        assert path.read_bytes() == (theirs / path.name).read_bytes(), path.name
