"""`python -m benchmarks`: all speeds of this machine, beside their floors and their peers."""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdlib.errors import KdlibError
from kdlib.runs import RunConfig

if TYPE_CHECKING:
    from benchmarks.measure import Plan
    from benchmarks.speed import Scope

STEPS = "steps"
SECTIONS = (STEPS, "methods", "pairs", "floor", "breakdown", "loading", "notebooks")
MOST_ROUNDS = 6
RESULTS = Path(__file__).parent / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; returns the exit status (2: the user's mistake)."""
    options = parser().parse_args(arguments)
    try:
        if STEPS in options.only:
            measure_steps(options)
        others = [name for name in SECTIONS if name in options.only and name != STEPS]
        measure_others(others, options)
        judge_goals(options)
    except KdlibError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def measure_steps(options: argparse.Namespace) -> None:
    """Overheads, lock-step and Scenes: a file a precision."""
    from benchmarks.measure import measure
    from benchmarks.report import report
    from kdlib.files import write_json

    for plan in plans(options):
        record = measure(plan, progress=sys.stderr.isatty())
        path = options.to / file_name(record)
        write_json(path, record)
        print(f"{report(record)}\n{path}\n", flush=True)


def measure_others(names: Sequence[str], options: argparse.Namespace) -> None:
    """The other sections, into the one file of this machine; those not named stay as they are."""
    from benchmarks.speed import measure_sections
    from kdlib.files import write_json
    from study.pages import TABLES, section_text

    scope = scope_of(options)
    for name in names:
        path, record = _sections_of(scope, options.to)
        write_json(path, record | measure_sections([name], scope))
        _, record = _sections_of(scope, options.to)  # in the order of the file
        shown = [table for table, (source, *_) in TABLES.items() if source == name]
        print("\n".join(section_text(table, [record]) for table in shown), flush=True)


def judge_goals(options: argparse.Namespace) -> None:
    """Compare what has been measured, now or before, with what the project promises."""
    from benchmarks.goals import judge
    from kdlib.files import write_json
    from study.pages import section_text

    scope = scope_of(options)
    path, record = _sections_of(scope, options.to)
    if record:
        goals = judge(record, _step_records(scope, options.to), scope.device.type)
        write_json(path, record | {"goals": goals})
        print(f"{section_text('goals', [{'goals': goals}])}\n{path}\n")


def _sections_of(scope: "Scope", folder: Path) -> tuple[Path, dict[str, Any]]:
    path = folder / "speed" / f"{machine_slug(scope)}.json"
    return path, json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def scope_of(options: argparse.Namespace) -> "Scope":
    """How much to measure, and where.

    Raises:
        KdlibError: a device that PyTorch does not know, or that is not there.
    """
    import torch

    from benchmarks.speed import Scope

    try:
        device = torch.zeros(1, device=options.device).device
    except (RuntimeError, AssertionError) as error:
        raise KdlibError(f"There is no device '{options.device}' here: {error}") from error
    compiled = options.compiled or device.type == "cuda"
    sizes = {"threads": options.threads, "rounds": min(options.rounds, MOST_ROUNDS)}
    return Scope(
        device, **sizes, quick=options.quick, compiled=compiled, progress=sys.stderr.isatty()
    )


def machine_slug(scope: "Scope") -> str:
    """Such as ``amd-epyc-cpu-1``: machine, device, threads."""
    from study.export import machine_name

    return slug(machine_name(scope.device), scope.device.type, scope.threads)


def _step_records(scope: "Scope", folder: Path) -> list[dict[str, Any]]:
    paths = sorted(folder.glob(f"{machine_slug(scope)}-*.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def plans(options: argparse.Namespace) -> "list[Plan]":
    """What to measure, a plan a precision.

    Raises:
        KdlibError: an option that a run cannot have.
    """
    from benchmarks.measure import Plan

    chosen = {name: getattr(options, name) for name in ("teacher", "student")}
    chosen |= {name: getattr(options, name) for name in ("image_size", "batch_size")}
    configs = [RunConfig.from_dict({**chosen, "precision": one}) for one in options.precision]
    rounds = min(options.rounds, MOST_ROUNDS) if options.quick else options.rounds
    return [Plan(config, rounds, options.device, options.threads) for config in configs]


def file_name(record: dict[str, Any]) -> str:
    """Such as ``amd-epyc-cpu-1-bfloat16.json``: machine, device, threads, precision."""
    source = record["provenance"]
    facts = (source[name] for name in ("machine", "device", "threads", "precision"))
    return slug(*facts) + ".json"


def slug(*facts: object) -> str:
    """Facts as a file's name: small letters and digits, the rest as hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", " ".join(map(str, facts)).lower())


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    usual = RunConfig()
    top = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="What a distillation step costs over its floor, what lock-step saves, images a "
        "second beside torchdistill's, loaders, memory, papermill, and where the time goes. "
        "Compared steps run in turn, on the processor by the time of one thread, so that other "
        "programs on the machine hardly matter. About 20 minutes on two cores; --quick takes five. "
        "The networks and sizes named below are those of the section `steps`; sections that are "
        "left out keep what was measured last.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = top.add_argument
    add("--only", nargs="+", choices=SECTIONS, default=SECTIONS, metavar="SECTION",
        help=f"of {', '.join(SECTIONS)}")  # fmt: skip
    add("--quick", action="store_true", help="the least of each section")
    add("--compiled", action="store_true", help="compiled steps too; on a GPU in any case")
    add("--teacher", default=usual.teacher, help="the teacher's network")
    add("--student", default=usual.student, help="the students' network")
    add("--image-size", type=int, default=usual.image_size, help="pixels a side")
    add("--batch-size", type=int, default=usual.batch_size, help="images a step")
    both, precisions = ["float32", "bfloat16"], "one or several of float32, bfloat16"
    add("--precision", nargs="+", default=both, metavar="NAME", help=precisions)
    add("--rounds", type=int, default=20,
        help=f"how often each step is timed; {MOST_ROUNDS} at most in all but `steps`")  # fmt: skip
    add("--threads", type=int, default=1, help="of the processor")
    add("--device", default="cpu", help="cpu, cuda, ...")
    add("--to", type=Path, default=RESULTS, metavar="FOLDER", help="where the JSON goes")
    return top


if __name__ == "__main__":
    sys.exit(main())
