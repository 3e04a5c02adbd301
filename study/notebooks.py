"""Execute notebooks headlessly: checked parameters, private kernel sockets, a time limit.

papermill alone only warns of an unknown parameter, its time limit is one of each cell, and
kernels started side by side can pick the same TCP port. Here an unknown parameter is an error,
the limit is one of the whole notebook, and each kernel has sockets that no other can take.
"""

import ast
import atexit
import glob
import json
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
from jupyter_client.manager import AsyncKernelManager, KernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets import default

from kdlib.errors import KdlibError, checked_options, quoted, shown, unknown
from kdlib.files import write_text, writing
from study import of_clone

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
STARTUP_LIMIT_S = 180
LIMIT_S = 24 * 3600.0
QUIET = "--log-level=CRITICAL"  # a kernel that is stopped would log that as an error
LONGEST_SOCKET_PATH = 90  # the system's limit is 108 bytes on Linux, 104 on macOS


class ExecutionError(RuntimeError):
    """A notebook did not run to its end; the text names the cell and what it raised."""


def socket_directory() -> Path:
    """A new directory, readable by its owner alone, with a path short enough for sockets.

    It goes with its kernel, or at the latest with this process.
    """
    short = len(tempfile.gettempdir()) < LONGEST_SOCKET_PATH - 20
    directory = tempfile.mkdtemp(prefix="kdlib-", dir=None if short else "/tmp")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return Path(directory)


class PrivateSockets(KernelManager):
    """Keeps a kernel on IPC sockets in a directory of its own (TCP on Windows, without IPC)."""

    @default("transport")
    def _transport_default(self) -> str:
        return "tcp" if sys.platform == "win32" else "ipc"

    def _ip_default(self) -> str:
        if self.transport != "ipc":
            return super()._ip_default()
        return str(socket_directory() / "k")

    def cleanup_connection_file(self) -> None:
        """Remove the sockets' directory with the connection file."""
        super().cleanup_connection_file()
        if self.transport == "ipc":
            shutil.rmtree(Path(self.ip).parent, ignore_errors=True)


class PrivateKernelManager(PrivateSockets, AsyncKernelManager):
    """A private kernel for nbclient, which speaks to it asynchronously."""


def notebook_names() -> tuple[str, ...]:
    """Names of the project's notebooks, in reading order."""
    return tuple(sorted(path.stem for path in of_clone(NOTEBOOKS).glob("*.ipynb")))


def find_notebook(name: str) -> Path:
    """The notebook of a name such as ``05_distill``, or of a path.

    Raises:
        KdlibError: there is no such notebook; lists those that there are.
    """
    path = Path(name)
    if path.suffix == ".ipynb" and path.is_file():
        return path.resolve()
    if name not in notebook_names():
        raise unknown("notebook", name, notebook_names())
    return NOTEBOOKS / f"{name}.ipynb"


def parse_value(text: str) -> Any:
    """A parameter's value, read as YAML: ``3``, ``0.1``, ``dct``, ``[at, dct]``, ``null``.

    Numbers such as ``5e-4``, which YAML 1.1 takes for text, are numbers here.
    """
    if re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", text.strip()):
        return float(text)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise KdlibError(f"The value '{shown(text)}' is not YAML: {reason}") from error


def parameter_defaults(notebook: Path) -> dict[str, Any]:
    """Names and defaults of the cell tagged ``parameters``; of an expression ``None``."""
    found = papermill.inspect_notebook(str(notebook))
    return {name: _literal(parameter["default"]) for name, parameter in found.items()}


def described(notebook: Path) -> str:
    """The notebook's parameters and their defaults, a line each."""
    return "\n".join(f"{name} = {value!r}" for name, value in parameter_defaults(notebook).items())


def _literal(text: str) -> Any:
    with suppress(SyntaxError, ValueError):
        return ast.literal_eval(text)
    return None


def check_parameters(notebook: Path, parameters: Mapping[str, Any]) -> None:
    """Refuse parameters that the notebook does not have, and values of another type.

    Raises:
        KdlibError: names the parameter and lists the valid ones, or names the type.
    """
    defaults = parameter_defaults(notebook)
    checked_options(parameters, defaults, f"notebook {notebook.stem}")
    for name, value in parameters.items():
        if not (_is_like(value, defaults[name]) and _is_plain(value)):
            raise KdlibError(
                f"Parameter '{name}' of notebook {notebook.stem} is {quoted(value)}; "
                f"give a value like its default, {defaults[name]!r}."
            )


def _is_like(value: Any, default: Any) -> bool:
    """Whether a value can stand where ``default`` does; ``None`` stands for any."""
    kinds = {float: (int, float), tuple: (tuple, list), list: (tuple, list)}
    fits = isinstance(value, kinds.get(type(default), type(default)))
    alike = fits and isinstance(value, bool) == isinstance(default, bool)
    return alike or value is None or default is None


def _is_plain(value: Any) -> bool:
    """Whether a value is made of texts, finite numbers, lists and mappings: no dates, say."""
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def execute_notebook(
    notebook: Path,
    output: Path,
    parameters: Mapping[str, Any] | None = None,
    timeout_s: float | None = LIMIT_S,
) -> Path:
    """Execute a notebook in its own folder; write it, with its outputs, to ``output``.

    ``output`` appears only when every cell has run. If one fails, the notebook as far as it
    came is kept beside it, as ``<output>.failed.ipynb``.

    Args:
        notebook: what to execute.
        output: the executed notebook.
        parameters: values for names of the cell tagged ``parameters``.
        timeout_s: seconds for the whole notebook; ``None`` for no limit.

    Raises:
        KdlibError: an unknown parameter, or a value of another type.
        ExecutionError: a cell raised, the kernel died, or the time was over.
    """
    given = dict(parameters or {})
    check_parameters(notebook, given)
    output = output.absolute()
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        _remove_remains(output)
    temporary = output.with_name(f".{output.stem}.{os.getpid()}.ipynb")
    failed = output.with_name(f"{output.stem}.failed.ipynb")
    try:
        _execute(notebook, temporary, given, timeout_s)
    except BaseException as error:
        if temporary.exists():
            temporary.replace(failed)
        if isinstance(error, Exception):
            raise ExecutionError(_explain(notebook, failed, error, timeout_s)) from error
        raise
    temporary.replace(output)
    failed.unlink(missing_ok=True)
    return output


def _remove_remains(output: Path) -> None:
    """Remove what executions that were killed, and so are no processes any more, left of it."""
    for remains in output.parent.glob(f".{glob.escape(output.stem)}.*.ipynb"):
        process = remains.name.split(".")[-2]
        if process.isdigit() and not _is_alive(int(process)):
            remains.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # there is one, and it is somebody else's
        pass
    return True


def _execute(
    notebook: Path, output: Path, parameters: dict[str, Any], timeout_s: float | None
) -> None:
    executed = papermill.execute_notebook(
        str(notebook),
        str(output),
        parameters,
        kernel_name="python3",
        cwd=str(notebook.parent),
        progress_bar=False,
        start_timeout=STARTUP_LIMIT_S,
        extra_arguments=[QUIET],
        kernel_manager_class=PrivateKernelManager,
        timeout_func=_remaining(timeout_s),
    )
    # A kernel that leaves by itself can still look like one whose cells are done.
    for cell in executed.cells:
        if cell.cell_type == "code" and cell.source.strip() and cell.execution_count is None:
            raise DeadKernelError("The kernel left before this cell was done:\n" + cell.source)


def _remaining(timeout_s: float | None) -> Callable[[Any], float | None]:
    """What is left of the notebook's time, as the limit of its next cell."""
    end = None if timeout_s is None else time.monotonic() + timeout_s
    return lambda cell: None if end is None else max(0.1, end - time.monotonic())


def _explain(notebook: Path, failed: Path, error: Exception, timeout_s: float | None) -> str:
    kept = f"\nThe notebook as far as it came: {failed}" if failed.exists() else ""
    if isinstance(error, PapermillExecutionError):
        return f"{notebook.stem} failed in {_cell_report(error)}{kept}"
    if isinstance(error, CellTimeoutError):
        return f"{notebook.stem} was stopped: over its time limit of {timeout_s:g} s.{kept}"
    if isinstance(error, DeadKernelError):
        return f"{notebook.stem}: the kernel died (killed, or out of memory). {error}{kept}"
    return f"{notebook.stem} could not be executed: {type(error).__name__}: {error}{kept}"


def _cell_report(error: PapermillExecutionError) -> str:
    """The failing cell and its traceback; a user's mistake is told by its message alone."""
    if error.ename == "KdlibError":
        return f"cell {error.cell_index}: {error.evalue}"
    trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
    return f"cell {error.cell_index}:\n\n{error.source}\n\n{trace}"


def store_outputs(notebook: Path, timeout_s: float | None = LIMIT_S) -> Path:
    """Execute a notebook with its defaults and store the outputs in it, for readers.

    What papermill notes of times and paths is left out, so that only outputs change; so are
    progress bars (stderr), which are for whoever waits.

    Raises:
        ExecutionError: a cell failed; the notebook is left as it was.
    """
    with tempfile.TemporaryDirectory(prefix="kdlib-") as folder:
        executed = execute_notebook(notebook, Path(folder) / notebook.name, timeout_s=timeout_s)
        content = nbformat.read(executed, as_version=4)
    content.metadata.pop("papermill", None)
    content.metadata["language_info"] = {"name": "python"}
    for cell in content.cells:
        for noted in ("papermill", "execution"):
            cell.metadata.pop(noted, None)
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    write_text(notebook, nbformat.writes(content).rstrip("\n") + "\n")
    return notebook
