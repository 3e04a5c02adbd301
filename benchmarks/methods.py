"""`python -m benchmarks.methods`: what a step of every method costs, in time and in memory."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import gcd
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm.auto import tqdm

from benchmarks import command
from benchmarks.detectors import PLAIN, DetectorBench, detector_costs
from benchmarks.measure import shared_fields
from benchmarks.steps import Bench
from benchmarks.timing import CPU, Ratio, Work, clock_of, peak_bytes, ratios, state_bytes
from kdlib.data import load_data
from kdlib.data.image_data import ImageData
from kdlib.errors import KdlibError
from kdlib.files import write_json
from kdlib.methods import METHODS, STAGES, parse_method, run_before
from kdlib.runs import RunConfig, provenance
from study.cli import Count, Words
from study.export import limited_threads, machine_name
from study.figures.cost import COSTS, DETECTOR_COSTS
from study.profiles import expand
from study.statistics import OF_PIXELS

TASKS = {"classification": ("full", COSTS), "detection": ("detection", DETECTOR_COSTS)}
"""By task, the profile whose options the methods have, and where the results go."""
PRECISION = "float32"  # memory and time of bfloat16 depend on the processor
TAUGHT = "kd_cls"  # whose run names the networks of detectors
SHOWN = 512  # images with objects, of which batches are made: no method has a memory of them
Costs = Iterator[tuple[str, RunConfig, dict[str, Any]]]


@command("benchmarks.methods")
def main(
    *,
    task: Literal["classification", "detection"] = "classification",
    methods: Words = None,
    profile: str | None = None,
    teacher: str | None = None,
    student: str | None = None,
    image_size: int | None = None,
    batch_size: int | None = None,
    rounds: Count = 15,
    images: Count | None = None,
    to: Path | None = None,
) -> None:
    """What a step of every method costs over its floor, in time and in peak memory.

    The floor is a teacher's forward and a plain student's step; times are medians of paired
    measurements on one thread. Of a method that trains in stages, the mean over its student's
    steps. About ten minutes; a few for detectors.

    Args:
        task: what the networks do.
        methods: only these; by default all of the task.
        profile: whose options the methods have; by default full, or detection.
        teacher: the teacher's network; by default that of the profile's runs, or the usual one.
        student: the students' network; likewise.
        image_size: in pixels; likewise.
        batch_size: images per step; likewise.
        rounds: how often each step is timed.
        images: of the training set; by default as many as are needed.
        to: the JSON file; by default one for each task.
    """
    usual, place = TASKS[task]
    given = {"teacher": teacher, "student": student}
    given |= {"image_size": image_size, "batch_size": batch_size}
    runs = {one: run_of(one, profile or usual) for one in methods or timed_methods(task)}
    base = run_of(TAUGHT, profile or usual).to_dict() if task == "detection" else {}
    chosen = {name: value for name, value in given.items() if value is not None}
    config = RunConfig.from_dict({**base, **chosen})
    record = measure(config, runs, rounds, images, sys.stderr.isatty())
    record["plan"]["profile"] = profile or usual
    write_json(to or place, record)
    print(f"{report(record)}\n{to or place}")


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
    """Costs of each method's step over its floor's, of detectors over a plain step's too.

    Args:
        config: networks, image size and batch size; its task says what they do.
        runs: of each method string, the run whose options and epochs count.
        rounds: how often each step is timed, on one thread of the processor.
        images: of the training set; ``None`` for all, as methods with a memory of it need.
        progress: show a progress bar.
        device: a GPU, where that is to be timed, by the wall's clock.
        compiled: put step and floor through ``torch.compile``.

    Raises:
        KdlibError: an unknown method, or one of another task.
    """
    detected = config.task == "detection"
    plan = shared_fields(config) | ({"crop_size": config.crop_size} if detected else {})
    if detected:
        runs = {method: _detector_run(method, run, config) for method, run in runs.items()}
    data = _detection_data(config, images) if detected else _image_data(config, images)
    name, clock = clock_of(device, 1)
    ticks, found = len(runs) * rounds * (1 + detected), {}
    with limited_threads(1), tqdm(total=ticks, disable=not progress, desc="methods") as bar:
        timed = partial(ratios, rounds=rounds, clock=clock, tick=bar.update)
        place = {"device": device, "precision": PRECISION}
        if detected:
            costs = _of_detectors(DetectorBench(config, runs, data, **place), runs, timed)
        else:
            create = partial(Bench, config, data=data, compiled=compiled, **place)
            costs = _of_images(create, runs, timed)
        for method, run, cost in costs:
            found[method] = {"options": dict(run.method_options), **cost}
        source = provenance(config, device.type, PRECISION, data.fingerprint)
    return {
        "methods": found,
        "plan": {"rounds": rounds, "clock": name, **plan},
        "provenance": {**source, "machine": machine_name(device)},
    }


def _image_data(config: RunConfig, images: int | None) -> ImageData:
    return load_data("scenes", "train", size=images, image_size=config.image_size)


def _detection_data(config: RunConfig, images: int | None) -> ImageData:
    scenes = {name: getattr(config, name) for name in ("attentions", "distractors", "image_size")}
    return load_data(config.dataset, "train", size=images or SHOWN, task="detection", **scenes)


def _detector_run(method: str, run: RunConfig, config: RunConfig) -> RunConfig:
    """A method's run, of the networks and sizes of ``config``."""
    if "detection" not in METHODS[parse_method(method).base].tasks:
        valid = ", ".join(timed_methods("detection"))
        raise KdlibError(f"'{method}' is no method of detectors; valid: {valid}.")
    same = {**shared_fields(config), "task": config.task, "crop_size": config.crop_size}
    return replace(run, **same).canonical()


def _of_images(create: partial, runs: Mapping[str, RunConfig], timed: partial) -> Costs:
    for method, run in runs.items():
        parts = parts_of(run)
        options = {part.method: part.method_options for part in parts}
        bench = create([PLAIN, *options], options=options)
        yield method, run, _costs(bench, {part.method: part.epochs for part in parts}, timed)
        torch.compiler.reset()


def _of_detectors(bench: DetectorBench, runs: Mapping[str, RunConfig], timed: partial) -> Costs:
    for method, run in runs.items():
        yield method, run, detector_costs(bench, method, timed)


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
    ``epochs`` say; the memory that of the kind that takes most.
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
    return {"time": Ratio(*(value / len(steps) for value in found)).as_json(), "memory": memory}


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


if __name__ == "__main__":
    sys.exit(main())
