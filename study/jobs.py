"""The jobs of a batch: one execution of a notebook each, and the records that it leaves.

Only unfinished runs become jobs. A run whose record exists is never touched again: the batch
takes its record as given, whoever made it and whenever.
"""

import hashlib
import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from filelock import FileLock, Timeout

from kdlib.errors import EXIT_FAILED, EXIT_MISTAKE, KdlibError
from kdlib.files import write_text
from kdlib.runs import RunConfig, earlier, is_finished, needed_by, run_directory
from study.profiles import lockstep_groups

VISIBLE = "CUDA_VISIBLE_DEVICES"
POLL_S = 1.0
NOTEBOOK = "batch/train"
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
    """One execution of the batch's notebook: runs in lock-step, or a teacher."""

    runs: tuple[RunConfig, ...]  # whose records it leaves

    @property
    def name(self) -> str:
        """Unique, and the same in every process that plans the same runs."""
        first = self.runs[0]
        digest = hashlib.sha256(" ".join(run.run_id for run in self.runs).encode()).hexdigest()
        return f"train-{first.dataset}-a{first.attentions}-s{first.init_seed}-{digest[:6]}"

    @property
    def parameters(self) -> dict[str, Any]:
        """What the notebook is given, beside folders: of each run the fields that say it."""
        usual = RunConfig().to_dict()
        return {
            "runs": [
                {name: one for name, one in run.to_dict().items() if repr(one) != repr(usual[name])}
                for run in self.runs
            ]
        }

    def to_dict(self, root: Path, awaited: Container[str]) -> dict[str, Any]:
        """As a plan has it: first what others wait for, then the longest."""
        before = any(run.run_id in awaited for run in self.runs)
        return {
            "name": self.name,
            "parameters": self.parameters,
            "makes": [record_path(run, root) for run in self.runs],
            "needs": [record_path(run, root) for run in needed_by(self.runs)],
            "priority": AWAITED_PRIORITY if before else len(self.runs),
        }


def plan(runs: Sequence[RunConfig], root: Path, largest: int) -> list[Job]:
    """Jobs for the runs that have no record under ``root``, and for all that they need first.

    At most ``largest`` students are in one lock-step job: with more of them the teacher's forward
    is shared by more, with fewer the jobs spread better over cores.
    """
    waiting = [run for run in runs if not is_finished(run, root)]
    first = [run for run in earlier(waiting) if not is_finished(run, root)]
    teachers = [(run,) for run in first if run.method == "student"]  # the sooner the fewer in a job
    others = {run.run_id: run for run in (*first, *waiting)}
    for (teacher,) in teachers:
        del others[teacher.run_id]
    groups = lockstep_groups(others.values())
    parts = [(group, -(-len(group) // largest)) for group in groups]  # of nearly equal size
    taught = [tuple(group[place::count]) for group, count in parts for place in range(count)]
    return [Job(runs) for runs in (*teachers, *taught)]


def as_plan(runs: Sequence[RunConfig], root: Path, largest: int) -> dict[str, Any]:
    """What a batch is to do, JSON-ready, so that it is planned once and read by all its processes.

    ``wanted``, the records of the runs, and ``jobs`` (of :func:`plan`): of each its ``name``,
    ``parameters``, the records that it ``makes`` and ``needs``, and its ``priority``.
    """
    jobs = plan(runs, root, largest)
    awaited = {run.run_id for job in jobs for run in needed_by(job.runs)}
    wanted = [record_path(run, root) for run in runs]
    return {"wanted": wanted, "jobs": [job.to_dict(root, awaited) for job in jobs]}


def notebook_command(run: RunConfig) -> str:
    """The command that trains one run, and before it whatever it needs."""
    given = yaml.safe_dump(Job((run,)).parameters["runs"], default_flow_style=True, width=10_000)
    return shlex.join(["python", "-m", "kdlib", "run", NOTEBOOK, "-p", "runs", given.strip()])


def record_path(run: RunConfig, root: Path) -> str:
    """The record that says that a run is finished."""
    return str(run_directory(run, root) / "record.json")


def run_once(
    notebook: Path, output: Path, given: Mapping[str, Any], attempt: int, limit_s: float, gpus: int
) -> int:
    """Execute a job's notebook, unless an earlier try has shown a mistake; the exit status."""
    from study.notebooks import ExecutionError, execute_notebook

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
