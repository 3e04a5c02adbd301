"""Blocks of ``docs/multi_gpu.md``."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdlib.distillers import METHODS, STAGES
from kdlib.markdown import markdown_table

FILE = "places365.json"


def blocks(measurements: Path) -> dict[str, str]:
    """Text of each block, by name: the methods, and what was measured in a folder."""
    path = measurements / FILE
    if not path.exists():
        missing = "Not measured yet: `python -m benchmarks.places365`."
        return {"methods-in-parts": _methods(), "places365": missing, "places365-step": missing}
    record = json.loads(path.read_text(encoding="utf-8"))
    return {
        "methods-in-parts": _methods(),
        "places365-step": _measured(record),
        "places365": _modelled(record),
    }


def _methods() -> str:
    """Which methods are the same in parts, which are of a part, and which are refused."""
    known = METHODS | STAGES
    apart = [name for name, method in known.items() if method.undivided]
    coupled = [name for name, method in known.items() if method.couples]
    rows = [
        ["the mean over all images of the batch", "all others"],
        ["compares the images of a process's part with each other", _names(coupled)],
        ["refused: " + _reasons(apart), _names(apart)],
    ]
    return markdown_table(["with several processes, the loss is", "methods"], rows)


def _names(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _reasons(names: list[str]) -> str:
    known = METHODS | STAGES
    return "; ".join(dict.fromkeys(known[name].undivided for name in names))


def _measured(record: Mapping[str, Any]) -> str:
    """The step on the device at hand."""
    source, matrix = record["provenance"], record["matrix"]
    rows = [
        [
            str(step["batch_size"]),
            f"{step['seconds']:.3f}",
            f"{step['batch_size'] / step['seconds']:,.1f}",
            f"{100 * step['share']:.0f}",
        ]
        for step in record["steps"]
    ]
    rates = ", ".join(f"{rate / 1000:,.2f} in {name}" for name, rate in matrix.items())
    return (
        f"{markdown_table(['images', 'seconds', 'images/s', '% of the matrix rate'], rows)}\n"
        f"{source['machine']} ({source['device']}, threads: {source['threads']}, "
        f"{source['clock']}), bfloat16, at commit {(source['commit'] or '?')[:7]}. Its matrix rate "
        f"(TFLOP/s of a large product) is {rates}. An image takes "
        f"{record['work']['flops'] / 1e9:.1f} GFLOP, a step {record['calls']:,} calls of operators."
    )


HEAD = (
    "GPUs", "% of the matrix rate", "images a GPU", "ms: arithmetic", "ms: all-reduce", "images/s",
    "µs a call", "cores a GPU: JPEG", "cores a GPU: cache", "hours", "hours: JPEG", "GPU hours",
    "GPU hours: teacher",
)  # fmt: skip


def _modelled(record: Mapping[str, Any]) -> str:
    """What many GPUs would take."""
    table = markdown_table(HEAD, map(_row, record["modelled"]))
    rates, run = record["published"], record["run"]
    there = record["modelled"][0]["cores_there"]
    return (
        f"**Modelled, not measured.** {run['teacher']} > {run['student']}, `{run['method']}`, "
        f"{run['epochs']} epochs of {rates['images']:,.0f} images, batch "
        f"{record['modelled'][0]['images_a_gpu']:.0f}; {rates['rate'] / 1e12:,.0f} TFLOP/s a GPU, "
        f"{rates['nvlink'] / 1e9:.0f} GB/s within a machine of {rates['gpus']:.0f}, "
        f"{rates['infiniband'] / 1e9:.0f} GB/s between machines, {there:.0f} processor cores a GPU "
        f"(`published/devices.csv` names the sources).\n\n{table}\n{_limits(record)}"
    )


def _row(row: Mapping[str, Any]) -> list[str]:
    return [
        str(row["gpus"]),
        f"{100 * row['share']:.0f} ({row['share_of']})",
        f"{row['images_a_gpu']:.0f}",
        f"{row['compute_ms']:.2f}",
        f"{row['reduce_ms']:.2f}",
        f"{row['images_per_second']:,.0f}",
        f"{row['microseconds_a_call']:.1f}",
        f"{row['cores_a_gpu']['decoded']:.1f}",
        f"{row['cores_a_gpu']['cached']:.1f}",
        f"{row['hours_of_gpus_alone']:.2f}",
        f"{row['hours']['decoded']:.2f}",
        f"{row['gpus'] * row['hours_of_gpus_alone']:.1f}",
        f"{row['gpus'] * row['teacher_hours_of_gpus_alone']:.1f}",
    ]


def _limits(record: Mapping[str, Any]) -> str:
    """For which rows the loader is the limit, in a sentence."""
    rows = record["modelled"]
    told = []
    for name, source in (("decoded", "Decoding JPEG files"), ("cached", "Reading the cache")):
        few = [row for row in rows if row["cores_a_gpu"][name] > row["cores_there"]]
        where = " and ".join(dict.fromkeys(str(row["gpus"]) for row in few))
        told.append(f"{source} is the limit on {where} GPUs." if few else f"{source} never is.")
    speeds = record["loading"]
    return (
        f"A core decodes {speeds['decoded']:,.0f} images a second, and reads "
        f"{speeds['cached']:,.0f} from the cache (`benchmarks/results/loading.json`). "
        + " ".join(told)
    )
