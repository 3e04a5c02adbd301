"""What an export found, in words and tables."""

from collections.abc import Iterator, Sequence
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
        lines += ["", size_table([record]), speed_table([record]), *gains(record)]
        lines.append(where([record]))
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


def speed_table(records: Sequence[Record]) -> str:
    """A row for each network, what runs it, and the threads that this has."""
    sizes = records[0]["plan"]["batch_sizes"]
    head = ["threads", "network", "run by"]
    for size in sizes:
        head += [f"batch {size}: ms", "images/s"]
    rows = {
        (record["provenance"]["threads"], name, runtime): _speeds(latencies, sizes)
        for record in reversed(records)  # of what was timed twice, the first
        for name, network in record["networks"].items()
        for runtime, latencies in network["latency_ms"].items()
    }
    return markdown_table(head, [[str(part) for part in key] + rows[key] for key in sorted(rows)])


def gains(record: Record) -> Iterator[str]:
    """What the student gains and loses against its teacher, run by what runs the file."""
    networks = record["networks"]
    if TEACHER not in networks:
        yield "The student alone: it had no teacher, or the teacher's weights are not here."
        return
    student, teacher = networks[STUDENT], networks[TEACHER]
    share = teacher["parameters"] / student["parameters"]
    runtime = record["runtime"]
    fast = ", ".join(
        f"{teacher['latency_ms'][runtime][size] / latency:.1f} times as fast in batches of {size}"
        for size, latency in student["latency_ms"][runtime].items()
    )
    gap = 100 * (student["score"] - teacher["score"])
    yield (
        f"With {runtime} the student is {fast}; it has 1/{share:.1f} of its teacher's parameters, "
        f"and {gap:+.1f} points of accuracy."
    )


def where(records: Sequence[Record]) -> str:
    """On what it was measured, and how."""
    source, plan = records[0]["provenance"], records[0]["plan"]
    versions = {name: one for r in records for name, one in r["provenance"]["versions"].items()}
    named = ", ".join(f"{name} {versions[name]}" for name in RUNTIMES if name in versions)
    threads = " and ".join(map(str, sorted({r["provenance"]["threads"] for r in records})))
    return (
        f"{source['machine']}, {threads} thread(s), {named}; medians of {plan['rounds']} rounds, "
        f"{plan['clock']}."
    )


def _speeds(latencies: dict[str, float], sizes: Sequence[int]) -> list[str]:
    cells = []
    for size in sizes:
        milliseconds = latencies[str(size)]
        cells += [f"{milliseconds:.2f}", f"{1000 * size / milliseconds:,.0f}"]
    return cells


def _percent(share: float | None) -> str:
    return number(float("nan") if share is None else 100 * share, ".2f")
