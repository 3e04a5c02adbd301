"""The sections of ``make bench``: each is measured, written into one record, and printed."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm.auto import tqdm

from benchmarks import loading, methods
from benchmarks.floor import breakdown, share_of_floor
from benchmarks.measure import METHODS, measure
from benchmarks.notebooks import papermill_overhead
from benchmarks.pairs import (
    BATCHES,
    PAIRS,
    PRECISIONS,
    measure_pair,
    noise,
    pair_config,
    torchdistill_version,
)
from benchmarks.report import judge, report
from benchmarks.steps import Bench
from benchmarks.timing import Clock, clock_of
from kdlib.errors import KdlibError
from kdlib.files import write_json
from kdlib.runs import RunConfig, provenance
from study.export import limited_threads, machine_name
from study.pages import SPEED, section_text

LARGE = ("resnet50", "resnet18", 224)
LARGE_BATCH = {"cpu": 8, "cuda": 256}
PROFILED = "dct"
KEPT = ("commit", "dirty", "device", "threads", "utc", "versions")


@dataclass(frozen=True)
class Scope:
    """How much is measured, and where: on which device, by how many threads, how often each step.

    ``quick`` asks for the smallest of each section; ``compiled`` for compiled steps too, which
    take minutes to compile on a processor.
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

    @property
    def machine(self) -> str:
        """Such as ``amd-epyc-cpu-1``: machine, device, threads, as a file's name."""
        return slug(machine_name(self.device), self.device.type, self.threads)

    def bar(self, name: str, ticks: int) -> tqdm:
        """A progress bar."""
        return tqdm(total=ticks, desc=name, disable=not self.progress)


def device_of(name: str) -> torch.device:
    """A device that is here.

    Raises:
        KdlibError: PyTorch does not know it, or it is not there.
    """
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise KdlibError(f"There is no device '{name}' here: {error}") from error


def slug(*facts: object) -> str:
    """Facts as a file's name: small letters and digits, the rest as hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(map(str, facts)).lower())


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
    """Images per second on the literature's pairs, ours and torchdistill's."""
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
    """Photographs per second, decoded and from the cache."""
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
    "methods": measure_methods, "pairs": measure_pairs, "floor": measure_floor,
    "breakdown": measure_breakdown, "loading": measure_loading, "notebooks": measure_notebooks,
}  # fmt: skip


def write_steps(runs: Sequence[RunConfig], scope: Scope, rounds: int, folder: Path) -> None:
    """Measure, write and print overheads, lock-step and Scenes: a file a precision."""
    for config in runs:
        record = measure(config, rounds, scope.device, scope.threads, scope.progress)
        path = folder / f"{scope.machine}-{record['provenance']['precision']}.json"
        write_json(path, record)
        print(f"{report(record)}\n{path}\n", flush=True)


def write_sections(names: Iterable[str], scope: Scope, folder: Path) -> None:
    """The other sections, into the one file of this machine; those not named stay as they are."""
    for name in names:
        with limited_threads(scope.threads):
            measured = SECTIONS[name](scope)
            source = provenance(RunConfig(), scope.device.type, "float32", "")
        plan = {"rounds": scope.rounds, "quick": scope.quick, "compiled": scope.compiled}
        plan["clock"] = clock_of(scope.device, scope.threads)[0]
        where = {**{n: source[n] for n in KEPT}, "machine": machine_name(scope.device)}
        path, record = _written(scope, folder)
        write_json(path, record | {name: {**measured, "speed_plan": plan, "provenance": where}})
        _, record = _written(scope, folder)  # in the order of the file
        shown = [table for table, source in SPEED.items() if source == name]
        print("\n".join(section_text(table, [record]) for table in shown), flush=True)


def write_goals(scope: Scope, folder: Path) -> None:
    """Compare what has been measured, now or before, with what the project promises."""
    path, record = _written(scope, folder)
    if record:
        paths = sorted(folder.glob(f"{scope.machine}-*.json"))
        steps = [json.loads(one.read_text(encoding="utf-8")) for one in paths]
        goals = judge(record, steps, scope.device.type)
        write_json(path, record | {"goals": goals})
        print(f"{section_text('goals', [{'goals': goals}])}\n{path}\n")


def _written(scope: Scope, folder: Path) -> tuple[Path, dict[str, Any]]:
    """The file of this machine, and what is in it."""
    path = folder / "speed" / f"{scope.machine}.json"
    return path, json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
