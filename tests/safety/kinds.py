"""Small runs of every kind, as kinds.yaml lists them."""

from pathlib import Path
from typing import Any

import yaml

from kdlib.runs import RunConfig

ASKED = yaml.safe_load(Path(__file__).with_name("kinds.yaml").read_text(encoding="utf-8"))
HALVES = {f"{name} bfloat16": {"precision": "bfloat16"} for name in ASKED["bfloat16"]}
RUNS: dict[str, Any] = {**{name: {} for name in ASKED["methods"]}, **HALVES, **ASKED["runs"]}


def config_of(name: str, **changes: Any) -> RunConfig:
    """The configuration of a kind, with some fields changed."""
    fields = {**ASKED["small"], "method": name.split()[0], **RUNS[name], **changes}
    return RunConfig(**fields).canonical()
