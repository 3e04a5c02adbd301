"""`python -m benchmarks`: all speeds of this machine, beside their floors and their peers."""

import sys
from pathlib import Path
from typing import Annotated, Literal, get_args

from cyclopts import Parameter

from benchmarks import RESULTS, command
from kdlib.runs import RunConfig
from study.cli import Count, Flag, Words

Section = Literal["steps", "methods", "pairs", "floor", "breakdown", "loading", "notebooks"]
Sections = Annotated[list[Section] | None, Parameter(consume_multiple=True, negative=())]
MOST_ROUNDS = 6
USUAL = RunConfig()


@command("benchmarks")
def main(
    *, only: Sections = None, quick: Flag = False, compiled: Flag = False,
    teacher: str = USUAL.teacher, student: str = USUAL.student,
    image_size: int = USUAL.image_size, batch_size: int = USUAL.batch_size,
    precision: Words = None, rounds: Count = 20, threads: Count = 1,
    device: str = "cpu", to: Path = RESULTS,
) -> None:  # fmt: skip
    """What a distillation step costs over its floor, and all else that `make bench` measures.

    What lock-step saves, images per second beside torchdistill's, loaders, memory, papermill, and
    where the time goes. Compared steps run in turn, on the processor by the time of one thread, so
    that other programs on the machine hardly matter. About 20 minutes on two cores; --quick takes
    five. Sections that are left out keep what was measured last.

    Args:
        only: these sections; by default all.
        quick: the least of each section.
        compiled: compiled steps too; on a GPU in any case.
        teacher: the teacher's network in the section `steps`.
        student: the students' network there.
        image_size: in pixels, there.
        batch_size: images per step, there.
        precision: one or several of float32, bfloat16, there; by default both.
        rounds: how often each step is timed; 6 at most in all but `steps`.
        threads: of the processor.
        device: cpu, cuda, ...
        to: folder of the JSON files.
    """
    from benchmarks import speed
    from benchmarks.timing import Scope

    few, place = min(rounds, MOST_ROUNDS), speed.device_of(device)
    compiled = compiled or place.type == "cuda"
    scope = Scope(place, threads, few, quick, compiled, sys.stderr.isatty())
    names = only or list(get_args(Section))
    if "steps" in names:
        run = {"teacher": teacher, "student": student}
        run |= {"image_size": image_size, "batch_size": batch_size}
        every = [{**run, "precision": one} for one in precision or ("float32", "bfloat16")]
        runs = [RunConfig.from_dict(fields) for fields in every]
        speed.write_steps(runs, scope, few if quick else rounds, to)
    speed.write_sections([name for name in speed.SECTIONS if name in names], scope, to)
    speed.write_goals(scope, to)


if __name__ == "__main__":
    sys.exit(main())
