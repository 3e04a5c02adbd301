"""Execute notebooks headlessly: checked parameters, private kernel sockets, a time limit.

papermill alone only warns of an unknown parameter, its time limit is one of each cell, and
kernels started side by side can pick the same TCP port. Here an unknown parameter is an error,
the limit is one of the whole notebook, and each kernel has sockets that no other can take.
"""

import atexit
import codecs
import json
import os
import platform
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import nbformat
import papermill
import yaml
from jupyter_client.manager import AsyncKernelManager, KernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from papermill.exceptions import PapermillExecutionError
from traitlets import default

from kdlib.errors import NUMBER, KdlibError, check_known, circumstances, shown
from kdlib.files import PARTIAL, write_text, writing
from study import NOTEBOOKS, of_clone
from study.parameters import assigned, check_given

DAY_S = 24 * 3600
NONE: Mapping[str, Any] = {}  # parameters
BYTE_ORDER_MARKS = (codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
LONGEST_SOCKET_PATH = 90  # the system's limit is 108 bytes on Linux, 104 on macOS


class ExecutionError(RuntimeError):
    """A notebook did not run to its end; the text names the cell and what it raised."""


class PrivateSockets(KernelManager):
    """Keeps a kernel on IPC sockets in a directory of its own, gone at exit (Windows: TCP)."""

    @default("transport")
    def _transport_default(self) -> str:
        return "tcp" if sys.platform == "win32" else "ipc"

    def _ip_default(self) -> str:
        if self.transport != "ipc":
            return super()._ip_default()
        short = len(tempfile.gettempdir()) < LONGEST_SOCKET_PATH - 20
        directory = tempfile.mkdtemp(prefix="kdlib-", dir=None if short else "/tmp")
        atexit.register(shutil.rmtree, directory, ignore_errors=True)
        return str(Path(directory) / "k")


class PrivateKernelManager(PrivateSockets, AsyncKernelManager):
    """A private kernel for nbclient, which speaks to it asynchronously."""


def notebook_names() -> tuple[str, ...]:
    """Names of the project's notebooks: the course in reading order, then the batch's."""
    home = of_clone(NOTEBOOKS)
    found = (*sorted(home.glob("[!.]*.ipynb")), *sorted(home.glob("batch/[!.]*.ipynb")))
    return tuple(path.relative_to(home).with_suffix("").as_posix() for path in found)


def find_notebook(name: str) -> Path:
    """The notebook of a name such as ``05_distill`` or ``batch/train``, or of a path."""
    path = Path(name)
    if path.suffix == ".ipynb":
        if path.is_file():
            return path.resolve()
        what = "is a folder" if path.is_dir() else "is not there"
        raise KdlibError(
            f"{shown(name[-80:])} {what}. Give a notebook's file, or one of these names: "
            f"{', '.join(notebook_names())}."
        )
    check_known("notebook", name, notebook_names())
    return NOTEBOOKS / f"{name}.ipynb"


def read_notebook(path: Path) -> nbformat.NotebookNode:
    """A notebook that can be executed; a KdlibError says what is wrong with the file."""
    try:
        content = path.read_bytes()
        if fault := _fault(content):
            raise KdlibError(f"{path} {fault}.")
        notebook = nbformat.reads(content.decode(), as_version=4)
        nbformat.validate(notebook)
    except OSError as error:
        raise KdlibError(f"{path} cannot be read ({error.strerror or error}).") from error
    except (nbformat.ValidationError, AttributeError, KeyError, TypeError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise KdlibError(f"{path} is no valid notebook: {shown(first)}. Get it again.") from error
    kernel = notebook.metadata.get("kernelspec")
    if not kernel:
        raise KdlibError(
            f"{path} does not say which kernel it is for (its metadata has no kernelspec). Choose "
            "Python 3 in JupyterLab, and save it."
        )
    if kernel.get("language", "python") != "python":
        raise KdlibError(f"{path} is for {shown(kernel['language'])}; only Python is executed.")
    return notebook


def _fault(content: bytes) -> str:
    """What keeps the content of a file from being read as a notebook; nothing if it can be."""
    if not content.strip():
        return "is empty. Get it again, such as by git checkout"
    if content.startswith(BYTE_ORDER_MARKS):
        return "begins with a byte order mark. Save it as UTF-8 without one"
    if conflict := re.search(rb"(?m)^(<{7}|={7}|>{7})", content):
        line = content.count(b"\n", 0, conflict.start()) + 1
        return f"holds a merge conflict (line {line}). Resolve it"
    try:
        notebook = json.loads(content.decode())
    except UnicodeDecodeError as error:
        return f"is not UTF-8 ({error.reason}, byte {error.start}). Save it as UTF-8"
    except (ValueError, RecursionError) as error:
        return f"is not JSON ({error}). Get it again, such as by git checkout"
    version = notebook.get("nbformat") if isinstance(notebook, dict) else None
    if not isinstance(version, int):
        return "is JSON, but no notebook"
    if version != 4:
        convert = "Convert it: jupyter nbconvert --to notebook --inplace FILE"
        return f"is a notebook of format {version}, and 4 is read. {convert}"
    return ""


def parse_value(text: str) -> Any:
    """A parameter's value, read as YAML; ``5e-4``, which YAML 1.1 takes for text, is a number."""
    if NUMBER.fullmatch(text.strip()):
        return float(text)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise KdlibError(f"The value '{shown(text)}' is not YAML: {reason}") from error


def parameter_defaults(notebook: Path) -> dict[str, Any]:
    """Names and defaults of the cell tagged ``parameters``; of an expression ``None``."""
    for cell in read_notebook(notebook).cells:
        if "parameters" in cell.metadata.get("tags", []):
            try:
                return assigned(cell.source)
            except SyntaxError as error:
                told = f"{notebook}: its cell of parameters is not Python ({error})"
                raise KdlibError(f"{told}. Correct it.") from error
    return {}


def check_parameters(notebook: Path, parameters: Mapping[str, Any]) -> None:
    """Refuse parameters that the notebook does not have, and values of another type."""
    defaults = parameter_defaults(notebook)
    if parameters and not defaults:
        raise KdlibError(
            f"{notebook} takes no parameters: none of its cells has the tag 'parameters'."
        )
    check_given(parameters, defaults, notebook.stem)


def execute_notebook(
    notebook: Path, output: Path, parameters: Mapping[str, Any] = NONE, timeout_s: float = DAY_S
) -> Path:
    """Execute a notebook in its own folder; write it, with its outputs, to ``output``.

    ``output`` appears only when every cell has run. If one fails, the kernel dies or the time of
    the whole notebook is over (:class:`ExecutionError`), the notebook as far as it came is kept
    beside it, as ``<output>.failed.ipynb``.
    """
    check_parameters(notebook, parameters)
    output = output.absolute()
    failed = output.with_name(f"{output.stem}.failed.ipynb")
    with _beside(output) as executed:
        try:
            _execute(notebook, executed, dict(parameters), timeout_s)
        except Exception as error:
            if executed.exists():
                executed.replace(failed)
            raise ExecutionError(_explain(notebook, failed, error, timeout_s)) from error
        executed.replace(output)
    failed.unlink(missing_ok=True)
    return output


@contextmanager
def _beside(output: Path) -> Iterator[Path]:
    """A place for what becomes ``output``, in a folder beside it that is gone afterwards.

    What executions that were killed on this machine left of theirs goes first.
    """
    here = "@" + platform.node().replace(".", "-")  # a folder can be a cluster's
    folder = output.with_name(f".{output.stem}.{os.getpid()}{here}{PARTIAL}")
    if output.is_dir():
        raise KdlibError(f"{output} is a folder; name the notebook that is to be written.")
    with writing(output):
        folder.mkdir(exist_ok=True)
    try:
        for remains in output.parent.glob(f".*.*{here}{PARTIAL}"):
            with suppress(ValueError, OverflowError, PermissionError):  # no process's, or not ours
                try:
                    os.kill(int(remains.name.rpartition(here)[0].rpartition(".")[2]), 0)
                except ProcessLookupError:
                    shutil.rmtree(remains, ignore_errors=True)
        yield folder / output.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _execute(notebook: Path, output: Path, parameters: dict[str, Any], timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    executed = papermill.execute_notebook(
        str(notebook), str(output), parameters, cwd=str(notebook.parent), progress_bar=False,
        kernel_name="python3", kernel_manager_class=PrivateKernelManager, start_timeout=180,
        extra_arguments=["--log-level=CRITICAL"],  # it would log that it is stopped
        timeout_func=lambda cell: max(0.1, end - time.monotonic()),  # what is left for the next
    )  # fmt: skip
    # A kernel that leaves by itself can still look like one whose cells are done.
    for cell in executed.cells:
        if cell.cell_type == "code" and cell.source.strip() and cell.execution_count is None:
            raise DeadKernelError("The kernel left before this cell was done:\n" + cell.source)


def _explain(notebook: Path, failed: Path, error: Exception, timeout_s: float) -> str:
    kept = f"\nThe notebook as far as it came: {failed}" if failed.exists() else ""
    match error:
        case PapermillExecutionError(ename="KdlibError"):  # a user's mistake
            what = f" failed in cell {error.cell_index}: {error.evalue}"
        case PapermillExecutionError():
            trace = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(error.traceback))
            outside = circumstances(error.evalue)
            what = f" failed in cell {error.cell_index}:\n\n{error.source}\n\n{trace}{outside}"
        case CellTimeoutError():
            what = f" was stopped: over its time limit of {timeout_s:g} s."
        case DeadKernelError():
            outside = circumstances("died")
            what = f": the kernel died (killed, or out of memory).{outside} {error}"
        case _:
            outside = circumstances(str(error))
            what = f" could not be executed: {type(error).__name__}: {error}{outside}"
    return f"{notebook.stem}{what}{kept}"


def store_outputs(notebook: Path, timeout_s: float = DAY_S) -> Path:
    """Execute a notebook with its defaults and, if no cell fails, store the outputs in it.

    What papermill notes of times and paths is left out, so that only outputs change; so are
    progress bars (stderr), and what cells tagged ``widget`` show: it needs a kernel.
    """
    with tempfile.TemporaryDirectory(prefix="kdlib-") as folder:
        executed = execute_notebook(notebook, Path(folder) / notebook.name, timeout_s=timeout_s)
        content = nbformat.read(executed, as_version=4)
    content.metadata.pop("papermill", None)
    content.metadata.pop("widgets", None)
    content.metadata["language_info"] = {"name": "python"}
    for cell in content.cells:
        for noted in ("papermill", "execution"):
            cell.metadata.pop(noted, None)
        if cell.cell_type == "code":
            outputs = [] if "widget" in cell.metadata.get("tags", []) else cell.outputs
            cell.outputs = [out for out in outputs if out.get("name") != "stderr"]
    write_text(notebook, nbformat.writes(content).rstrip("\n") + "\n")
    return notebook
