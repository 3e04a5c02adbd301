"""The section `steps`: overheads, lock-step, torchdistill and Scenes, as one JSON-ready record."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.pairs import check_same_loss, torchdistill_step, torchdistill_version
from benchmarks.steps import Bench, same_weights
from benchmarks.timing import Ratio, Scope, clock_of, ratios, seconds
from kdlib.data import load_data
from kdlib.data.scenes import scenes
from kdlib.files import CHUNK
from kdlib.runs import RunConfig, provenance
from kdlib.trainee import resolve_precision
from study.export import limited_threads, machine_name

METHODS = ("kd", "at", "dct", "dct+kd")
TOGETHER = (*METHODS, "dkd", "sp", "pkt", "logit_std")
COUNTS = (1, 2, 4, 8)
"""Of students in lock-step: the first so many of ``TOGETHER``."""
SHARED_METHODS = ("at", "kd")
IMAGES, CHUNKS = 1280, 40  # that the loader is measured with; of scenes that are composed


def measure(config: RunConfig, rounds: int, scope: Scope) -> dict[str, Any]:
    """Measure all of it; lock-step and torchdistill take half of the rounds.

    Raises:
        KdlibError: torchdistill's loss is not ours, so that comparing speeds means nothing.
    """
    data = load_data("scenes", "train", size=IMAGES, image_size=config.image_size)
    precision = resolve_precision(config.precision, scope.device)
    name, clock = clock_of(scope.device, scope.threads)
    create = partial(Bench, config, data=data, device=scope.device, precision=precision)
    half = max(2, rounds // 2)
    ticks = rounds + half * (len(COUNTS) + len(SHARED_METHODS))
    with limited_threads(scope.threads), scope.bar("steps", ticks) as bar:
        timed = partial(ratios, clock=clock, tick=bar.update)
        overhead = _overheads(create(["student", *METHODS]), partial(timed, rounds=rounds))
        bench = create(list(TOGETHER))
        counted = {k: _lockstep(bench, TOGETHER[:k], partial(timed, rounds=half)) for k in COUNTS}
        identical = same_weights(create(list(METHODS)), create(list(METHODS)), list(METHODS), 3)
        peers = _beside_torchdistill(create(list(SHARED_METHODS)), partial(timed, rounds=half))
        chunks = [torch.arange(CHUNK) + chunk * CHUNK for chunk in range(CHUNKS)]
        compose = partial(scenes, "train", 2, 4, config.image_size)
        compose(chunks[0])  # reads the atlas
        composing = seconds(lambda: [compose(chunk) for chunk in chunks], clock)
        bench = create(["student"])
        size = len(bench.batch().labels)
        batches = max(1, IMAGES // size)
        reading = seconds(lambda: [bench.batch() for _ in range(batches)], clock)
        source = provenance(config, scope.device.type, precision, data.fingerprint)
    speeds = {"composing": CHUNKS * CHUNK / composing, "reading": batches * size / reading}
    return {
        "overhead": {method: ratio.as_json(shift=-1) for method, ratio in overhead.items()},
        "lock_step": {
            "students": list(METHODS), "speedup": counted[len(METHODS)].as_json(),
            "identical": identical,
        },
        "lock_steps": {str(count): ratio.as_json() for count, ratio in counted.items()},
        "torchdistill": peers,
        "images_per_second": {what: round(speed) for what, speed in speeds.items()},
        "plan": {"rounds": rounds, "clock": name, **shared_fields(config)},
        "provenance": {**source, "machine": machine_name(scope.device)},
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
    return {"version": version, "times_our_step": {m: r.as_json() for m, r in times.items()}}


def shared_fields(config: RunConfig) -> dict[str, Any]:
    """Networks, image size and batch size: what a plan says of a run."""
    names = ("teacher", "student", "image_size", "batch_size")
    return {name: getattr(config, name) for name in names}
