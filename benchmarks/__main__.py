"""`python -m benchmarks`: all speeds of this machine, and the commands for some of its own."""

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from math import inf
from pathlib import Path
from typing import Annotated, Literal, get_args

from cyclopts import App, Parameter

from benchmarks import RESULTS
from kdlib.errors import ended
from kdlib.files import write_json
from kdlib.runs import RunConfig
from study.arguments import Count, Flag, Sizes, Words
from study.cli import QUIET, called

Section = Literal["steps", "methods", "pairs", "floor", "breakdown", "loading", "notebooks"]
Sections = Annotated[list[Section] | None, Parameter(consume_multiple=True, negative=())]
Device = Literal["cpu", "cuda"]
USUAL = RunConfig()
app = App("python -m benchmarks", **QUIET)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status (2: the user's mistake, told in a line)."""
    return ended(lambda: called(app, arguments))


@app.default
def sections(
    *, only: Sections = None, quick: Flag = False, compiled: Flag = False,
    teacher: str = USUAL.teacher, student: str = USUAL.student,
    image_size: int = USUAL.image_size, batch_size: int = USUAL.batch_size,
    precision: Words = None, rounds: Count = 20, threads: Count = 1,
    device: Device = "cpu", seconds: float = inf, to: Path = RESULTS,
) -> None:  # fmt: skip
    """What a distillation step costs over its floor, and all else that `make bench` measures.

    What lock-step saves, images per second beside torchdistill's, loaders, memory, papermill, and
    where the time goes. Compared steps run in turn, on the processor by the time of one thread, so
    that other programs on the machine hardly matter. About 20 minutes on two cores; --quick takes
    five. Sections that are left out keep what was measured last.

    Args:
        only: these sections; by default all.
        quick: the least of each section.
        compiled: compiled steps too.
        teacher: the teacher's network in the section `steps`.
        student: the students' network there.
        image_size: in pixels, there.
        batch_size: images per step, there.
        precision: one or several of float32, bfloat16, there; by default both.
        rounds: how often each step is timed; 6 at most in all but `steps`.
        threads: of the processor.
        seconds: after which `methods` leaves out what it has not measured.
        to: folder of the JSON files.
    """
    from benchmarks import speed
    from benchmarks.timing import DEVICES, Scope

    few, until = min(rounds, 6), time.monotonic() + seconds
    scope = Scope(DEVICES[device], threads, few, quick, compiled, until)
    names = only or list(get_args(Section))
    if "steps" in names:
        run = {"teacher": teacher, "student": student}
        run |= {"image_size": image_size, "batch_size": batch_size}
        every = [{**run, "precision": one} for one in precision or ("float32", "bfloat16")]
        for config in [RunConfig(**fields) for fields in every]:
            speed.write_steps(config, scope, few if quick else rounds, to)
    for name in [name for name in speed.SECTIONS if name in names]:
        speed.write_section(name, scope, to)
    speed.write_goals(scope, to)


@app.command
def methods(
    *, task: Literal["classification", "detection"] = "classification",
    methods: Words = None, profile: str | None = None,
    teacher: str | None = None, student: str | None = None,
    image_size: int | None = None, batch_size: int | None = None,
    rounds: Count = 15, images: Count | None = None, device: Device = "cpu",
    to: Path | None = None,
) -> None:  # fmt: skip
    """What a step of every method costs over its floor, in time and in peak memory.

    The floor is a teacher's forward and a plain student's step; times are medians of paired
    measurements on one thread. Of a method that trains in stages, the mean over its student's
    steps. About ten minutes; a few for detectors.

    Args:
        task: what the networks do.
        methods: only these; by default all of the task.
        profile: whose options the methods have; by default study_methods, or detection.
        teacher: the teacher's network; by default that of the profile's runs, or the usual one.
        student: the students' network; likewise.
        image_size: in pixels; likewise.
        batch_size: images per step; likewise.
        rounds: how often each step is timed.
        images: of the training set; by default as many as are needed.
        device: cpu; or cuda, and the steps are compiled.
        to: the JSON file; by default one for each task.
    """
    from benchmarks.methods import PLACES, measure, report, run_of, timed_methods
    from benchmarks.timing import DEVICES, Scope

    # Detectors' networks are those of a run of their profile.
    profile = profile or {"classification": "study_methods", "detection": "detection"}[task]
    base = run_of("kd_cls", profile).to_dict() if task == "detection" else {}
    given = {"teacher": teacher, "student": student}
    given |= {"image_size": image_size, "batch_size": batch_size}
    chosen = {name: value for name, value in given.items() if value is not None}
    runs = {one: run_of(one, profile) for one in methods or timed_methods(task)}
    scope = Scope(DEVICES[device], rounds=rounds, compiled=device == "cuda")
    record = measure(RunConfig(**{**base, **chosen}), runs, scope, images)
    record["plan"]["profile"] = profile
    write_json(to or PLACES[task], record)
    print(f"{report(record)}\n{to or PLACES[task]}")


@app.command
def loading(
    *, images: Count = 2000, epochs: Count = 3, to: Path = RESULTS / "loading.json"
) -> None:
    """Photographs per second in batches of 128 at 224 pixels, on generated JPEG files.

    As bytes, which is what a GPU is fed with, and augmented and normalised on the processor.
    Nothing else should run meanwhile.

    Args:
        images: of each size.
        epochs: measured of each; medians are shown.
        to: the JSON file.
    """
    from benchmarks.loading import measure

    record = measure(images, epochs)
    write_json(to, record)
    for row in record["photographs"]:
        print(f"{row['size']}: decoded {row['decoded']}, cached {row['cached']} images/s")
    print(to)


@app.command
def deployment(
    run: Path, *, runs: Path = Path("runs"), threads: Sizes = (1,), rounds: Count = 30,
    to: Path = RESULTS / "deployment.json",
) -> None:  # fmt: skip
    """Size, accuracy and speed of a run's student beside its teacher's.

    In PyTorch and as exported files of each format. A minute or two for networks of Scenes.

    Args:
        run: a run's directory, its id or how its id begins.
        runs: folder of all runs.
        threads: numbers of threads of the processor.
        rounds: how often each network is timed.
        to: the JSON file.
    """
    from study.export import FORMATS, Plan, export_run, report

    records = []
    with tempfile.TemporaryDirectory(prefix="kdlib-deployment-") as folder:
        for name, count in product(FORMATS, threads):
            file = Path(folder) / f"student{FORMATS[name].suffix}"
            records.append(export_run(run, runs, Plan(name, file, count, rounds=rounds)))
            print(report(records[-1]), end="\n\n")
    write_json(to, {"exports": records})
    print(to)


@app.command
def commands(commands: Words = None, *, to: Path = RESULTS / "commands.json") -> None:
    """Wall time of commands in a fresh clone of HEAD.

    Installation included, caches of packages as this machine has them, none of scenes. Takes over
    an hour. Commands that are not named keep the time that was measured last.

    Args:
        commands: such as 'make test'; by default that and 'make reproduce'.
        to: the JSON file.
    """
    from benchmarks.speed import time_commands

    known = json.loads(to.read_text(encoding="utf-8")) if to.exists() else {}
    write_json(to, known | time_commands(commands or ("make test", "make reproduce")))
    print(to)


if __name__ == "__main__":
    sys.exit(main())
