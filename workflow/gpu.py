"""`make gpu`: what one GPU is asked within minutes, as commands in parts, in order of worth.

    python -m workflow.gpu --to FOLDER      # wherever PyTorch and kdlib[study] are

Runs of the profile `gpu`; steps over their floors, eager and compiled; torchdistill, where it is
installed; how near a large step comes to the rate of the GPU.

A part starts only if its estimate fits in the time that is left, and is ended at twice that, so
that a wrong guess costs the others little. What was not done by then is said.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch

from benchmarks import RESULTS
from benchmarks.methods import timed_methods
from kdlib.errors import KdlibError, ended
from kdlib.files import write_json
from kdlib.runs import RunConfig
from study.profiles import expand
from study.records import committed_part, find_runs
from study.sealed import seal

SIDE_BY_SIDE = 8  # so small a network leaves the GPU waiting for the core that feeds it
MOST = 2  # times its estimate
TINY = {"train_size": 64, "test_size": 64, "epochs": 1, "teacher_epochs": 1, "batch_size": 32}
SMALLEST = (
    "--methods at --teacher scenes_small --image-size 32 --batch-size 8 --images 8 --rounds 1"
)
NO_GPU = (
    "There is no GPU here that PyTorch can use, and `make gpu` measures one. To try it on the "
    "processor, in a minute: python -m workflow.gpu --dry-run"
)


class Part(NamedTuple):
    """Commands (arguments of Python's -m), by name, so many of them side by side."""

    name: str
    estimate: int  # seconds; a guess for an H100 with 16 cores
    commands: Mapping[str, Sequence[str]]
    processes: int = 1


def measure(limit: float, trial: bool, to: Path) -> None:
    """Run part after part for so many seconds; records, timings and parts.json lie in ``to``."""
    if not (trial or torch.cuda.is_available()):
        raise KdlibError(NO_GPU)
    end, told = time.monotonic() + limit, []
    with TemporaryDirectory(prefix="kdlib-gpu-") as name:
        for part in parts(wanted(trial), Path(name), trial, to):
            told.append(run(part, end))
            write_json(to / "parts.json", {"parts": told})
            runs = find_runs(Path(name)).values()
            seal(to, [(committed_part(one.directory)[0], []) for one in runs])
    print(f"{to}; its runs: python -m kdlib results {to}")


def wanted(trial: bool) -> list[RunConfig]:
    """The runs of the profile; of a trial, the least of a few."""
    if not trial:
        return expand("gpu")
    few = expand("gpu", methods=["student", "at"], seeds=[0])
    return [replace(run, **TINY, teacher_train_size=None) for run in few]


def parts(runs: Sequence[RunConfig], root: Path, trial: bool, to: Path) -> list[Part]:
    """All parts, in order of worth; of a trial, training and a method's step."""
    device = "cpu" if trial else "cuda"
    how = ["benchmarks", f"--device={device}", f"--to={to}", "--rounds=6", "--only"]
    train = {side: training(runs, side, root, device) for side in (64, 128)}
    few = ["benchmarks", "methods", *SMALLEST.split(), f"--to={to}/step.json"]
    steps = few if trial else [*how, "methods"]
    found = [
        Part("training, 64 pixels", 190, train[64], SIDE_BY_SIDE),
        Part("steps", 60, {"steps": steps}),
        Part("training, 128 pixels", 90, train[128], SIDE_BY_SIDE),
        Part("floor", 40, {"floor": [*how, "floor"]}),
        Part("pairs", 60, {"pairs": [*how, "pairs", "--quick"]}),
        Part("compiled floor", 80, {"compiled floor": [*how, "floor", "--compiled"]}),
        Part("compiling", 90, compiling(root), SIDE_BY_SIDE),
        Part("compiled steps", 80, {"steps": [*steps, "--compiled", "--seconds=60"]}),
    ]
    return found[:3] if trial else found


def training(
    runs: Sequence[RunConfig], side: int, root: Path, device: str
) -> dict[str, Sequence[str]]:
    """Trains each run of that image size; what several need first, one does, and others wait."""
    found = {}
    for one in (run for run in runs if run.image_size == side):
        write_json(path := root / f"{one.run_id}.yaml", one.to_file())  # JSON is YAML
        how = [f"--config={path}", f"--runs={root}", f"--device={device}"]
        found[one.run_id] = ["kdlib.train", *how]
    return found


def compiling(root: Path) -> dict[str, Sequence[str]]:
    """Fills PyTorch's cache of compiled code, which `compiled steps` then reads."""
    names = timed_methods("classification")
    how = ["benchmarks", "methods", "--device=cuda", "--rounds=1", "--methods"]
    parts = {str(n): names[n::SIDE_BY_SIDE] for n in range(SIDE_BY_SIDE)}
    return {n: [*how, *some, f"--to={root}/{n}.json"] for n, some in parts.items()}


def run(part: Part, end: float) -> dict[str, Any]:
    """Run a part's commands, tell what became of them, and return it."""
    start = time.monotonic()
    fits = start + part.estimate <= end
    until = min(end, start + MOST * part.estimate) if fits else start
    print(f"{part.name}: {'about' if fits else 'no time for'} {part.estimate} s", flush=True)
    with ThreadPoolExecutor(part.processes) as pool:
        said = pool.map(partial(finish, until=until), part.commands.values())
    left_out = {n: why for n, why in zip(part.commands, said, strict=True) if why}
    spent, many = round(time.monotonic() - start), len(part.commands)
    print(f"  {many - len(left_out)} of {many} in {spent} s", flush=True)
    for name, why in left_out.items():
        print(f"  left out {name}: {why}")
    return {"name": part.name, "estimate": part.estimate, "seconds": spent, "left_out": left_out}


def finish(command: Sequence[str], until: float) -> str:
    """Run a command until then; why it did not end well, or nothing."""
    left = until - time.monotonic()
    try:
        how = {"capture_output": True, "text": True, "timeout": left}
        done = subprocess.run([sys.executable, "-m", *command], **how) if left > 0 else None
    except subprocess.TimeoutExpired:
        done = None
    if done is None:
        return "no time was left"
    return done.stderr.strip().rpartition("\n")[2] or "failed" if done.returncode else ""


def main() -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser("python -m workflow.gpu", description="What one GPU can do.")
    parser.add_argument("--minutes", type=float, default=12, help="that it may take")
    parser.add_argument("--dry-run", action="store_true", help="the least of it on the processor")
    parser.add_argument("--to", type=Path, help="folder of records and timings")
    given = parser.parse_args()
    to = given.to or (Path("runs/dry-run") if given.dry_run else RESULTS / "gpu")
    measure(60 * given.minutes, given.dry_run, to)


if __name__ == "__main__":
    sys.exit(ended(main))
