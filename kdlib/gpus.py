"""One run a GPU: jobs side by side on a machine, each on graphics processors of its own.

A job holds a lock file for each of its GPUs, which the system takes back when the job's process
ends, however it ends. On a cluster the scheduler does this instead.
"""

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from kdlib.errors import KdlibError

VISIBLE = "CUDA_VISIBLE_DEVICES"
POLL_S = 1.0


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
    names = gpu_names() if count else []
    if len(names) < count:
        raise KdlibError(
            f"A job asks for {count} GPUs of its own, but there are {len(names)} here. Give "
            f"--config gpus_per_job={len(names)}, or name those to use in {VISIBLE}."
        )
    with ExitStack() as locks:
        taken = _take(names, count, folder or _lock_folder(), locks)
        if count:
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
    """Try to lock a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        locks.enter_context(FileLock(path, blocking=False))
    except Timeout:
        return False
    return True


def _lock_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"kdlib-gpus-{os.getuid()}"
