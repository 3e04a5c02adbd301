"""The sections of ``make bench``: each is measured, written into one record, and printed."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import nbformat
import torch

from benchmarks import loading, methods, pairs
from benchmarks.floor import breakdown, share_of_floor
from benchmarks.measure import METHODS, measure
from benchmarks.report import judge, report
from benchmarks.steps import Bench
from benchmarks.timing import Scope, Work, clock_of, rounds_of
from kdlib.errors import KdlibError
from kdlib.files import write_json
from kdlib.runs import RunConfig, provenance
from study.export import limited_threads, machine_name
from study.notebooks import execute_notebook
from study.pages import SPEED, section_text

LARGE = ("resnet50", "resnet18", 224)
LARGE_BATCH = {"cpu": 8, "cuda": 256}
PROFILED = "dct"
KEPT = ("commit", "dirty", "device", "threads", "utc", "versions")
PARAMETERS = "images = 64  # of the batch"
RUN = """
import torch

import kdlib.train
from kdlib.models import create_model

network = create_model("scenes_small", 16)
network(torch.zeros(images, 3, 32, 32)).logits.sum().backward()
"""


def device_of(name: str) -> torch.device:
    """A device that is here.

    Raises:
        KdlibError: PyTorch does not know it, or it is not there.
    """
    try:
        return torch.zeros(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise KdlibError(f"There is no device '{name}' here: {error}") from error


def measure_methods(scope: Scope) -> dict[str, Any]:
    """Every method's step over its floor, as it is and, if asked for, compiled; and its memory."""
    named = list(METHODS) if scope.quick else methods.timed_methods("classification")
    few = named if scope.device.type == "cuda" else list(METHODS)
    wanted = {"eager": named, **({"compiled": few} if scope.compiled else {})}
    found = {}
    for how, names in wanted.items():
        runs = {name: methods.run_of(name, "full") for name in names}
        own = replace(scope, compiled=how == "compiled")
        record = methods.measure(RunConfig(), runs, own)
        found[how] = {"methods": record["methods"], "plan": record["plan"]}
    return found


def measure_pairs(scope: Scope) -> dict[str, Any]:
    """Images per second on the literature's pairs, ours and torchdistill's."""
    batches = pairs.BATCHES[:1] if scope.quick else pairs.BATCHES
    rows = []
    with scope.bar("pairs", len(batches) * len(pairs.PAIRS) * scope.rounds) as bar:
        for batch, pair in product(batches, pairs.PAIRS):
            rows.append(pairs.measure_pair(pair, batch, scope, bar.update))
            torch.compiler.reset()
    return {"pairs": rows, "torchdistill": pairs.torchdistill_version()}


def measure_loading(scope: Scope) -> dict[str, Any]:
    """Photographs per second, decoded and from the cache."""
    return loading.measure(200 if scope.quick else 600, 2)


def measure_notebooks(scope: Scope) -> dict[str, Any]:
    """Seconds of processor time of a step as a notebook and as a program, imports included."""
    rounds = 2 if scope.quick else 5
    with tempfile.TemporaryDirectory() as folder, scope.bar("notebooks", rounds) as bar:
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
    cells = [nbformat.v4.new_code_cell(source) for source in (PARAMETERS, RUN)]
    cells[0].metadata["tags"] = ["parameters"]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), path)
    return path


def measure_floor(scope: Scope) -> dict[str, Any]:
    """How near the device's matrix rate a step comes, on large networks and on the pairs."""
    batch = LARGE_BATCH.get(scope.device.type, LARGE_BATCH["cpu"])
    wanted = [(*LARGE, batch), *((*pair, 32, pairs.BATCHES[0]) for pair in pairs.PAIRS)]
    with scope.bar("floor", len(wanted) * scope.rounds) as bar:
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


SECTIONS: dict[str, Callable[[Scope], dict[str, Any]]] = {
    "methods": measure_methods, "pairs": measure_pairs, "floor": measure_floor,
    "breakdown": measure_breakdown, "loading": measure_loading, "notebooks": measure_notebooks,
}  # fmt: skip


def write_steps(runs: Sequence[RunConfig], scope: Scope, rounds: int, folder: Path) -> None:
    """Measure, write and print overheads, lock-step and Scenes: a file a precision."""
    for config in runs:
        record = measure(config, rounds, scope)
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
