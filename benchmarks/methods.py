"""`python -m benchmarks methods`: what a step of every method costs, in time and in memory."""

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import takewhile
from math import gcd
from typing import Any

import torch

from benchmarks.steps import HALFWAY, NOWHERE, Bench, endless, plan_of
from benchmarks.timing import Ratio, Scope, Work, peak_bytes, progress, ratios, state_bytes
from kdlib.data import load_data
from kdlib.data.image_data import ImageData
from kdlib.detection.batches import DetectionBatch, DetectionBatches
from kdlib.detection.teacher import CropTeacher
from kdlib.detection.train_state import DetectorState
from kdlib.errors import KdlibError
from kdlib.methods import METHODS, STAGES, parse_method, run_before
from kdlib.models import create_model
from kdlib.runs import RunConfig, provenance
from kdlib.seeds import seed_everything
from kdlib.train_state import Group
from study.export import limited_threads, machine_name
from study.figures.comparison import COSTS, DETECTOR_COSTS
from study.profiles import expand
from study.statistics import OF_PIXELS

PLACES = {"classification": COSTS, "detection": DETECTOR_COSTS}
PLAIN = "student"
PRECISION = "float32"  # memory and time of bfloat16 depend on the processor
SHOWN = 512  # images with objects, of which batches are made: no method has a memory of them
Runs = Mapping[str, RunConfig]
Costs = Iterator[tuple[str, dict[str, Any]]]


def timed_methods(task: str, known: Collection[str] = ()) -> list[str]:
    """The other methods of a task; of one that is published for pixels, images tell nothing."""
    left_out = (PLAIN, OF_PIXELS, *STAGES, *known)
    return [name for name, one in METHODS.items() if task in one.tasks and name not in left_out]


def run_of(method: str, profile: str) -> RunConfig:
    """One of the runs whose gain stands beside the cost of a method."""
    return expand(profile, methods=[method], seeds=[0])[0]


def parts_of(run: RunConfig) -> list[RunConfig]:
    """The trainings of its student that a run consists of, each with its own epochs alone."""
    before = run_before(run)
    return [run] if before is None else [before, replace(run, epochs=run.epochs - before.epochs)]


def measure(
    config: RunConfig, runs: Runs, scope: Scope, images: int | None = None
) -> dict[str, Any]:
    """Costs of each method's step over its floor's, of detectors over a plain step's too.

    Networks and sizes are those of ``config``, options and epochs those of each method's run; one
    thread in any case; all images by default, as methods with a memory of them need.
    """
    plan, detected = plan_of(config), config.task == "detection"
    if detected:
        plan |= {"crop_size": config.crop_size}
        runs = {method: _of_task(method, run, config) for method, run in runs.items()}
    drawn = ("task", "image_size", "attentions", "distractors")
    options = {name: getattr(config, name) for name in drawn}
    size = images or SHOWN if detected else images
    data = load_data(config.dataset, "train", size=size, **options)
    name, clock = replace(scope, threads=1).named_clock
    ticks = len(runs) * scope.rounds * (1 + detected)
    with limited_threads(1), progress("methods", ticks) as bar:
        timed = partial(ratios, rounds=scope.rounds, clock=clock, tick=bar.update)
        costs = (_of_detectors if detected else _of_images)(config, runs, data, scope, timed)
        timely = takewhile(lambda _: time.monotonic() < scope.until, costs)
        found = {one: {"options": dict(runs[one].method_options), **cost} for one, cost in timely}
        source = provenance(config, scope.device.type, PRECISION, data.fingerprint)
    return {
        "methods": found,
        "plan": {"rounds": scope.rounds, "clock": name, **plan},
        "provenance": {**source, "machine": machine_name(scope.device)},
    }


def _of_task(method: str, run: RunConfig, config: RunConfig) -> RunConfig:
    """A method's run, of the networks and sizes of a detector's ``config``."""
    if "detection" not in METHODS[parse_method(method).base].tasks:
        valid = ", ".join(timed_methods("detection"))
        raise KdlibError(f"'{method}' is no method of detectors; valid: {valid}.")
    same = {**plan_of(config), "task": config.task, "crop_size": config.crop_size}
    return replace(run, **same).canonical()


def _of_images(
    config: RunConfig, runs: Runs, data: ImageData, scope: Scope, timed: partial
) -> Costs:
    """Time over the floor's, and peak memory: what a step allocates and what the method keeps.

    The time is the mean over a training's steps, of each kind of which there are as many as its
    epochs say; the memory that of the kind that takes most.
    """
    for method, run in runs.items():
        parts = {part.method: part for part in parts_of(run)}
        options = {kind: part.method_options for kind, part in parts.items()}
        how = {"device": scope.device, "precision": PRECISION, "compiled": scope.compiled}
        bench = Bench(config, [PLAIN, *parts], data, options=options, **how)
        batch = bench.batch()
        plain = partial(bench.step, batch, PLAIN)
        kinds = {kind: partial(bench.own_step, batch, kind) for kind in parts}
        share = gcd(*(part.epochs for part in parts.values()))
        steps = [kinds[kind] for kind in parts for _ in range(parts[kind].epochs // share)]
        found = timed(plain, {"all": lambda steps=steps: [step() for step in steps]})["all"]
        floor = peak_bytes(plain, scope.device)
        kept = {kind: state_bytes(bench.states[kind].distiller) for kind in kinds}
        peak = max(peak_bytes(step, scope.device) + kept[kind] for kind, step in kinds.items())
        yield method, _cost(Ratio(*(value / len(steps) for value in found)), peak, floor)
        torch.compiler.reset()


def _cost(time: Ratio, peak: int, floor: int) -> dict[str, Any]:
    memory = {"peak_bytes": peak, "floor_bytes": floor, "ratio": round(peak / floor, 4)}
    return {"time": time.as_json(), "memory": memory}


def _of_detectors(
    config: RunConfig, runs: Runs, data: ImageData, scope: Scope, timed: partial
) -> Costs:
    """Time and peak memory of a method's step over its floor's and, ``plain``, a plain step's.

    The weights are random: a detector's positives follow from its anchors and the objects, so that
    there are as many of them as in a training. Only detectors with proposals learn where they are.
    """
    device, crop = scope.device, (config.crop_size, data.mean, data.std)
    seed_everything(config.teacher_seed)
    network = create_model(config.teacher, len(data.classes))
    teacher = CropTeacher(network.to(memory_format=torch.channels_last), *crop).to(device)
    cutter = CropTeacher(None, *crop).to(device)  # for methods that compare pixels alone
    group = Group(data, device, precision=PRECISION)
    plain = replace(config, method=PLAIN, method_options={}, weight=None).canonical()
    states = {n: DetectorState(r, group, NOWHERE) for n, r in {**runs, PLAIN: plain}.items()}
    teachers = {n: cutter if t.config.teacher == "none" else teacher for n, t in states.items()}
    for state in states.values():
        state.parts.train()

    def step(method: str, batch: DetectionBatch) -> None:
        state = states[method]
        lesson = teachers[method].teach(batch) if state.distiller.needs_teacher else None
        state.step(batch, lesson, state.config.learning_rate / 10, HALFWAY)

    def floor(method: str, batch: DetectionBatch) -> None:
        if teachers[method] is teacher:
            teacher.teach(batch)
        step(PLAIN, batch)

    def peak(work: Work) -> int:
        for state in states.values():  # how gradients' end counts depends on their beginning
            state.optimiser.zero_grad(set_to_none=True)
        return peak_bytes(work)

    batch = next(endless(DetectionBatches(data, config.batch_size, config.augmentation, device), 0))
    for method in runs:
        own = partial(step, method, batch)
        floors = (partial(floor, method, batch), partial(step, PLAIN, batch))
        times = [timed(work, {"own": own})["own"] for work in floors]
        most = peak(own) + state_bytes(states[method].distiller)
        cost, beside = (
            _cost(time, most, peak(work)) for time, work in zip(times, floors, strict=True)
        )
        yield method, {**cost, "plain": beside}


def report(record: dict[str, Any]) -> str:
    """The text that ``python -m benchmarks methods`` prints, from the record that it writes."""
    plan, source = record["plan"], record["provenance"]
    lines = [
        f"{source['machine']}, one thread, {source['precision']}; batch {plan['batch_size']}; "
        "a step over its floor (teacher forward; student's forward, backward, update)"
    ]
    for name, one in record["methods"].items():
        beside = f"   over a plain step {_shares(one['plain'])}" if "plain" in one else ""
        lines.append(f"  {name:16} {_shares(one)}{beside}")
    return "\n".join(lines)


def _shares(one: Mapping[str, Any]) -> str:
    time, memory = one["time"]["median"] - 1, one["memory"]["ratio"] - 1
    return f"time {time:+7.1%}   peak memory {memory:+7.1%}"
