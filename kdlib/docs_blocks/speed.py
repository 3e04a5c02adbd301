"""The tables of docs/speed.md, from the records of ``make bench``."""

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from kdlib.markdown import markdown_table

FOLDER = "speed"
Rows = Iterable[list[str]]


def blocks(measurements: Path) -> dict[str, str]:
    """Each block's text by its name, such as ``speed_pairs``; of what is missing, the command.

    Args:
        measurements: ``benchmarks/results``.
    """
    paths = sorted((measurements / FOLDER).glob("*.json"))
    records = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    return {f"speed_{name}": section_text(name, records) for name in TABLES}


def section_text(name: str, records: Iterable[Mapping[str, Any]]) -> str:
    """One of ``TABLES``, for each machine on which its section was measured."""
    source, head, rows = TABLES[name]
    texts = []
    for record in records:
        if record.get(source):
            table = markdown_table(head, rows(record[source]))
            texts.append(f"{_where(record[source])}\n\n{table}".strip())
    return "\n\n".join(texts) or f"Not measured yet: `python -m benchmarks --only {source}`."


def _where(section: Any) -> str:
    if isinstance(section, list):
        return ""
    source, plan = section["provenance"], section["speed_plan"]
    place = f"{source['machine']}, {source['device']}, {source['threads']} thread(s)"
    return f"{place}; {plan['rounds']} rounds of {plan['clock']}; commit {source['commit'][:7]}."


def _goals(goals: list[dict[str, Any]]) -> Rows:
    verdicts = {True: "met", False: "**MISSED**", None: "not measured"}
    for goal in goals:
        found = "–" if goal["found"] is None else _value(goal, goal["found"])
        bound = "at most" if "overhead" in goal["name"] else "at least"
        wanted = f"{bound} {_value(goal, goal['wanted'])}"
        yield [goal["name"], goal["device"], wanted, found, verdicts[goal["met"]]]


def _value(goal: Mapping[str, Any], value: float) -> str:
    return f"{value:.2f} ×" if "images" in goal["name"] else f"{value:.1%}"


def _methods(section: Mapping[str, Any]) -> Rows:
    compiled = section.get("compiled", {}).get("methods", {})
    for name, cost in section["eager"]["methods"].items():
        other = compiled.get(name)
        yield [
            name, _over(cost), "–" if other is None else _over(other),
            f"{cost['memory']['peak_bytes'] / 1e6:.0f}", f"{cost['memory']['ratio'] - 1:+.1%}",
        ]  # fmt: skip


def _over(cost: Mapping[str, Any]) -> str:
    time = cost["time"]
    interval = (
        "" if time["low"] is None else f" ({time['low'] - 1:+.1%} to {time['high'] - 1:+.1%})"
    )
    return f"{time['median'] - 1:+.1%}{interval}"


def _pairs(section: Mapping[str, Any]) -> Rows:
    for row in section["pairs"]:
        pair = f"{row['teacher']} > {row['student']}"
        for name, speed in row["images_per_second"].items():
            yield [pair, str(row["batch_size"]), name, f"{speed:,.1f}"]


def _ratios(section: Mapping[str, Any]) -> Rows:
    for row in section["pairs"]:
        pair = f"{row['teacher']} > {row['student']}"
        for name, ratio in row["ratios"].items():
            low, high = (_bound(ratio[end]) for end in ("low", "high"))
            times = f"{ratio['median']:.2f} × ({low} to {high})"
            yield [pair, str(row["batch_size"]), name, times, ratio["ours"], ratio["theirs"]]


def _bound(value: float | None) -> str:
    return "?" if value is None else f"{value:.2f}"


def _floor(section: Mapping[str, Any]) -> Rows:
    for row in section["steps"]:
        yield [
            f"{row['teacher']} > {row['student']}", str(row["image_size"]), str(row["batch_size"]),
            f"{row['gigaflops_a_step']:,.1f}", f"{row['matrix_gigaflops_a_second']:,.0f}",
            f"{row['seconds']:.3f}", f"{row['share']:.0%}",
        ]  # fmt: skip


def _breakdown(section: Mapping[str, Any]) -> Rows:
    for row in section["steps"]:
        largest_first = sorted(row["shares"].items(), key=lambda item: -item[1])
        shares = ", ".join(f"{name} {share:.1%}" for name, share in largest_first)
        yield [f"{row['teacher']} > {row['student']}", row["precision"], row["method"], shares]


def _loading(section: Mapping[str, Any]) -> Rows:
    for row in section["photographs"]:
        for way, name in (("decoded", "JPEG folder"), ("cached", "cached folder")):
            yield [f"{name}, {row['size']}", *(f"{row[way][k]:,}" for k in ("bytes", "batches"))]


def _notebooks(section: Mapping[str, Any]) -> Rows:
    spent = section["seconds"]
    yield [f"{spent['notebook']:.2f}", f"{spent['program']:.2f}", f"{section['added_seconds']:.2f}"]


TABLES: dict[str, tuple[str, list[str], Callable[[Any], Rows]]] = {
    "goals": ("goals", ["goal", "device", "wanted", "found", "verdict"], _goals),
    "methods": (
        "methods",
        ["method", "over its floor", "compiled", "peak memory, MB", "over its floor's"],
        _methods,
    ),
    "pairs": ("pairs", ["networks", "batch", "way", "images a second"], _pairs),
    "ratios": (
        "pairs", ["networks", "batch", "compared", "ours is faster by", "ours", "theirs"], _ratios,
    ),
    "floor": (
        "floor",
        ["networks", "pixels", "batch", "GFLOP a step", "matrix GFLOP/s", "seconds", "share"],
        _floor,
    ),
    "breakdown": (
        "breakdown", ["networks", "precision", "method", "where the time goes"], _breakdown,
    ),
    "loading": ("loading", ["photographs a second", "as bytes", "as batches"], _loading),
    "notebooks": (
        "notebooks", ["notebook, s", "same code as a program, s", "added, s"], _notebooks,
    ),
}  # fmt: skip
"""By table: the section of the record it shows, its head, and its rows."""
