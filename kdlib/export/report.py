"""What an export found, in words and tables."""

from collections.abc import Sequence
from typing import Any

from kdlib.export.export import STUDENT, TEACHER
from kdlib.markdown import markdown_table, metric_name, number

MEGA = 1e6
RUNTIMES = ("torch", "onnxruntime")
"""Packages whose versions times depend on."""
NAMES = {"top1": "top-1", "miou": "mIoU"}
Record = dict[str, Any]


def report(record: Record) -> str:
    """The text that ``kdlib export`` prints, from the record that it writes."""
    lines = [f"{record['file']}: the student of {record['facts']['run_id']}", checked(record)]
    if "networks" in record:
        lines += ["", size_table([record]), speed_table(record), gains(record), where(record)]
    return "\n".join(lines)


def checked(record: Record) -> str:
    """How near the file's answers are to PyTorch's, in a line."""
    check = record["check"]
    found = check["largest_difference"].items()
    differences = ", ".join(f"{value:.1e} in batches of {size}" for size, value in found)
    return (
        f"Logits differ from PyTorch's by at most {differences} on {check['images']} test images, "
        f"where the largest logit is {check['largest_logit']:.1f}."
    )


def size_table(records: Sequence[Record]) -> str:
    """A row a file: how large it is, and how good on the whole test set."""
    metric = NAMES.get(records[0]["metric"], metric_name(records[0]["metric"]))
    head = ["network", "model", "parameters", "operations", "file", "MB"]
    rows = [
        [
            name,
            network["model"],
            f"{network['parameters']:,}",
            f"{network['flops'] / MEGA:,.1f} M",
            record["format"],
            f"{network['bytes'] / MEGA:.2f}",
            _percent(network["score"]),
            _percent(network["recorded"]),
        ]
        for record in records
        for name, network in record["networks"].items()
    ]
    return markdown_table([*head, f"{metric} %", "recorded %"], rows)


def speed_table(record: Record) -> str:
    """A row for each network and what runs it."""
    sizes = record["plan"]["batch_sizes"]
    head = ["network", "run by"]
    for size in sizes:
        head += [f"batch {size}: ms", "images/s"]
    rows = [
        [name, runtime, *_speeds(latencies, sizes)]
        for name, network in record["networks"].items()
        for runtime, latencies in network["latency_ms"].items()
    ]
    return markdown_table(head, rows)


def gains(record: Record) -> str:
    """What the student gains and loses against its teacher, run by what runs the file."""
    networks = record["networks"]
    if TEACHER not in networks:
        return "The student alone: it had no teacher, or the teacher's weights are not here."
    student, teacher = networks[STUDENT], networks[TEACHER]
    share = teacher["parameters"] / student["parameters"]
    runtime = record["runtime"]
    fast = ", ".join(
        f"{teacher['latency_ms'][runtime][size] / latency:.1f} times as fast in batches of {size}"
        for size, latency in student["latency_ms"][runtime].items()
    )
    gap = 100 * (student["score"] - teacher["score"])
    return (
        f"With {runtime} the student is {fast}; it has 1/{share:.1f} of its teacher's parameters, "
        f"and {gap:+.1f} points of accuracy."
    )


def where(record: Record) -> str:
    """On what it was timed, and how."""
    source, plan = record["provenance"], record["plan"]
    named = (
        f"{name} {source['versions'][name]}" for name in RUNTIMES if name in source["versions"]
    )
    threads = f"{source['threads']} thread{'s' if source['threads'] > 1 else ''}"
    return (
        f"Timed on {source['machine']}, {threads}, {', '.join(named)}; medians of {plan['rounds']} "
        f"rounds, {plan['clock']}."
    )


def _speeds(latencies: dict[str, float], sizes: Sequence[int]) -> list[str]:
    cells = []
    for size in sizes:
        milliseconds = latencies[str(size)]
        cells += [f"{milliseconds:.2f}", f"{1000 * size / milliseconds:,.0f}"]
    return cells


def _percent(share: float | None) -> str:
    return number(float("nan") if share is None else 100 * share, ".2f")
