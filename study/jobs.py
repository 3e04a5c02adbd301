"""The jobs of a batch: one execution of a notebook each, and the records that it leaves.

Only unfinished runs become jobs. A run whose record exists is never touched again: the batch
takes its record as given, whoever made it and whenever.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from kdlib.errors import EXIT_FAILED, EXIT_MISTAKE, KdlibError, ended
from kdlib.files import write_text
from kdlib.runs import RunConfig, earlier, is_finished, needed_by, run_directory
from study.notebooks import ExecutionError, execute_notebook, find_notebook
from study.profiles import lockstep_groups

VISIBLE = "CUDA_VISIBLE_DEVICES"
POLL_S = 1.0
TEACHER_NOTEBOOK, STUDENTS_NOTEBOOK = "02_teacher", "05_distill"
# Fields of RunConfig that only the students' notebook has, and those that the notebooks take under
# another name or for each student apart.
OF_STUDENTS_NOTEBOOK = {"optimiser", "task", "gradient_clip", "crop_size"}
NOT_OF_TEACHERS = OF_STUDENTS_NOTEBOOK | {
    "method", "method_options", "weight", "ce_weight", "kd_weight", "temperature", "teacher",
    "student", "epochs", "teacher_epochs", "teacher_weights", "teacher_seed", "start",
    "teacher_start", "teacher_learning_rate", "data_seed", "init_seed",
}  # fmt: skip
OF_EACH_STUDENT = {"method_options", "weight", "ce_weight", "kd_weight", "optimiser"}
AWAITED_PRIORITY = 1000


def gpu_names() -> list[str]:
    """The GPUs that this process may use: those of ``CUDA_VISIBLE_DEVICES``, or all there are."""
    if VISIBLE in os.environ:
        return [name.strip() for name in os.environ[VISIBLE].split(",") if name.strip()]
    try:
        listed = subprocess.run(["nvidia-smi", "--list-gpus"], capture_output=True, text=True)
    except OSError:
        return []
    return [str(n) for n, line in enumerate(listed.stdout.splitlines()) if line.startswith("GPU ")]


@contextmanager
def own_gpus(count: int, folder: Path | None = None) -> Iterator[list[str]]:
    """Wait for so many free GPUs, and make them the only ones that PyTorch sees.

    It has to be entered before CUDA starts.

    Args:
        count: of GPUs; with 0 nothing is taken and nothing changes.
        folder: of the lock files; by default one for this user on this machine.

    Raises:
        KdlibError: the machine has fewer.
    """
    if not count:
        yield []
        return
    if len(names := gpu_names()) < count:
        raise KdlibError(
            f"A job asks for {count} GPUs of its own, but there are {len(names)} here. Give "
            f"--config gpus_per_job={len(names)}, or name those to use in {VISIBLE}."
        )
    usual = Path(tempfile.gettempdir()) / f"kdlib-gpus-{os.getuid()}"
    with ExitStack() as locks:
        taken = _take(names, count, folder or usual, locks)
        os.environ[VISIBLE] = ",".join(taken)
        yield taken


def _take(names: Sequence[str], count: int, folder: Path, locks: ExitStack) -> list[str]:
    """Lock ``count`` of them; while there are too few, hold none, so that no two jobs wait so."""
    while True:
        taken: list[str] = []
        with ExitStack() as attempt:
            for name in names:
                if len(taken) < count and _locked(folder / f"{name}.lock", attempt):
                    taken.append(name)
            if len(taken) == count:
                locks.push(attempt.pop_all())
                return taken
        time.sleep(POLL_S)


def _locked(path: Path, locks: ExitStack) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        locks.enter_context(FileLock(path, blocking=False))
    except Timeout:
        return False
    return True


class Job(NamedTuple):
    """One execution of a notebook."""

    name: str  # unique and the same in every process that plans the same runs
    notebook: str
    parameters: dict[str, Any]  # of the notebook, without folders
    runs: tuple[RunConfig, ...]  # whose records it leaves
    needs: tuple[RunConfig, ...] = ()  # whose records must exist first: teachers, starting points


def plan(runs: Sequence[RunConfig], root: Path, largest: int) -> list[Job]:
    """Jobs for the runs that have no record under ``root``, and for all that they need first.

    Args:
        runs: what is wanted.
        root: the folder of runs.
        largest: students in one lock-step job at most: with more of them the teacher's forward
            is shared by more, with fewer the jobs spread better over cores.
    """
    waiting = [run for run in runs if not is_finished(run, root)]
    first = [run for run in earlier(waiting) if not is_finished(run, root)]
    known = {run.run_id for run in first}
    wanted = [*first, *(run for run in waiting if run.run_id not in known)]
    teachers = {run.run_id for run in first if run.method == "student"}
    groups = lockstep_groups(run for run in wanted if run.run_id not in teachers)
    untaught = [run for run in first if run.run_id in teachers]
    parts = (part for group in groups for part in evenly(group, largest))
    return [*map(plain_job, untaught), *map(students_job, parts)]


def plain_job(run: RunConfig) -> Job:
    """The job of a teacher: in its own notebook where that has all that the run needs."""
    usual = RunConfig()
    told = all(getattr(run, name) == getattr(usual, name) for name in OF_STUDENTS_NOTEBOOK)
    return teacher_job(run) if told else students_job([run])


def evenly(group: Sequence[RunConfig], largest: int) -> list[Sequence[RunConfig]]:
    """Split a group into parts of nearly equal size, none above ``largest``."""
    count = -(-len(group) // largest)
    return [group[index::count] for index in range(count)]


def teacher_job(run: RunConfig) -> Job:
    """The execution of the teacher's notebook that leaves the record of ``run``."""
    values = run.to_dict()
    parameters = {name: value for name, value in values.items() if name not in NOT_OF_TEACHERS}
    parameters |= {"teacher": run.student, "teacher_epochs": run.epochs}
    parameters |= {"teacher_seed": run.init_seed, "teacher_start": run.start}
    return Job(_name(TEACHER_NOTEBOOK, [run]), TEACHER_NOTEBOOK, parameters, (run,))


def students_job(group: Sequence[RunConfig]) -> Job:
    """The execution of the students' notebook that leaves the records of a lock-step group.

    Fields that all share are parameters; ``options`` has those in which they differ, one mapping
    a student.
    """
    values = [run.to_dict() for run in group]
    differing = {name for name in values[0] if any(v[name] != values[0][name] for v in values)}
    own = (differing | OF_EACH_STUDENT) - {"method"}
    plain = {item: value for item, value in RunConfig().to_dict().items() if item in own}
    options = [
        {name: v[name] for name in sorted(own) if name in differing or v[name] != plain[name]}
        for v in values
    ]
    shared = {name: value for name, value in values[0].items() if name not in own | {"method"}}
    parameters = {"methods": [run.method for run in group], "options": options, **shared}
    needs = tuple(needed_by(group))
    return Job(_name(STUDENTS_NOTEBOOK, group), STUDENTS_NOTEBOOK, parameters, tuple(group), needs)


def as_plan(runs: Sequence[RunConfig], root: Path, largest: int) -> dict[str, Any]:
    """What a batch is to do, JSON-ready, so that it is planned once and read by all its processes.

    Args:
        runs: what is wanted.
        root: the folder of runs.
        largest: students in one lock-step job at most.

    Returns:
        ``wanted``, the records of the runs, and ``jobs``: of each its ``name``, ``notebook``,
        ``parameters``, the records in ``makes`` and ``needs``, and its ``priority``: first what
        others wait for, then the longest, so that no core idles at the end.
    """

    def records(some: Sequence[RunConfig]) -> list[str]:
        return [record_path(run, root) for run in some]

    jobs = plan(runs, root, largest)
    awaited = {record for job in jobs for record in records(job.needs)}
    entries = []
    for name, notebook, parameters, makes, needs in jobs:
        entry = {"name": name, "notebook": notebook, "parameters": parameters}
        entry |= {"makes": records(makes), "needs": records(needs)}
        first = awaited & set(entry["makes"])
        entries.append({**entry, "priority": AWAITED_PRIORITY if first else len(makes)})
    return {"wanted": records(runs), "jobs": entries}


def record_path(run: RunConfig, root: Path) -> str:
    """The record that says that a run is finished."""
    return str(run_directory(run, root) / "record.json")


def _name(notebook: str, group: Sequence[RunConfig]) -> str:
    first = group[0]
    digest = hashlib.sha256(" ".join(run.run_id for run in group).encode()).hexdigest()
    return f"{notebook}-{first.dataset}-a{first.attentions}-s{first.init_seed}-{digest[:6]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit status (2: the user's mistake, 1: a failure)."""
    options = parser().parse_args(arguments)
    return ended(lambda: run_once(options))


def run_once(options: Namespace) -> int:
    """Run the job, unless an earlier try has shown that the user has to mend something."""
    mistake = options.output.with_suffix(".mistake.txt")
    if options.attempt > 1 and mistake.exists():
        print(f"Not tried again:\n{mistake.read_text(encoding='utf-8')}", file=sys.stderr)
        return EXIT_MISTAKE
    mistake.unlink(missing_ok=True)
    try:
        run_job(options)
    except (KdlibError, ExecutionError) as error:
        print(error, file=sys.stderr)
        if not is_mistake(error):
            return EXIT_FAILED
        write_text(mistake, f"{error}\n")
        return EXIT_MISTAKE
    return 0


def run_job(options: Namespace) -> None:
    """Execute the notebook, on GPUs that no other job of this machine has.

    Raises:
        KdlibError: a parameter is wrong, or there are too few GPUs.
        ExecutionError: the notebook failed.
    """
    notebook, limit_s = find_notebook(options.notebook), 60 * options.minutes
    with own_gpus(options.gpus) as taken:
        if taken:
            print(f"{options.output.stem}: GPU {', '.join(taken)}")
        execute_notebook(notebook, options.output, options.parameters, limit_s)


def is_mistake(error: Exception) -> bool:
    """Whether the user made it, outside the notebook or in one of its cells.

    What a full disk or a dead machine did is none, nor an error of another name.
    """
    return type(error) is KdlibError or getattr(error.__cause__, "ename", "") == "KdlibError"


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    top = argparse.ArgumentParser(
        prog="python -m study.jobs",
        description="One job of a batch, as workflow/Snakefile calls it.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = top.add_argument
    add("notebook", help="a name such as 05_distill, or the path of a notebook")
    add("--output", type=Path, required=True, metavar="FILE", help="the executed notebook")
    add("--parameters", type=json.loads, default={}, metavar="JSON", help="of the notebook")
    add("--attempt", type=int, default=1, metavar="N", help="which try of the job this is")
    add("--minutes", type=float, default=1440, help="for the whole notebook")
    add("--gpus", type=int, default=0, metavar="N", help="to lock for this job alone")
    return top


if __name__ == "__main__":
    sys.exit(main())
