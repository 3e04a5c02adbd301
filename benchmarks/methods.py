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

from benchmarks.detectors import DetectorBench, detector_costs
from benchmarks.measure import as_json, shared_fields
from benchmarks.memory import peak_bytes, state_bytes
from benchmarks.steps import Bench
from benchmarks.timing import Ratio, Work, clock_of, ratios
from kdlib.data import load_data
from kdlib.errors import KdlibError
from kdlib.files import write_json
from kdlib.methods import METHODS, STAGES, parse_method, run_before
from kdlib.runs import RunConfig, provenance
from study.export import limited_threads, machine_name
from study.figures.cost import COSTS, DETECTOR_COSTS
from study.profiles import expand
from study.statistics import OF_PIXELS

PLAIN = "student"
TASKS = {"classification": ("full", COSTS), "detection": ("detection", DETECTOR_COSTS)}
"""By task, the profile whose options the methods have, and where the results go."""
PRECISION = "float32"  # memory and time of bfloat16 depend on the processor
CPU = torch.device("cpu")
TAUGHT = "kd_cls"  # whose run names the networks of detectors
CHOSEN = ("teacher", "student", "image_size", "batch_size")
SHOWN = 512  # images with objects, of which batches are made: no method has a memory of them


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns the exit status (2: the user's mistake)."""
    options = parser().parse_args(arguments)
    usual_profile, usual_place = TASKS[options.task]
    profile, place = options.profile or usual_profile, options.to or usual_place
    given = {name: getattr(options, name) for name in CHOSEN}
    chosen = {name: value for name, value in given.items() if value is not None}
    how = {"rounds": options.rounds, "images": options.images, "progress": sys.stderr.isatty()}
    try:
        methods = options.methods or timed_methods(options.task)
        runs = {method: run_of(method, profile) for method in methods}
        config = config_of(options.task, profile, chosen)
        record = MEASURES[options.task](config, runs, **how)
        record["plan"]["profile"] = profile
    except KdlibError as error:
        print(error, file=sys.stderr)
        return 2
    write_json(place, record)
    print(f"{report(record)}\n{place}")
    return 0


def config_of(task: str, profile: str, chosen: Mapping[str, Any]) -> RunConfig:
    """What all runs have in common; of detectors that of the profile, where it is not chosen."""
    base = run_of(TAUGHT, profile).to_dict() if task == "detection" else {}
    return RunConfig.from_dict({**base, **chosen})


def timed_methods(task: str) -> list[str]:
    """The methods of a task; of one that is published for pixels, images tell nothing."""
    left_out = (PLAIN, OF_PIXELS, *STAGES)
    return [name for name, one in METHODS.items() if task in one.tasks and name not in left_out]


def measure(
    config: RunConfig,
    runs: Mapping[str, RunConfig],
    rounds: int,
    images: int | None,
    progress: bool,
    device: torch.device = CPU,
    compiled: bool = False,
) -> dict[str, Any]:
    """Costs of each method's step over those of its floor, on one thread of the processor.

    Args:
        config: networks, image size and batch size.
        runs: of each method string, the run whose options and epochs count.
        rounds: how often each step is timed.
        images: of the training set; ``None`` for all, as methods with a memory of it need.
        progress: show a progress bar.
        device: a GPU, where that is to be timed, by the wall's clock.
        compiled: put step and floor through ``torch.compile``.

    Raises:
        KdlibError: an unknown method.
    """
    data = load_data("scenes", "train", size=images, image_size=config.image_size)
    name, clock = clock_of(device, 1)
    found = {}
    place = {"device": device, "precision": PRECISION, "compiled": compiled}
    with limited_threads(1), tqdm(total=len(runs) * rounds, disable=not progress) as bar:
        for method, run in runs.items():
            bar.set_description(method)
            timed = partial(ratios, rounds=rounds, clock=clock, tick=bar.update)
            parts = parts_of(run)
            options = {part.method: part.method_options for part in parts}
            bench = Bench(config, [PLAIN, *options], data, options=options, **place)
            costs = _costs(bench, {part.method: part.epochs for part in parts}, timed)
            found[method] = {"options": dict(run.method_options), **costs}
            torch.compiler.reset()
        source = provenance(config, device.type, PRECISION, data.fingerprint)
    return {
        "methods": found,
        "plan": {"rounds": rounds, "clock": name, **shared_fields(config)},
        "provenance": {**source, "machine": machine_name(device)},
    }


def measure_detectors(
    config: RunConfig,
    runs: Mapping[str, RunConfig],
    rounds: int,
    images: int | None,
    progress: bool,
) -> dict[str, Any]:
    """Costs of each method's step of a detector over those of its floor and of a plain step.

    Arguments as of :func:`measure`; of the training set ``SHOWN`` images are enough.

    Raises:
        KdlibError: a method that is none of detectors.
    """
    own = {method: _detector_run(method, run, config) for method, run in runs.items()}
    scenes = {name: getattr(config, name) for name in ("attentions", "distractors", "image_size")}
    data = load_data(config.dataset, "train", size=images or SHOWN, task="detection", **scenes)
    name, clock = clock_of(CPU, 1)
    found = {}
    with limited_threads(1), tqdm(total=2 * len(own) * rounds, disable=not progress) as bar:
        timed = partial(ratios, rounds=rounds, clock=clock, tick=bar.update)
        bench = DetectorBench(config, own, data, device=CPU, precision=PRECISION)
        for method, run in own.items():
            bar.set_description(method)
            costs = detector_costs(bench, method, timed)
            found[method] = {"options": dict(run.method_options), **costs}
        source = provenance(config, CPU.type, PRECISION, data.fingerprint)
    plan = {"rounds": rounds, "clock": name, **shared_fields(config), "crop_size": config.crop_size}
    return {
        "methods": found,
        "plan": plan,
        "provenance": {**source, "machine": machine_name(CPU)},
    }


def _detector_run(method: str, run: RunConfig, config: RunConfig) -> RunConfig:
    """A method's run with the networks and sizes of all."""
    if "detection" not in METHODS[parse_method(method).base].tasks:
        valid = ", ".join(timed_methods("detection"))
        raise KdlibError(f"'{method}' is no method of detectors; valid: {valid}.")
    same = {name: getattr(config, name) for name in (*CHOSEN, "task", "crop_size")}
    return replace(run, **same).canonical()


MEASURES = {"classification": measure, "detection": measure_detectors}


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
    floor = peak_bytes(plain, bench.device)
    kept = {kind: state_bytes(bench.trainees[kind].distiller) for kind in kinds}
    peak = max(peak_bytes(step, bench.device) + kept[kind] for kind, step in kinds.items())
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
    return "\n".join([head, *(_line(name, one) for name, one in record["methods"].items())])


def _line(name: str, one: Mapping[str, Any]) -> str:
    beside = f"   over a plain step {_shares(one['plain'])}" if "plain" in one else ""
    return f"  {name:16} {_shares(one)}{beside}"


def _shares(one: Mapping[str, Any]) -> str:
    time, memory = one["time"]["median"] - 1, one["memory"]["ratio"] - 1
    return f"time {time:+7.1%}   peak memory {memory:+7.1%}"


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    top = argparse.ArgumentParser(
        prog="python -m benchmarks.methods",
        description="What a step of every method costs over its floor, a teacher's forward and a "
        "plain student's step: in time (medians of paired measurements on one thread) and in peak "
        "memory. Of a method that trains in stages, the mean over its student's steps. About ten "
        "minutes; a few for detectors.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add, own = top.add_argument, "None: of the profile's runs, or the usual one"
    add("--task", choices=TASKS, default="classification", help="what the networks do")
    add("--methods", nargs="+", metavar="METHOD", help="only these; None: all of the task")
    add("--profile", help="whose options the methods have; None: full, or detection")
    add("--teacher", help=f"the teacher's network; {own}")
    add("--student", help=f"the students' network; {own}")
    add("--image-size", type=int, help=f"pixels a side; {own}")
    add("--batch-size", type=int, help=f"images a step; {own}")
    add("--rounds", type=int, default=15, help="how often each step is timed")
    add("--images", type=int, help="of the training set; None: as many as are needed")
    add("--to", type=Path, metavar="FILE", help="where the JSON goes; None: a file a task")
    return top


if __name__ == "__main__":
    sys.exit(main())
