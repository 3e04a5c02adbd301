"""The section `steps`: overheads, lock-step, torchdistill and Scenes, as a record and in words."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
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
MOST_OVERHEAD = {"at": 0.04, "dct": 0.03}
LEAST_SPEEDUP = 1.7
DCT_ON_CPU, DCT_COMPILED_ON_GPU = 0.03, 0.05
OVER_TORCHDISTILL = {"cpu": 1.5, "cuda": 3.0}
SHARE_OF_FLOOR = 0.6
Goal = dict[str, Any]


def measure(config: RunConfig, rounds: int, scope: Scope) -> dict[str, Any]:
    """Measure all of it; lock-step and torchdistill take half of the rounds."""
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
    together = {"": lambda: bench.step(bench.batch(), *methods)}
    found = timed(lambda: [bench.step(bench.batch(), one) for one in methods], together)
    return found[""].inverse()


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


def report(record: dict[str, Any]) -> str:
    """The text that ``python -m benchmarks`` prints of the section `steps`."""
    return "\n".join([*_overhead_said(record), *_lockstep_said(record), *_rest_said(record)])


def _overhead_said(record: dict[str, Any]) -> Iterator[str]:
    plan, source = record["plan"], record["provenance"]
    yield (
        f"{source['machine']}; {source['device']}, {source['threads']} thread(s), "
        f"{source['precision']}; batch {plan['batch_size']}, {plan['image_size']} pixels\n"
        f"{plan['student']} taught by {plan['teacher']}; medians of paired ratios of "
        f"{plan['clock']}, in brackets their 95 % intervals\n"
    )
    yield "A step's cost over its floor (teacher forward; student's forward, backward, update)"
    for method, found in sorted(record["overhead"].items()):
        most, verdict = MOST_OVERHEAD.get(method), ""
        if most is not None:
            verdict = f"   wanted: at most {most:.0%}, {_met(found['median'] <= most)}"
        yield f"  {method:8} {_shown(found, '+.1%')}{verdict}"


def _lockstep_said(record: dict[str, Any]) -> Iterator[str]:
    found = record["lock_step"]
    students, same = found["students"], "identical" if found["identical"] else "NOT identical"
    reached = _met(found["speedup"]["median"] >= LEAST_SPEEDUP)
    counts = [f"{count}: {one['median']:.2f} x" for count, one in record["lock_steps"].items()]
    yield f"Lock-step of {len(students)} students ({', '.join(students)}) beside separate steps"
    times = _shown(found["speedup"], ".2f", " x")
    yield f"  {times}   wanted: at least {LEAST_SPEEDUP}, {reached}"
    yield f"  weights afterwards: {same}"
    yield f"  by number of students, {', '.join(counts)}"


def _rest_said(record: dict[str, Any]) -> Iterator[str]:
    peer, speed = record["torchdistill"], record["images_per_second"]
    if peer is None:
        yield "torchdistill is not installed; `make bench` installs it."
    else:
        yield f"torchdistill {peer['version']}: time of its step over ours (same networks, loss)"
        for method, found in sorted(peer["times_our_step"].items()):
            yield f"  {method:8} {_shown(found, '.2f', ' x')}"
    made, read = (f"{speed[what]:,} images/s" for what in ("composing", "reading"))
    yield f"Scenes: {made} composed, {read} in batches from the cache"


def _shown(found: dict[str, float | None], form: str, unit: str = "") -> str:
    """A median and its interval; a bound that is not known as a question mark."""
    low, high = ("?" if found[end] is None else format(found[end], form) for end in ("low", "high"))
    return f"{found['median']:{form}}{unit}   ({low} to {high})"


def _met(met: bool) -> str:
    return "met" if met else "MISSED"


def judge(
    sections: Mapping[str, Any], steps: Iterable[Mapping[str, Any]], device: str
) -> list[Goal]:
    """Every goal with its verdict, JSON-ready; ``met`` is None where nothing was measured.

    From the sections of ``make bench`` and the records of :func:`measure` of a kind of device.
    """
    rows = sections.get("floor", {}).get("steps", []) if device == "cuda" else []
    share = next((row["share"] for row in rows if row["image_size"] == 224), None)
    name = "share of the floor, resnet50 > resnet18, 224 pixels, bfloat16"
    last = _at_least(name, "cuda", SHARE_OF_FLOOR, share)
    return [*_dct(sections, steps, device), *_beside(sections, device), last]


def _dct(sections: Mapping, steps: Iterable[Mapping], device: str) -> Iterator[Goal]:
    for record in steps if device == "cpu" else ():
        name = f"DCT overhead, {record['provenance']['precision']}"
        yield _at_most(name, "cpu", DCT_ON_CPU, record["overhead"]["dct"]["median"])
    costs = sections.get("methods", {}).get("compiled") if device == "cuda" else None
    value = None if costs is None else costs["methods"]["dct"]["time"]["median"] - 1
    yield _at_most("DCT overhead, compiled", "cuda", DCT_COMPILED_ON_GPU, value)


def _beside(sections: Mapping, device: str) -> Iterator[Goal]:
    for other, wanted in OVER_TORCHDISTILL.items():
        rows = sections.get("pairs", {}).get("pairs", []) if other == device else []
        judged = [row for row in rows if row["ratios"]]
        for row in judged:
            pair = f"{row['teacher']} > {row['student']}, batch {row['batch_size']}"
            for how in ("each at its best", "students in lock-step"):
                name = f"images a second over torchdistill's, {pair}, {how}"
                yield _at_least(name, other, wanted, row["ratios"][how]["median"])
        if not judged:
            yield _at_least("images a second over torchdistill's", other, wanted, None)


def _at_most(name: str, device: str, wanted: float, found: float | None) -> Goal:
    met = None if found is None else found <= wanted
    return {"name": name, "device": device, "wanted": wanted, "found": found, "met": met}


def _at_least(name: str, device: str, wanted: float, found: float | None) -> Goal:
    goal = _at_most(name, device, wanted, found)
    return {**goal, "met": None if found is None else found >= wanted}
