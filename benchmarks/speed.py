"""The sections of ``make bench``, each a function that returns its part of one record."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from tqdm.auto import tqdm

from benchmarks import loading, methods
from benchmarks.breakdown import breakdown
from benchmarks.floor import share_of_floor
from benchmarks.measure import METHODS
from benchmarks.notebooks import papermill_overhead
from benchmarks.pairs import BATCHES, PAIRS, PRECISIONS, measure_pair, noise, pair_config
from benchmarks.peers import torchdistill_version
from benchmarks.steps import Bench
from benchmarks.timing import Clock, clock_of
from kdlib.runs import RunConfig, provenance
from study.export import limited_threads, machine_name

LARGE = ("resnet50", "resnet18", 224)
LARGE_BATCH = {"cpu": 8, "cuda": 256}
PROFILED = "dct"


@dataclass(frozen=True)
class Scope:
    """How much is measured, and where.

    Args:
        device: what is timed.
        threads: of the processor.
        rounds: how often each step is timed.
        quick: the smallest of each section: one batch size, the headline's methods.
        compiled: measure compiled steps too, which takes minutes to compile on a processor.
        progress: show progress bars.
    """

    device: torch.device
    threads: int = 1
    rounds: int = 6
    quick: bool = False
    compiled: bool = False
    progress: bool = True

    @property
    def clock(self) -> Clock:
        """What reads the seconds."""
        return clock_of(self.device, self.threads)[1]

    def bar(self, name: str, ticks: int) -> tqdm:
        """A progress bar."""
        return tqdm(total=ticks, desc=name, disable=not self.progress)


def measure_methods(scope: Scope) -> dict[str, Any]:
    """Every method's step over its floor, as it is and, if asked for, compiled; and its memory."""
    named = list(METHODS) if scope.quick else methods.timed_methods("classification")
    found = {"eager": _method_costs(scope, named, False)}
    if scope.compiled:
        on_gpu = scope.device.type == "cuda"
        found["compiled"] = _method_costs(scope, named if on_gpu else list(METHODS), True)
    return found


def _method_costs(scope: Scope, named: Iterable[str], compiled: bool) -> dict[str, Any]:
    runs = {name: methods.run_of(name, "full") for name in named}
    how = {"rounds": scope.rounds, "images": None, "progress": scope.progress}
    record = methods.measure(RunConfig(), runs, **how, device=scope.device, compiled=compiled)
    return {"methods": record["methods"], "plan": record["plan"]}


def measure_pairs(scope: Scope) -> dict[str, Any]:
    """Images a second on the literature's pairs, ours and torchdistill's."""
    batches = BATCHES[:1] if scope.quick else BATCHES
    chosen = [(pair, batch) for batch in batches for pair in PAIRS]
    rows = []
    with scope.bar("pairs", len(chosen) * scope.rounds) as bar:
        for pair, batch in chosen:
            compiled = scope.compiled and (batch == BATCHES[0] or scope.device.type == "cuda")
            how = (scope.rounds, compiled, scope.clock, bar.update)
            rows.append(measure_pair(pair, batch, scope.device, *how))
            torch.compiler.reset()
    return {"pairs": rows, "torchdistill": torchdistill_version()}


def measure_loading(scope: Scope) -> dict[str, Any]:
    """Photographs a second, decoded and from the cache; of Scenes the section `steps` tells."""
    return loading.measure(200 if scope.quick else 600, 2)


def measure_notebooks(scope: Scope) -> dict[str, Any]:
    """What papermill adds to a run."""
    rounds = 2 if scope.quick else 5
    with scope.bar("notebooks", rounds) as bar:
        return papermill_overhead(rounds, bar.update)


def measure_floor(scope: Scope) -> dict[str, Any]:
    """How near the device's matrix rate a step comes, on large networks and on the pairs."""
    batch = LARGE_BATCH.get(scope.device.type, LARGE_BATCH["cpu"])
    wanted = [(*LARGE, batch), *((*pair, 32, BATCHES[0]) for pair in PAIRS)]
    with scope.bar("floor", len(wanted) * scope.rounds) as bar:
        how = (scope.device, scope.rounds, scope.clock, bar.update)
        compiled = scope.compiled and scope.device.type == "cuda"
        return {"steps": [share_of_floor(*one, *how, compiled) for one in wanted]}


def measure_breakdown(scope: Scope) -> dict[str, Any]:
    """Where the time of a step goes."""
    rows = []
    for teacher, student in PAIRS:
        config, data = pair_config(teacher, student, BATCHES[0]), noise(256)
        for precision in PRECISIONS:
            bench = Bench(config, [PROFILED], data, device=scope.device, precision=precision)
            row = {"teacher": teacher, "student": student, "precision": precision}
            rows.append({**row, "method": PROFILED, "shares": breakdown(bench, PROFILED)})
    return {"steps": rows}


SECTIONS: dict[str, Callable[[Scope], dict[str, Any]]] = {
    "methods": measure_methods,
    "pairs": measure_pairs,
    "floor": measure_floor,
    "breakdown": measure_breakdown,
    "loading": measure_loading,
    "notebooks": measure_notebooks,
}


def measure_sections(names: Iterable[str], scope: Scope) -> dict[str, dict[str, Any]]:
    """The named sections' records, each with where, when and from what it was measured."""
    found = {}
    for name in names:
        with limited_threads(scope.threads):
            measured = SECTIONS[name](scope)
            source = provenance(RunConfig(), scope.device.type, "float32", "")
        plan = {"rounds": scope.rounds, "quick": scope.quick, "compiled": scope.compiled}
        plan["clock"] = clock_of(scope.device, scope.threads)[0]
        found[name] = {**measured, "speed_plan": plan, "provenance": _where(source, scope)}
    return found


def _where(source: Mapping[str, Any], scope: Scope) -> dict[str, Any]:
    kept = ("commit", "dirty", "device", "threads", "utc", "versions")
    return {**{name: source[name] for name in kept}, "machine": machine_name(scope.device)}
