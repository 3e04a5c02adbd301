"""`python -m benchmarks.methods`: what a step of every method costs, in time and in memory."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import gcd
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from benchmarks.measure import as_json, machine_name, shared_fields, threads
from benchmarks.memory import peak_bytes, state_bytes
from benchmarks.steps import Bench
from benchmarks.timing import Ratio, Work, clock_of, ratios
from kdlib.data import load_data
from kdlib.distillers import METHODS, STAGES, run_before
from kdlib.errors import KdlibError
from kdlib.figure_tables.cost import COSTS
from kdlib.files import write_json
from kdlib.profiles import expand
from kdlib.runs import RunConfig, provenance

PLAIN = "student"
TIMED = tuple(name for name in METHODS if name not in (PLAIN, *STAGES))
PRECISION = "float32"  # memory and time of bfloat16 depend on the processor
CPU = torch.device("cpu")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns the exit status (2: the user's mistake)."""
    options = parser().parse_args(arguments)
    chosen = {name: getattr(options, name) for name in ("teacher", "student", "image_size")}
    try:
        config = RunConfig.from_dict({**chosen, "batch_size": options.batch_size})
        methods = options.methods or list(TIMED)
        runs = {method: run_of(method, options.profile) for method in methods}
        record = measure(config, runs, options.rounds, options.images, sys.stderr.isatty())
        record["plan"]["profile"] = options.profile
    except KdlibError as error:
        print(error, file=sys.stderr)
        return 2
    write_json(options.to, record)
    print(f"{report(record)}\n{options.to}")
    return 0


def measure(
    config: RunConfig,
    runs: Mapping[str, RunConfig],
    rounds: int,
    images: int | None,
    progress: bool,
) -> dict[str, Any]:
    """Costs of each method's step over those of its floor, on one thread of the processor.

    Args:
        config: networks, image size and batch size.
        runs: of each method string, the run whose options and epochs count.
        rounds: how often each step is timed.
        images: of the training set; ``None`` for all, as methods with a memory of it need.
        progress: show a progress bar.

    Raises:
        KdlibError: an unknown method.
    """
    data = load_data("scenes", "train", size=images, image_size=config.image_size)
    name, clock = clock_of(CPU, 1)
    found = {}
    place = {"device": CPU, "precision": PRECISION}
    with threads(1), tqdm(total=len(runs) * rounds, disable=not progress) as bar:
        for method, run in runs.items():
            bar.set_description(method)
            timed = partial(ratios, rounds=rounds, clock=clock, tick=bar.update)
            parts = parts_of(run)
            options = {part.method: part.method_options for part in parts}
            bench = Bench(config, [PLAIN, *options], data, options=options, **place)
            costs = _costs(bench, {part.method: part.epochs for part in parts}, timed)
            found[method] = {"options": dict(run.method_options), **costs}
        source = provenance(config, CPU.type, PRECISION, data.fingerprint)
    return {
        "methods": found,
        "plan": {"rounds": rounds, "clock": name, **shared_fields(config)},
        "provenance": {**source, "machine": machine_name(CPU)},
    }


def run_of(method: str, profile: str) -> RunConfig:
    """One of the runs whose gain stands beside the cost of a method.

    Raises:
        KdlibError: an unknown method or profile.
    """
    return expand(profile, methods=[method], seeds=[0])[0]


def parts_of(run: RunConfig) -> list[RunConfig]:
    """The trainings of its student that a run consists of, each with its own epochs alone."""
    before = run_before(run)
    return [run] if before is None else [before, replace(run, epochs=run.epochs - before.epochs)]


def _costs(bench: Bench, epochs: Mapping[str, int], timed: partial) -> dict[str, Any]:
    """Time over the floor's, and peak memory: what a step allocates and what the method keeps.

    The time is the mean over a training's steps, of each kind of which there are as many as
    ``epochs`` say; the memory that of the dearest kind.
    """
    batch = bench.batch()
    plain = partial(bench.step, batch, PLAIN)
    kinds = {kind: partial(bench.own_step, batch, kind) for kind in epochs}
    share = gcd(*epochs.values())
    steps = [kinds[kind] for kind, count in epochs.items() for _ in range(count // share)]
    found = timed(plain, {"all": partial(_in_turn, steps)})["all"]
    floor = peak_bytes(plain)
    kept = {kind: state_bytes(bench.trainees[kind].distiller) for kind in kinds}
    peak = max(peak_bytes(step) + kept[kind] for kind, step in kinds.items())
    memory = {"peak_bytes": peak, "floor_bytes": floor, "ratio": round(peak / floor, 4)}
    return {"time": as_json(Ratio(*(value / len(steps) for value in found))), "memory": memory}


def _in_turn(steps: Sequence[Work]) -> None:
    for step in steps:
        step()


def report(record: dict[str, Any]) -> str:
    """The text that ``python -m benchmarks.methods`` prints, from the record that it writes."""
    plan, source = record["plan"], record["provenance"]
    head = (
        f"{source['machine']}, one thread, {source['precision']}; batch {plan['batch_size']}; "
        "a step over its floor (teacher forward; student's forward, backward, update)"
    )
    lines = [
        f"  {name:16} time {one['time']['median'] - 1:+7.1%}   "
        f"peak memory {one['memory']['ratio'] - 1:+7.1%}"
        for name, one in record["methods"].items()
    ]
    return "\n".join([head, *lines])


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    usual = RunConfig()
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.methods",
        description="What a step of every method costs over its floor, a teacher's forward and a "
        "plain student's step: in time (medians of paired measurements on one thread) and in peak "
        "memory. Of a method that trains in stages, the mean over its student's steps. About ten "
        "minutes.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = top.add_argument
    add("--methods", nargs="+", metavar="METHOD", help="only these; None: all of the registry")
    add("--profile", default="full", help="whose options the methods have")
    add("--teacher", default=usual.teacher, help="the teacher's network")
    add("--student", default=usual.student, help="the students' network")
    add("--image-size", type=int, default=usual.image_size, help="pixels a side")
    add("--batch-size", type=int, default=usual.batch_size, help="images a step")
    add("--rounds", type=int, default=15, help="how often each step is timed")
    add("--images", type=int, help="of the training set; None: all, as in training")
    add("--to", type=Path, default=COSTS, metavar="FILE", help="where the JSON goes")
    return top


if __name__ == "__main__":
    sys.exit(main())
