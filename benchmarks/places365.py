"""`python -m benchmarks.places365`: a step of Places365 here, and its training on 1 to 64 GPUs.

The step is measured on this device; what many GPUs would take is computed from its operations,
from published rates of a GPU and its links, and from the measured speed of the loader.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm import tqdm

from benchmarks.floor import matrix_rate, share_of_floor
from benchmarks.pairs import noise
from benchmarks.steps import Bench
from benchmarks.timing import clock_of
from kdlib.files import write_json
from kdlib.models import create_model
from kdlib.models.cost import count_parameters
from kdlib.runs import RunConfig, provenance
from study.export import limited_threads, machine_name
from study.profiles import expand, training_flops

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
METHOD = "release_a+gate"
GPU, MACHINE, DATASET = "H200 SXM", "DGX H200", "Places365-Standard"
BATCH = 256
CLASSES = 365
GPUS = (1, 8, 64)
GOAL = 0.6
"""Share of the matrix rate that a step is meant to reach."""
GRADIENT_BYTES = 4
PHOTOGRAPHS = "340 x 256"
"""Of those whose loading is measured, the ones like the small images of Places365."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, model, write."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.places365",
        description="Images a second of a step of Places365 (ResNet-50 teaching ResNet-18, 224 "
        "pixels, bfloat16) on this device, and what the published protocol would take on 1, 8 and "
        "64 GPUs: modelled, not measured. A minute or two on a processor.",
    )
    add = parser.add_argument
    add("--device", default="cpu", help="cpu, cuda ... (default: cpu)")
    add("--batches", type=int, nargs="+", default=[4, 32], help="images a step (default: 4 32)")
    add("--rounds", type=int, default=5, help="how often each is timed (default: 5)")
    add("--threads", type=int, default=1, help="of the processor (default: 1)")
    add("--to", type=Path, default=RESULTS / "places365.json", metavar="FILE")
    options = parser.parse_args(arguments)
    with limited_threads(options.threads):
        record = measure(options.device, options.batches, options.rounds, options.threads)
    write_json(options.to, record)
    for row in record["modelled"]:
        print(json.dumps(row))
    print(options.to)


def measure(device: str, batches: Sequence[int], rounds: int, threads: int) -> dict[str, Any]:
    """The step on this device, its operations, and what is modelled of them."""
    run, place = published_run(), torch.device(device)
    clock_name, clock = clock_of(place, threads)
    with tqdm(total=rounds * len(batches), unit="step", disable=not sys.stderr.isatty()) as bar:
        pair = (run.teacher, run.student, run.image_size)
        steps = [share_of_floor(*pair, b, place, rounds, clock, bar.update) for b in batches]
    facts = {
        "run": {name: getattr(run, name) for name in ("teacher", "student", "method", "epochs")},
        "work": work_of(run),
        "calls": calls_of_a_step(run, place),
        "steps": steps,
        "matrix": {
            str(kind).removeprefix("torch."): round(matrix_rate(place, kind, clock) / 1e9, 1)
            for kind in (torch.bfloat16, torch.float32)
        },
        "loading": loading_speeds(),
        "published": published_rates(),
    }
    source = provenance(RunConfig(), device, "bfloat16", "noise")
    kept = {name: source[name] for name in ("commit", "dirty", "threads", "utc", "versions")}
    where = {"machine": machine_name(place), "device": device, "clock": clock_name}
    return {**facts, "modelled": modelled(facts), "provenance": {**kept, **where}}


def published_run() -> RunConfig:
    """The published protocol on Places365, but for the batch."""
    (run,) = [
        run
        for run in expand("paper", "places365", [METHOD], [0])
        if (run.teacher, run.student) == ("resnet50", "resnet18")
    ]
    return replace(run, batch_size=BATCH)


def work_of(run: RunConfig) -> dict[str, int]:
    """Operations of an image, in the student's run and in its teacher's; numbers that are learnt.

    No weights are read: operations do not depend on them.
    """
    teacher = replace(run.teacher_config(), start=None)
    return {
        "flops": training_flops(run),
        "teacher_flops": training_flops(teacher),
        "teacher_epochs": teacher.epochs,
        "parameters": count_parameters(create_model(run.student, CLASSES)),
    }


class Calls(TorchDispatchMode):
    """Counts the operators that are called."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict | None = None
    ) -> Any:
        self.count += 1
        return func(*args, **(kwargs or {}))


def calls_of_a_step(run: RunConfig, device: torch.device) -> int:
    """Operators that a step calls, of small images: as many as of large ones."""
    small = replace(run, image_size=64, batch_size=2, augmentation=())
    bench = Bench(small, [METHOD], noise(2, 64), device=device, precision="bfloat16")
    batch = bench.batch()
    bench.step(batch, METHOD)
    with Calls() as calls:
        bench.step(batch, METHOD)
    return calls.count


def loading_speeds() -> dict[str, float]:
    """Images a second of one core, decoded from JPEG and from the cache, as measured before."""
    record = json.loads((RESULTS / "loading.json").read_text(encoding="utf-8"))
    (row,) = [row for row in record["photographs"] if row["size"] == PHOTOGRAPHS]
    cores = record["provenance"]["cores"]
    return {name: row[name]["bytes"] / cores for name in ("decoded", "cached")}


def published_rates() -> dict[str, float]:
    """What ``published/devices.csv`` says, in bytes, operations and seconds."""
    table = pd.read_csv(ROOT / "published" / "devices.csv").set_index(["device", "quantity"])
    units = {"TFLOP/s": 1e12, "GB/s": 1e9}
    rows = {"rate": (GPU, "matrix rate in bfloat16"), "nvlink": (GPU, "NVLink")}
    rows |= {"infiniband": (MACHINE, "InfiniBand a GPU"), "gpus": (MACHINE, "GPUs")}
    rows |= {"cores": (MACHINE, "processor cores"), "images": (DATASET, "training images")}
    found = {name: table.loc[key] for name, key in rows.items()}
    return {name: float(row["value"]) * units.get(row["unit"], 1) for name, row in found.items()}


def modelled(facts: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each number of GPUs, at the share measured here and at the goal.

    The share measured is that of the largest batch: fewer images a GPU will have a lower one.
    """
    here = max(facts["steps"], key=lambda step: step["batch_size"])["share"]
    shares = {"measured": here, "goal": GOAL}
    return [_row(facts, n, of, share) for n in GPUS for of, share in shares.items()]


def _row(facts: dict[str, Any], gpus: int, of: str, share: float) -> dict[str, Any]:
    rates, work = facts["published"], facts["work"]
    compute = BATCH / gpus * work["flops"] / (share * rates["rate"])
    reduce = all_reduce_seconds(work["parameters"], gpus, rates)
    wanted = BATCH / (compute + reduce)
    cores = rates["cores"] / rates["gpus"]
    each = {name: wanted / gpus / speed for name, speed in facts["loading"].items()}
    speeds = {name: min(wanted, gpus * cores * speed) for name, speed in facts["loading"].items()}
    images = rates["images"] * facts["run"]["epochs"]
    by_teacher = rates["images"] * work["teacher_epochs"] * work["teacher_flops"]
    return {
        "gpus": gpus, "share_of": of, "share": share, "images_a_gpu": BATCH / gpus,
        "compute_ms": 1000 * compute, "reduce_ms": 1000 * reduce, "images_per_second": wanted,
        "microseconds_a_call": 1e6 * (compute + reduce) / facts["calls"],
        "cores_a_gpu": each, "cores_there": cores,
        "hours": {name: images / speed / 3600 for name, speed in speeds.items()},
        "hours_of_gpus_alone": images / wanted / 3600,
        "teacher_hours_of_gpus_alone": by_teacher / (gpus * share * rates["rate"]) / 3600,
    }  # fmt: skip


def all_reduce_seconds(parameters: int, gpus: int, rates: dict[str, float]) -> float:
    """What a ring takes to add up all gradients; each GPU sends and receives almost all twice.

    On one machine over NVLink, on several at the rate of the slowest link, InfiniBand.
    """
    link = rates["nvlink"] if gpus <= rates["gpus"] else rates["infiniband"]
    return 2 * (gpus - 1) / gpus * GRADIENT_BYTES * parameters / link


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
