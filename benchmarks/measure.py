"""Everything that `python -m benchmarks` measures, as one JSON-ready record."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import isnan
from typing import Any

import torch
from tqdm.auto import tqdm

from benchmarks.images import composing_speed, reading_speed
from benchmarks.peers import torchdistill_step, torchdistill_version
from benchmarks.steps import Bench, same_weights
from benchmarks.timing import Ratio, clock_of, ratios
from kdlib.data import load_data
from kdlib.errors import KdlibError
from kdlib.optimise import resolve_precision
from kdlib.runs import RunConfig, provenance
from study.export import limited_threads, machine_name

METHODS = ("kd", "at", "dct", "dct+kd")
TOGETHER = (*METHODS, "dkd", "sp", "pkt", "logit_std")
COUNTS = (1, 2, 4, 8)
"""Of students in lock-step: the first so many of ``TOGETHER``."""
SHARED_METHODS = ("at", "kd")
LOSS_TOLERANCE = 1e-2  # relative; bfloat16 has three digits
TRAINING_IMAGES = 1280


@dataclass(frozen=True)
class Plan:
    """What to measure, and how often.

    Args:
        config: networks, image size, batch size and precision.
        rounds: how often a step is timed; lock-step and torchdistill take a half of them.
        device: ``cpu``, ``cuda`` ...
        threads: of the processor.
        images: how many the loader is measured with.
        chunks: of scenes to compose.
    """

    config: RunConfig
    rounds: int = 40
    device: str = "cpu"
    threads: int = 1
    images: int = TRAINING_IMAGES
    chunks: int = 40


def measure(plan: Plan, progress: bool = True) -> dict[str, Any]:
    """Measure all of it.

    Raises:
        KdlibError: torchdistill's loss is not ours, so that comparing speeds means nothing.
    """
    device = torch.device(plan.device)
    data = load_data("scenes", "train", size=plan.images, image_size=plan.config.image_size)
    precision = resolve_precision(plan.config.precision, device)
    name, clock = clock_of(device, plan.threads)
    create = partial(Bench, plan.config, data=data, device=device, precision=precision)
    rounds, half = plan.rounds, max(2, plan.rounds // 2)
    ticks = rounds + half * len(COUNTS) + len(SHARED_METHODS) * half + 3
    with limited_threads(plan.threads), tqdm(total=ticks, disable=not progress) as bar:
        timed = partial(ratios, clock=clock, tick=bar.update)
        bar.set_description("overhead")
        overhead = _overheads(create(["student", *METHODS]), partial(timed, rounds=rounds))
        bar.set_description("lock-step")
        bench = create(list(TOGETHER))
        counted = {k: _lockstep(bench, TOGETHER[:k], partial(timed, rounds=half)) for k in COUNTS}
        identical = same_weights(create(list(METHODS)), create(list(METHODS)), list(METHODS), 3)
        bar.update()
        bar.set_description("torchdistill")
        peers = _beside_torchdistill(create(list(SHARED_METHODS)), partial(timed, rounds=half))
        bar.set_description("images")
        composing = composing_speed(plan.chunks, plan.config.image_size, clock)
        bar.update()
        reading = reading_speed(create(["student"]), plan.images, clock)
        bar.update()
        source = provenance(plan.config, plan.device, precision, data.fingerprint)
    return {
        "overhead": {method: as_json(ratio, shift=-1) for method, ratio in overhead.items()},
        "lock_step": {
            "students": list(METHODS), "speedup": as_json(counted[len(METHODS)]),
            "identical": identical,
        },
        "lock_steps": {str(count): as_json(ratio) for count, ratio in counted.items()},
        "torchdistill": peers,
        "images_per_second": {"composing": round(composing), "reading": round(reading)},
        "plan": {"rounds": rounds, "clock": name, **shared_fields(plan.config)},
        "provenance": {**source, "machine": machine_name(device)},
    }  # fmt: skip


def _overheads(bench: Bench, timed: partial) -> dict[str, Ratio]:
    """Each method's step over the floor: a teacher forward and a plain student's step."""
    batch = bench.batch()
    works = {method: partial(bench.step, batch, method) for method in METHODS}
    return timed(partial(bench.step, batch, "student"), works)


def _lockstep(bench: Bench, methods: Sequence[str], timed: partial) -> Ratio:
    """How many times faster one lock-step of all is than a step of each by itself.

    A step includes the making of its batch, which students in lock-step share as well.
    """

    def separate() -> None:
        for method in methods:
            bench.step(bench.batch(), method)

    together = timed(separate, {"lock-step": lambda: bench.step(bench.batch(), *methods)})
    return together["lock-step"].inverse()


def _beside_torchdistill(bench: Bench, timed: partial) -> dict[str, Any] | None:
    """Its step's time over ours, method by method; ``None`` where it is not installed."""
    version = torchdistill_version()
    if version is None:
        return None
    times = {}
    for method in SHARED_METHODS:
        batch, theirs = bench.batch(), torchdistill_step(bench, method)
        check_same_loss(method, bench.step(batch, method)[method], theirs(batch))
        ours = partial(bench.step, batch, method)
        times[method] = timed(ours, {"theirs": partial(theirs, batch)})["theirs"]
    return {"version": version, "times_our_step": {m: as_json(r) for m, r in times.items()}}


def check_same_loss(method: str, ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Compare the losses of a first step, which both take from the same weights."""
    if not torch.isclose(ours, theirs, rtol=LOSS_TOLERANCE):
        raise KdlibError(f"'{method}': torchdistill's loss is {theirs}, ours {ours}; not the same.")


def shared_fields(config: RunConfig) -> dict[str, Any]:
    """Networks, image size and batch size: what a plan says of a run."""
    names = ("teacher", "student", "image_size", "batch_size")
    return {name: getattr(config, name) for name in names}


def as_json(ratio: Ratio, shift: float = 0) -> dict[str, float | None]:
    """Four digits; a bound that too few rounds leave open as None."""
    values = {name: value + shift for name, value in ratio._asdict().items()}
    return {name: None if isnan(value) else round(value, 4) for name, value in values.items()}
