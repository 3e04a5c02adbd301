"""`python -m benchmarks.methods`: what a step of every method costs, in time and in memory."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from itertools import count
from math import gcd
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks import command
from benchmarks.measure import shared_fields
from benchmarks.steps import HALFWAY, NOWHERE, Bench
from benchmarks.timing import Ratio, Scope, Work, clock_of, peak_bytes, ratios, state_bytes
from kdlib.data import load_data
from kdlib.data.image_data import ImageData
from kdlib.detection.batches import DetectionBatch, DetectionBatches
from kdlib.detection.teacher import CropTeacher
from kdlib.detection.trainee import DetectorTrainee
from kdlib.errors import KdlibError
from kdlib.files import write_json
from kdlib.methods import METHODS, STAGES, parse_method, run_before
from kdlib.models import create_model
from kdlib.runs import RunConfig, provenance
from kdlib.seeds import seed_everything
from kdlib.trainee import Group
from study.cli import Count, Words
from study.export import limited_threads, machine_name
from study.figures.cost import COSTS, DETECTOR_COSTS
from study.profiles import expand
from study.statistics import OF_PIXELS

TASKS = {"classification": ("full", COSTS), "detection": ("detection", DETECTOR_COSTS)}
"""By task, the profile whose options the methods have, and where the results go."""
PLAIN = "student"
PRECISION = "float32"  # memory and time of bfloat16 depend on the processor
TAUGHT = "kd_cls"  # whose run names the networks of detectors
SHOWN = 512  # images with objects, of which batches are made: no method has a memory of them
Costs = Iterator[tuple[str, dict[str, Any]]]


@command("benchmarks.methods")
def main(
    *, task: Literal["classification", "detection"] = "classification",
    methods: Words = None, profile: str | None = None,
    teacher: str | None = None, student: str | None = None,
    image_size: int | None = None, batch_size: int | None = None,
    rounds: Count = 15, images: Count | None = None,
    to: Path | None = None,
) -> None:  # fmt: skip
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
    scope = Scope(rounds=rounds, progress=sys.stderr.isatty())
    record = measure(config, runs, scope, images)
    record["plan"]["profile"] = profile or usual
    write_json(to or place, record)
    print(f"{report(record)}\n{to or place}")


def timed_methods(task: str) -> list[str]:
    """The methods of a task; of one that is published for pixels, images tell nothing."""
    left_out = (PLAIN, OF_PIXELS, *STAGES)
    return [name for name, one in METHODS.items() if task in one.tasks and name not in left_out]


def measure(
    config: RunConfig, runs: Mapping[str, RunConfig], scope: Scope, images: int | None = None
) -> dict[str, Any]:
    """Costs of each method's step over its floor's, of detectors over a plain step's too.

    Networks and sizes are those of ``config``, options and epochs those of each method's run; one
    thread in any case; all images by default, as methods with a memory of them need.
    """
    detected = config.task == "detection"
    plan = shared_fields(config) | ({"crop_size": config.crop_size} if detected else {})
    if detected:
        runs = {method: _detector_run(method, run, config) for method, run in runs.items()}
    data = _data(config, images)
    name, clock = clock_of(scope.device, 1)
    with limited_threads(1), scope.bar("methods", len(runs) * scope.rounds * (1 + detected)) as bar:
        timed = partial(ratios, rounds=scope.rounds, clock=clock, tick=bar.update)
        costs = (_of_detectors if detected else _of_images)(config, runs, data, scope, timed)
        found = {one: {"options": dict(runs[one].method_options), **cost} for one, cost in costs}
        source = provenance(config, scope.device.type, PRECISION, data.fingerprint)
    return {
        "methods": found,
        "plan": {"rounds": scope.rounds, "clock": name, **plan},
        "provenance": {**source, "machine": machine_name(scope.device)},
    }


def _data(config: RunConfig, images: int | None) -> ImageData:
    if config.task != "detection":
        return load_data("scenes", "train", size=images, image_size=config.image_size)
    drawn = {name: getattr(config, name) for name in ("attentions", "distractors", "image_size")}
    return load_data(config.dataset, "train", size=images or SHOWN, task="detection", **drawn)


def _detector_run(method: str, run: RunConfig, config: RunConfig) -> RunConfig:
    """A method's run, of the networks and sizes of ``config``."""
    if "detection" not in METHODS[parse_method(method).base].tasks:
        valid = ", ".join(timed_methods("detection"))
        raise KdlibError(f"'{method}' is no method of detectors; valid: {valid}.")
    same = {**shared_fields(config), "task": config.task, "crop_size": config.crop_size}
    return replace(run, **same).canonical()


def run_of(method: str, profile: str) -> RunConfig:
    """One of the runs whose gain stands beside the cost of a method."""
    return expand(profile, methods=[method], seeds=[0])[0]


def parts_of(run: RunConfig) -> list[RunConfig]:
    """The trainings of its student that a run consists of, each with its own epochs alone."""
    before = run_before(run)
    return [run] if before is None else [before, replace(run, epochs=run.epochs - before.epochs)]


def _of_images(
    config: RunConfig, runs: Mapping[str, RunConfig], data: ImageData, scope: Scope, timed: partial
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
        kept = {kind: state_bytes(bench.trainees[kind].distiller) for kind in kinds}
        peak = max(peak_bytes(step, scope.device) + kept[kind] for kind, step in kinds.items())
        yield method, _cost(Ratio(*(value / len(steps) for value in found)), peak, floor)
        torch.compiler.reset()


def _cost(time: Ratio, peak: int, floor: int) -> dict[str, Any]:
    memory = {"peak_bytes": peak, "floor_bytes": floor, "ratio": round(peak / floor, 4)}
    return {"time": time.as_json(), "memory": memory}


def _detectors(
    config: RunConfig, runs: Mapping[str, RunConfig], data: ImageData, device: torch.device
) -> dict[str, DetectorTrainee]:
    """A detector for each run and a plain one, ready to step.

    The weights are random: a detector's positives follow from its anchors and the objects, so that
    there are as many of them as in a training. Only detectors with proposals learn where they are.
    """
    own = (Group(data, device, precision=PRECISION), NOWHERE)
    plain = replace(config, method=PLAIN, method_options={}, weight=None).canonical()
    found = {one: DetectorTrainee(run, *own) for one, run in {**runs, PLAIN: plain}.items()}
    for trainee in found.values():
        trainee.parts.train()
    return found


def _of_detectors(
    config: RunConfig, runs: Mapping[str, RunConfig], data: ImageData, scope: Scope, timed: partial
) -> Costs:
    """Time and peak memory of a method's step over its floor's and, ``plain``, a plain step's."""
    device, crop = scope.device, (config.crop_size, data.mean, data.std)
    seed_everything(config.teacher_seed)
    network = create_model(config.teacher, len(data.classes))
    teacher = CropTeacher(network.to(memory_format=torch.channels_last), *crop).to(device)
    cutter = CropTeacher(None, *crop).to(device)  # for methods that compare pixels alone
    trainees = _detectors(config, runs, data, device)
    batches = DetectionBatches(data, config.batch_size, config.augmentation, device)
    asked = {one: cutter if t.config.teacher == "none" else teacher for one, t in trainees.items()}

    def step(method: str, batch: DetectionBatch) -> None:
        trainee = trainees[method]
        lesson = asked[method].teach(batch) if trainee.distiller.needs_teacher else None
        trainee.step(batch, lesson, trainee.config.learning_rate / 10, HALFWAY)

    def floor(method: str, batch: DetectionBatch) -> None:
        if asked[method] is teacher:
            teacher.teach(batch)
        step(PLAIN, batch)

    def peak(work: Work) -> int:
        for trainee in trainees.values():  # how gradients' end counts depends on their beginning
            trainee.optimiser.zero_grad(set_to_none=True)
        return peak_bytes(work)

    whole = (b for n in count() for b in batches.epoch(0, n) if len(b.images) == batches.batch_size)
    batch = next(whole)
    for method in runs:
        own, plain = (partial(step, one, batch) for one in (method, PLAIN))
        floors = (partial(floor, method, batch), plain)
        times = [timed(work, {"own": own})["own"] for work in floors]
        most = peak(own) + state_bytes(trainees[method].distiller)
        pairs = zip(times, [peak(work) for work in floors], strict=True)
        cost, beside = (_cost(time, most, least) for time, least in pairs)
        yield method, {**cost, "plain": beside}


def report(record: dict[str, Any]) -> str:
    """The text that ``python -m benchmarks.methods`` prints, from the record that it writes."""
    plan, source = record["plan"], record["provenance"]
    head = (
        f"{source['machine']}, one thread, {source['precision']}; batch {plan['batch_size']}; "
        "a step over its floor (teacher forward; student's forward, backward, update)"
    )
    lines = [head]
    for name, one in record["methods"].items():
        beside = f"   over a plain step {_shares(one['plain'])}" if "plain" in one else ""
        lines.append(f"  {name:16} {_shares(one)}{beside}")
    return "\n".join(lines)


def _shares(one: Mapping[str, Any]) -> str:
    time, memory = one["time"]["median"] - 1, one["memory"]["ratio"] - 1
    return f"time {time:+7.1%}   peak memory {memory:+7.1%}"


if __name__ == "__main__":
    sys.exit(main())
