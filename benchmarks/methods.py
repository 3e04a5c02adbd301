"""`python -m benchmarks.methods`: what a step of every method costs, in time and in memory."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from benchmarks.measure import as_json, machine_name, shared_fields, threads
from benchmarks.memory import peak_bytes, state_bytes
from benchmarks.steps import Bench
from benchmarks.timing import clock_of, ratios
from kdlib.data import load_data
from kdlib.distillers import METHODS
from kdlib.errors import KdlibError
from kdlib.figure_tables.cost import COSTS
from kdlib.files import write_json
from kdlib.profiles import expand
from kdlib.runs import RunConfig, provenance

PLAIN = "student"
# The others: what goes on from another run has steps of two kinds, and so no one cost.
TIMED = tuple(name for name, method in METHODS.items() if name != PLAIN and not method.after)
PRECISION = "float32"  # memory and time of bfloat16 depend on the processor
CPU = torch.device("cpu")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns the exit status (2: the user's mistake)."""
    options = parser().parse_args(arguments)
    chosen = {name: getattr(options, name) for name in ("teacher", "student", "image_size")}
    try:
        config = RunConfig.from_dict({**chosen, "batch_size": options.batch_size})
        methods = options.methods or list(TIMED)
        runs = {method: options_of(method, options.profile) for method in methods}
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
    methods: Mapping[str, Mapping[str, Any]],
    rounds: int,
    images: int | None,
    progress: bool,
) -> dict[str, Any]:
    """Costs of each method's step over those of its floor, on one thread of the processor.

    Args:
        config: networks, image size and batch size.
        methods: method strings, each with its options.
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
    with threads(1), tqdm(total=len(methods) * rounds, disable=not progress) as bar:
        for method, options in methods.items():
            bar.set_description(method)
            timed = partial(ratios, rounds=rounds, clock=clock, tick=bar.update)
            bench = Bench(config, [PLAIN, method], data, options=methods, **place)
            found[method] = {"options": dict(options), **_costs(bench, method, timed)}
        source = provenance(config, CPU.type, PRECISION, data.fingerprint)
    return {
        "methods": found,
        "plan": {"rounds": rounds, "clock": name, **shared_fields(config)},
        "provenance": {**source, "machine": machine_name(CPU)},
    }


def options_of(method: str, profile: str) -> Mapping[str, Any]:
    """A method's options in the runs whose gain stands beside its cost.

    Raises:
        KdlibError: an unknown method or profile.
    """
    return expand(profile, methods=[method], seeds=[0])[0].method_options


def _costs(bench: Bench, method: str, timed: partial) -> dict[str, Any]:
    """Time over the floor's, and peak memory: what a step allocates and what the method keeps."""
    batch = bench.batch()
    plain, own = (partial(bench.step, batch, name) for name in (PLAIN, method))
    time = timed(plain, {method: own})[method]
    floor = peak_bytes(plain)
    peak = peak_bytes(own) + state_bytes(bench.trainees[method].distiller)
    memory = {"peak_bytes": peak, "floor_bytes": floor, "ratio": round(peak / floor, 4)}
    return {"time": as_json(time), "memory": memory}


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
        description="What a step of every method costs over its floor, in time (medians of paired "
        "measurements on one thread) and in peak memory. About ten minutes.",
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
