"""The sections of ``make bench``: each is measured, written into one record, and printed."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from benchmarks import loading, methods, pairs, timing
from benchmarks.goals import TAUGHT, judge
from benchmarks.steps import Bench, plan_of, same_weights
from benchmarks.timing import Clock, Ratio, Scope, Work, progress, ratios, rounds_of, seconds
from kdlib.data import load_data
from kdlib.data.scenes import scenes
from kdlib.files import CHUNK, write_json
from kdlib.kept import PARTS
from kdlib.models.output import flops
from kdlib.runs import RunConfig, provenance
from kdlib.train_state import resolve_precision
from study.export import limited_threads, machine_name
from study.pages import part

METHODS = ("kd", "at", "dct", "dct+kd")
TOGETHER = (*METHODS, "dkd", "sp", "pkt", "logit_std")
COUNTS = (1, 2, 4, 8)
"""Of students in lock-step: the first so many of ``TOGETHER``."""
SHARED_METHODS = ("at", "kd")
PLAIN, THEIRS = ("student", "plain"), "torchdistill"
IMAGES, CHUNKS = 1280, 40  # that the loader is measured with; of scenes that are composed
LARGE = ("resnet50", "resnet18", 224)
LARGE_BATCH = {"cpu": 8, "cuda": 256}
PROFILED = "dct"
KEPT = ("commit", "dirty", "device", "threads", "utc", "versions")
BACKWARD = 2
"""A backward takes two matrix products for each of the forward: of weights, and of features."""
BIGGEST = {"cpu": 1024, "cuda": 8192}
MULTIPLICATIONS = 10
SPANS = {"kdlib::loader": "loader", "kdlib::loss": "loss", "Optimizer.step": "optimiser"}
"""Beginnings of names of spans: all that happens in one is of its kind."""
KINDS = {
    "convolution": ("conv", "thnn_conv"),
    "batch norm": ("batch_norm", "batchnorm", "batch_norm_backward"),
    "ReLU": ("relu", "threshold", "clamp_min"),
    "compiled code": ("compiledfunction", "torch-compiled", "inductor", "triton"),
}
OTHER = "other"
STEPS = 3
PARAMETERS = "images = 64  # of the batch"
RUN = """
import torch

import kdlib.train
from kdlib.models import create_model

network = create_model("scenes_small", 16)
network(torch.zeros(images, 3, 32, 32)).logits.sum().backward()
"""


def measure_steps(config: RunConfig, rounds: int, scope: Scope) -> dict[str, Any]:
    """Taught steps over plain ones, lock-step and Scenes; lock-step by half the rounds."""
    data = load_data("scenes", "train", size=IMAGES, image_size=config.image_size)
    precision = resolve_precision(config.precision, scope.device)
    create = partial(Bench, config, data=data, device=scope.device, precision=precision)
    half = max(2, rounds // 2)
    ticks = rounds + half * len(COUNTS)
    with limited_threads(scope.threads), progress("steps", ticks) as bar:
        bench = create(["student", *TAUGHT])
        compiled = create(["student"], compiled=True) if scope.compiled else None
        taught = measure_taught(bench, rounds, scope.clock, bar.update, compiled)
        timed = partial(ratios, rounds=half, clock=scope.clock, tick=bar.update)
        bench = create(TOGETHER)
        counted = {k: _lockstep(bench, TOGETHER[:k], timed).as_json() for k in COUNTS}
        identical = same_weights(create(METHODS), create(METHODS), METHODS, 3)
        speeds = _scenes(create(["student"]), scope.clock)
        source = provenance(config, scope.device.type, precision, data.fingerprint)
    return {
        "taught": taught,
        "lock_step": {
            "students": METHODS, "speedup": counted[len(METHODS)], "identical": identical,
        },
        "lock_steps": {str(count): ratio for count, ratio in counted.items()},
        "images_per_second": speeds,
        "plan": {"rounds": rounds, "clock": scope.named_clock[0], **plan_of(config)},
        "provenance": {**source, "machine": machine_name(scope.device)},
    }  # fmt: skip


def measure_taught(
    bench: Bench, rounds: int, clock: Clock, tick: Work, compiled: Bench | None = None
) -> dict[str, Any]:
    """Steps with kept answers, with the live teacher, and torchdistill's, each with its batch.

    Over a plain student's step, and torchdistill's over ours with kept answers; images a second;
    and what it takes to keep answers (``answers``) and features (``stages``).
    """
    with timing.own_cache() as cache:
        kept = {part: _kept_part(bench, part, cache, clock) for part in PARTS}
        works: dict[Any, Work] = {PLAIN: lambda: bench.own_step(bench.batch(), "student")}
        for method in TAUGHT:
            works[method, "kept"] = pairs.step_of(bench, method, kept=True)
            works[method, "live"] = pairs.step_of(bench, method)
        for method in SHARED_METHODS if pairs.torchdistill_version() else ():
            theirs = pairs.torchdistill_step(bench, method)
            pairs.check_same_loss(bench, method, theirs)
            works[method, THEIRS] = lambda theirs=theirs: theirs(bench.batch())
        if compiled is not None:
            works["student", "compiled"] = lambda: compiled.own_step(compiled.batch(), "student")
        times = rounds_of(works, rounds, clock, tick)
    size = len(bench.batch().labels)
    return {
        "version": pairs.torchdistill_version(),
        "kept": kept,
        "images_per_second": {
            " ".join(way): round(size / median(spent), 1) for way, spent in times.items()
        },
        "over_plain": {
            " ".join(way): timing.median_ratio(spent, times[PLAIN]).as_json()
            for way, spent in times.items() if way != PLAIN
        },
        "over_kept": {
            method: timing.median_ratio(spent, times[method, "kept"]).as_json()
            for (method, how), spent in times.items() if how == THEIRS
        },
    }  # fmt: skip


def _kept_part(bench: Bench, part: str, cache: Path, clock: Clock) -> dict[str, Any]:
    """What a part of a teacher's output takes for 1,000 images and their mirror images."""
    batch, thousands = bench.batch(), len(bench.kept.data) / 1000
    spent = seconds(lambda: bench.kept.kept(part, batch), clock)
    size = sum(path.stat().st_size for path in cache.glob(f"{part}-*/*")) / 1e6
    return {"megabytes": round(size / thousands, 2), "seconds": round(spent / thousands, 2)}


def _lockstep(bench: Bench, methods: Sequence[str], timed: partial) -> Ratio:
    """How many times faster one lock-step of all is than a step of each by itself.

    A step includes the making of its batch, which students in lock-step share as well.
    """
    together = {"": lambda: bench.step(bench.batch(), *methods)}
    found = timed(lambda: [bench.step(bench.batch(), one) for one in methods], together)
    return found[""].inverse()


def _scenes(bench: Bench, clock: Clock) -> dict[str, int]:
    """Scenes per second: composed, and read in batches from memory."""
    compose = partial(scenes, "train", 2, 4, bench.states["student"].config.image_size)
    chunks = [torch.arange(CHUNK) + chunk * CHUNK for chunk in range(CHUNKS)]
    compose(chunks[0])  # reads the atlas
    composing = seconds(lambda: [compose(chunk) for chunk in chunks], clock)
    size = len(bench.batch().labels)
    batches = max(1, IMAGES // size)
    reading = seconds(lambda: [bench.batch() for _ in range(batches)], clock)
    return {
        "composing": round(CHUNKS * CHUNK / composing),
        "reading": round(batches * size / reading),
    }


def measure_methods(scope: Scope) -> dict[str, Any]:
    """Every method's step over its floor, as it is and, if asked for, compiled; and its memory."""
    named = [*METHODS, *([] if scope.quick else methods.timed_methods("classification", METHODS))]
    few = named if scope.device.type == "cuda" else list(METHODS)
    wanted = {"eager": named, **({"compiled": few} if scope.compiled else {})}
    found = {}
    for how, names in wanted.items():
        runs = {name: methods.run_of(name, "study_methods") for name in names}
        record = methods.measure(RunConfig(), runs, replace(scope, compiled=how == "compiled"))
        found[how] = {"methods": record["methods"], "plan": record["plan"]}
    return found


def measure_notebooks(scope: Scope) -> dict[str, Any]:
    """Seconds of processor time of a step as a notebook and as a program, imports included."""
    from study.notebooks import execute_notebook  # which a GPU's machine need not have

    rounds = 2 if scope.quick else 5
    with tempfile.TemporaryDirectory() as folder, progress("notebooks", rounds) as bar:
        notebook = write_notebook(Path(folder) / "tiny.ipynb")
        program = [sys.executable, "-c", f"{PARAMETERS}\n{RUN}"]
        works: dict[str, Work] = {
            "notebook": lambda: execute_notebook(notebook, notebook.with_name("done.ipynb")),
            "program": lambda: subprocess.run(program, check=True, capture_output=True),
        }
        # Of this process and of those that it started and that have ended.
        times = rounds_of(works, rounds, lambda: sum(os.times()[:4]), bar.update)
    both = {name: round(median(spent), 2) for name, spent in times.items()}
    added = [one - other for one, other in zip(*times.values(), strict=True)]
    return {"seconds": both, "added_seconds": round(median(added), 2), "rounds": rounds}


def write_notebook(path: Path) -> Path:
    """A notebook of a cell of parameters and one that works."""
    import nbformat

    cells = [nbformat.v4.new_code_cell(source) for source in (PARAMETERS, RUN)]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


def matrix_rate(device: torch.device, dtype: torch.dtype, clock: Clock) -> float:
    """Floating-point operations per second of a large matrix product; the best of several."""
    size = BIGGEST.get(device.type, BIGGEST["cpu"])
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    (spent,) = rounds_of({"": lambda: left @ right}, MULTIPLICATIONS, clock, int).values()
    return 2 * size**3 / min(spent)


def share_of_floor(
    teacher: str, student: str, side: int, batch: int, scope: Scope, tick: Work
) -> dict[str, Any]:
    """Share of a bfloat16 step's time that its convolutions and products take at full rate."""
    device, compiled = scope.device, scope.compiled and scope.device.type == "cuda"
    data, config = pairs.noise(batch, side), pairs.pair_config(teacher, student, batch, side)
    how = {"device": device, "precision": "bfloat16", "fold": True, "compiled": compiled}
    bench = Bench(config, [pairs.METHOD], data, **how)
    works = {"": partial(bench.step, bench.batch(), pairs.METHOD)}
    (spent,) = rounds_of(works, scope.rounds, scope.clock, tick).values()
    own = (1 + BACKWARD) * flops(bench.states[pairs.METHOD].student, side)
    work = batch * (flops(bench.teacher.network, side) + own)
    rate = matrix_rate(device, torch.bfloat16, scope.clock)
    return {
        **plan_of(config),
        "gigaflops_a_step": round(work / 1e9, 1), "matrix_gigaflops_a_second": round(rate / 1e9, 1),
        "seconds": round(median(spent), 4), "share": round(work / rate / median(spent), 4),
    }  # fmt: skip


def measure_floor(scope: Scope) -> dict[str, Any]:
    """How near the device's matrix rate a step comes, on large networks and on the pairs."""
    batch = LARGE_BATCH.get(scope.device.type, LARGE_BATCH["cpu"])
    wanted = [(*LARGE, batch), *((*pair, 32, pairs.BATCHES[0]) for pair in pairs.PAIRS)]
    with progress("floor", len(wanted) * scope.rounds) as bar:
        return {"steps": [share_of_floor(*one, scope, bar.update) for one in wanted]}


def measure_breakdown(scope: Scope) -> dict[str, Any]:
    """Where the time of a step goes."""
    rows = []
    for teacher, student in pairs.PAIRS:
        config, data = pairs.pair_config(teacher, student, pairs.BATCHES[0]), pairs.noise(256)
        for precision in pairs.PRECISIONS:
            bench = Bench(config, [PROFILED], data, device=scope.device, precision=precision)
            row = {"teacher": teacher, "student": student, "precision": precision}
            rows.append({**row, "method": PROFILED, "shares": breakdown(bench, PROFILED)})
    return {"steps": rows}


def breakdown(bench: Bench, method: str) -> dict[str, float]:
    """Share of each kind of work in a step with its loader, 0 to 1; largest first."""
    on_gpu = bench.device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    distiller = bench.states[method].distiller
    marked = record_function("kdlib::loss")(distiller.forward)
    with patch.object(distiller, "forward", marked), profile(activities=activities) as found:
        for _ in range(STEPS):
            with record_function("kdlib::loader"):
                batch = bench.batch()
            bench.step(batch, method)
    spent: dict[str, float] = defaultdict(float)
    events, own = found.events(), f"self_{'device' if on_gpu else 'cpu'}_time_total"
    # A loss's backward has the sequence numbers of its forward.
    in_loss = {one.sequence_nr for one in events if _kind(one) == "loss" and one.sequence_nr >= 0}
    for one in events:
        spent[_kind(one, in_loss)] += getattr(one, own)
    ordered = sorted(spent.items(), key=lambda item: -item[1])
    return {name: round(part / sum(spent.values()), 4) for name, part in ordered}


def _kind(event: Any, in_loss: Container[int] = ()) -> str:
    """What an event is part of: its own name's kind, or that of the nearest event around it."""
    around, found = event, OTHER
    while around is not None:
        for start, kind in SPANS.items():
            if around.name.startswith(start):
                return kind
        if around.name.startswith("autograd::") and around.sequence_nr in in_loss:
            return "loss"
        if found == OTHER:
            name = around.name.lower()
            found = next((k for k, some in KINDS.items() if any(m in name for m in some)), OTHER)
        around = around.cpu_parent
    return found


SECTIONS: dict[str, Callable[[Scope], dict[str, Any]]] = {
    "methods": measure_methods, "pairs": pairs.measure_pairs, "floor": measure_floor,
    "breakdown": measure_breakdown, "notebooks": measure_notebooks,
    "loading": lambda scope: loading.measure(200 if scope.quick else 600, 2),
}  # fmt: skip


def write_steps(config: RunConfig, scope: Scope, rounds: int, folder: Path) -> None:
    """Measure, write and print the section `steps` in one precision, which has its own file."""
    record = measure_steps(config, rounds, scope)
    path = folder / f"{scope.machine}-{record['provenance']['precision']}.json"
    write_json(path, record)
    print(*[_shown(table, record) for table in ("taught", "steps")], path, sep="\n\n", flush=True)


def write_section(name: str, scope: Scope, folder: Path) -> None:
    """Another section, into the one file of this machine; those not named stay as they are."""
    with limited_threads(scope.threads):
        measured = SECTIONS[name](scope)
        source = provenance(RunConfig(), scope.device.type, "float32", "")
    plan = {"rounds": scope.rounds, "quick": scope.quick, "compiled": scope.compiled}
    plan["clock"] = scope.named_clock[0]
    where = {**{n: source[n] for n in KEPT}, "machine": machine_name(scope.device)}
    path, record = _written(scope, folder)
    write_json(path, record | {name: {**measured, "speed_plan": plan, "provenance": where}})
    _, record = _written(scope, folder)  # in the order of the file
    shown = ("pairs", "ratios") if name == "pairs" else (name,)
    print("\n".join(_shown(table, record) for table in shown), flush=True)


def write_goals(scope: Scope, folder: Path) -> None:
    """Compare what has been measured, now or before, with what the project promises."""
    path, record = _written(scope, folder)
    paths = sorted(folder.glob(f"{scope.machine}-*.json"))
    steps = [json.loads(one.read_text(encoding="utf-8")) for one in paths]
    if record or steps:
        goals = judge(record, steps, scope.device.type)
        write_json(path, record | {"goals": goals})
        print(f"{_shown('goals', {'goals': goals})}\n{path}\n")


def _shown(table: str, record: dict[str, Any]) -> str:
    """A table of ``docs/speed.md``, of one machine's record."""
    return part("_speed.md", table, [record]).strip()


def _written(scope: Scope, folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file of this machine, and what is in it."""
    path = folder / "speed" / f"{scope.machine}.json"
    return path, json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def time_commands(commands: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Seconds of each command in a fresh clone, and where and of what; a failure is an error."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    found, where = {}, {"cores": cores, "machine": machine_name()}
    with timing.own_cache() as folder:
        clone = folder / "clone"
        subprocess.run(["git", "clone", "--quiet", Path(__file__).parents[1], clone], check=True)
        head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=clone, text=True)
        where["commit"] = head.strip()
        for words in commands:
            work = partial(subprocess.run, words.split(), cwd=clone, check=True)
            found[words] = {"seconds": round(seconds(work, time.perf_counter)), **where}
    return found
