"""The jobs of a batch: one execution of a notebook each, and the records that it leaves.

Only unfinished runs become jobs. A run whose record exists is never touched again: the batch
takes its record as given, whoever made it and whenever.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from kdlib.errors import EXIT_FAILED, EXIT_MISTAKE, KdlibError
from kdlib.files import write_text
from kdlib.runs import RunConfig, each_once, earlier, is_finished, needed_by, run_directory
from study.notebooks import ExecutionError, execute_notebook, find_notebook, parameter_defaults
from study.profiles import lockstep_groups

VISIBLE = "CUDA_VISIBLE_DEVICES"
POLL_S = 1.0
TEACHER_NOTEBOOK, STUDENTS_NOTEBOOK = "02_teacher", "05_distill"
# Fields that only the students' notebook has, and those that it takes for each student.
OF_STUDENTS_NOTEBOOK = {"optimiser", "task", "gradient_clip", "crop_size"}
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

    To be entered before CUDA starts. Lock files are in ``folder``, by default one for this user on
    this machine. While there are too few GPUs none is held, so that no two jobs wait so.
    """
    if not count:
        yield []
        return
    if len(names := gpu_names()) < count:
        raise KdlibError(
            f"A job asks for {count} GPUs of its own, but there are {len(names)} here. Give "
            f"--config gpus_per_job={len(names)}, or name those to use in {VISIBLE}."
        )
    folder = folder or Path(tempfile.gettempdir()) / f"kdlib-gpus-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        taken: list[str] = []
        with ExitStack() as locks:
            for name in names:
                with suppress(Timeout):
                    locks.enter_context(FileLock(folder / f"{name}.lock", blocking=False))
                    taken.append(name)
                if len(taken) == count:
                    os.environ[VISIBLE] = ",".join(taken)
                    yield taken
                    return
        time.sleep(POLL_S)


class Job(NamedTuple):
    """One execution of a notebook."""

    name: str  # unique and the same in every process that plans the same runs
    notebook: str
    parameters: dict[str, Any]  # of the notebook, without folders
    runs: tuple[RunConfig, ...]  # whose records it leaves
    needs: tuple[RunConfig, ...] = ()  # whose records must exist first: teachers, starting points


def plan(runs: Sequence[RunConfig], root: Path, largest: int) -> list[Job]:
    """Jobs for the runs that have no record under ``root``, and for all that they need first.

    At most ``largest`` students are in one lock-step job: with more of them the teacher's forward
    is shared by more, with fewer the jobs spread better over cores.
    """
    waiting = [run for run in runs if not is_finished(run, root)]
    first = [run for run in earlier(waiting) if not is_finished(run, root)]
    untaught = [run for run in first if run.method == "student"]
    teachers = {run.run_id for run in untaught}
    wanted = each_once([*first, *waiting])
    groups = lockstep_groups(run for run in wanted if run.run_id not in teachers)
    parts = [(group, -(-len(group) // largest)) for group in groups]  # of nearly equal size
    taught = [group[place::count] for group, count in parts for place in range(count)]
    return [*map(plain_job, untaught), *map(students_job, taught)]


def plain_job(run: RunConfig) -> Job:
    """The job of a teacher: in its own notebook where that has all that the run needs."""
    values, usual = run.to_dict(), RunConfig().to_dict()
    if any(values[name] != usual[name] for name in OF_STUDENTS_NOTEBOOK):
        return students_job([run])
    known = parameter_defaults(find_notebook(TEACHER_NOTEBOOK))
    parameters = {name: value for name, value in values.items() if name in known}
    parameters |= {"teacher": run.student, "teacher_epochs": run.epochs}
    parameters |= {"teacher_seed": run.init_seed, "teacher_start": run.start}
    return Job(_name(TEACHER_NOTEBOOK, [run]), TEACHER_NOTEBOOK, parameters, (run,))


def students_job(group: Sequence[RunConfig]) -> Job:
    """The job of a lock-step group; ``options`` has of each student the fields that differ."""
    first, *others = values = [run.to_dict() for run in group]
    usual = RunConfig().to_dict()
    differing = {name for name in first if any(one[name] != first[name] for one in others)}
    own = sorted((differing | OF_EACH_STUDENT) - {"method"})
    options = [
        {name: one[name] for name in own if name in differing or one[name] != usual[name]}
        for one in values
    ]
    shared = {name: value for name, value in first.items() if name not in (*own, "method")}
    parameters = {"methods": [run.method for run in group], "options": options, **shared}
    needs = tuple(needed_by(group))
    return Job(_name(STUDENTS_NOTEBOOK, group), STUDENTS_NOTEBOOK, parameters, tuple(group), needs)


def as_plan(runs: Sequence[RunConfig], root: Path, largest: int) -> dict[str, Any]:
    """What a batch is to do, JSON-ready, so that it is planned once and read by all its processes.

    ``wanted``, the records of the runs, and ``jobs`` (of :func:`plan`): of each its ``name``,
    ``notebook``, ``parameters``, the records in ``makes`` and ``needs``, and its ``priority``:
    first what others wait for, then the longest, so that no core idles at the end.
    """

    def records(some: Iterable[RunConfig]) -> list[str]:
        return [record_path(run, root) for run in some]

    jobs = plan(runs, root, largest)
    awaited = {run.run_id for job in jobs for run in job.needs}
    entries = [
        {
            "name": job.name, "notebook": job.notebook, "parameters": job.parameters,
            "makes": records(job.runs), "needs": records(job.needs),
            "priority": AWAITED_PRIORITY if awaited & {run.run_id for run in job.runs}
            else len(job.runs),
        }
        for job in jobs
    ]  # fmt: skip
    return {"wanted": records(runs), "jobs": entries}


def record_path(run: RunConfig, root: Path) -> str:
    """The record that says that a run is finished."""
    return str(run_directory(run, root) / "record.json")


def _name(notebook: str, group: Sequence[RunConfig]) -> str:
    first = group[0]
    digest = hashlib.sha256(" ".join(run.run_id for run in group).encode()).hexdigest()
    return f"{notebook}-{first.dataset}-a{first.attentions}-s{first.init_seed}-{digest[:6]}"


def run_once(
    notebook: Path, output: Path, given: Mapping[str, Any], attempt: int, limit_s: float, gpus: int
) -> int:
    """Execute a job's notebook, unless an earlier try has shown a mistake; the exit status."""
    mistake = output.with_suffix(".mistake.txt")
    if attempt > 1 and mistake.exists():
        print(f"Not tried again:\n{mistake.read_text(encoding='utf-8')}", file=sys.stderr)
        return EXIT_MISTAKE
    mistake.unlink(missing_ok=True)
    try:
        with own_gpus(gpus) as taken:
            if taken:
                print(f"{output.stem}: GPU {', '.join(taken)}")
            execute_notebook(notebook, output, given, limit_s)
    except (KdlibError, ExecutionError) as error:
        print(error, file=sys.stderr)
        if not is_mistake(error):
            return EXIT_FAILED
        write_text(mistake, f"{error}\n")
        return EXIT_MISTAKE
    return 0


def is_mistake(error: Exception) -> bool:
    """Whether the user made it, here or in a cell; what a full disk did is none."""
    return type(error) is KdlibError or getattr(error.__cause__, "ename", "") == "KdlibError"
