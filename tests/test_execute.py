"""A notebook runs to its end under its own parameters, or fails loudly and leaves no result."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from kdlib.errors import KdlibError
from study.notebooks import ExecutionError, execute_notebook, parse_value, store_outputs

PARAMETERS = (
    'epochs = 3  # epochs\nrate = 0.1  # peak\nmethods = ["at"]  # names\nroot = None  # folder'
)
PARALLEL = 16


def notebook(folder: Path, *cells: str, parameters: str = PARAMETERS) -> Path:
    """A small notebook: a cell of parameters, then ``cells``."""
    content = nbformat.v4.new_notebook()
    content.metadata["kernelspec"] = {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    }
    first = nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]})
    content.cells = [first, *(nbformat.v4.new_code_cell(cell) for cell in cells)]
    path = folder / "trivial.ipynb"
    nbformat.write(content, path)
    return path


def printed(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "".join(out.get("text", "") for cell in cells for out in cell.get("outputs", []))


def left_behind(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"trivial.ipynb"}


def test_parameters_reach_the_notebook(tmp_path):
    source = notebook(tmp_path, "print(epochs, rate, methods, root)")
    output = execute_notebook(source, tmp_path / "out.ipynb", {"epochs": 5, "methods": ["dct"]})
    assert printed(output) == "5 0.1 ['dct'] None\n"
    assert left_behind(tmp_path) == {"out.ipynb"}


def test_it_runs_in_the_notebook_s_own_folder(tmp_path):
    source = notebook(tmp_path, "import os; print(os.getcwd())")
    output = execute_notebook(source, tmp_path / "elsewhere" / "out.ipynb")
    assert Path(printed(output).strip()).resolve() == tmp_path.resolve()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"epoch": 5}, "Did you mean 'epochs'?.*epochs, methods, rate, root"),
        ({"epochs": "many"}, "epochs.*'many'.*like its default, 3"),
        ({"epochs": True}, "epochs"),
        ({"methods": "at"}, "methods"),
    ],
)
def test_a_wrong_parameter_starts_nothing(tmp_path, parameters, message):
    source = notebook(tmp_path, "open('started', 'w')")
    with pytest.raises(KdlibError, match=message):
        execute_notebook(source, tmp_path / "out.ipynb", parameters)
    assert left_behind(tmp_path) == set()


def test_a_whole_number_and_none_are_accepted_where_they_make_sense(tmp_path):
    source = notebook(tmp_path, "print(rate, epochs)")
    output = execute_notebook(source, tmp_path / "out.ipynb", {"rate": 1, "epochs": None})
    assert printed(output) == "1 None\n"


def test_a_failing_cell_is_shown_and_the_notebook_kept_as_failed(tmp_path):
    source = notebook(tmp_path, "wanted = 0", "1 / wanted", "print('never')")
    with pytest.raises(ExecutionError, match=r"(?s)cell 2.*1 / wanted.*ZeroDivisionError"):
        execute_notebook(source, tmp_path / "out.ipynb")
    assert left_behind(tmp_path) == {"out.failed.ipynb"}


def test_a_user_s_mistake_is_told_by_its_message_alone(tmp_path):
    source = notebook(tmp_path, "from kdlib.errors import KdlibError\nraise KdlibError('no data')")
    with pytest.raises(ExecutionError, match="no data") as caught:
        execute_notebook(source, tmp_path / "out.ipynb")
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize(
    "death",
    [
        "os.kill(os.getpid(), 9)",
        "os._exit(0)",
        "get_ipython().kernel.do_shutdown(False); os._exit(0)",
    ],
)
@pytest.mark.parametrize("after", [(), ("print('after')",)])
def test_a_dead_kernel_is_an_error(tmp_path, death, after):
    source = notebook(tmp_path, f"import os\n{death}", *after)
    with pytest.raises(ExecutionError, match="kernel"):
        execute_notebook(source, tmp_path / "out.ipynb")
    assert left_behind(tmp_path) == {"out.failed.ipynb"}


def test_the_time_limit_is_one_of_the_whole_notebook(tmp_path):
    sleep = "import time; time.sleep(1.5)"
    source = notebook(tmp_path, sleep, sleep, sleep, sleep)
    start = time.monotonic()
    with pytest.raises(ExecutionError, match="over its time limit of 3 s"):
        execute_notebook(source, tmp_path / "out.ipynb", timeout_s=3)
    assert time.monotonic() - start < 30
    assert left_behind(tmp_path) == {"out.failed.ipynb"}


def run_command(source: Path, output: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "kdlib", "run", str(source), "--output", str(output)]
    return subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_sixteen_executions_in_parallel_all_finish(tmp_path):
    source = notebook(tmp_path, "print('done', epochs)")
    outputs = [tmp_path / f"{number}.ipynb" for number in range(PARALLEL)]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["study.notebooks"])  # 16 imports would take most of the time
    running = [
        context.Process(target=execute_notebook, args=(source, output, {"epochs": number}))
        for number, output in enumerate(outputs)
    ]
    for process in running:
        process.start()
    for process in running:
        process.join(timeout=300)
    assert [process.exitcode for process in running] == [0] * PARALLEL
    assert [printed(output) for output in outputs] == [f"done {n}\n" for n in range(PARALLEL)]


def test_a_stopped_execution_takes_its_kernel_along(tmp_path):
    source = notebook(
        tmp_path, "import os\nopen('pid', 'w').write(str(os.getpid()))", "while True: pass"
    )
    process = run_command(source, tmp_path / "out.ipynb")
    pid = wait_for(tmp_path / "pid")
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) != 0
    assert gone(pid)
    assert "out.ipynb" not in left_behind(tmp_path)


def test_a_killed_execution_takes_its_kernel_along(tmp_path):
    source = notebook(
        tmp_path, "import os\nopen('pid', 'w').write(str(os.getpid()))", "while True: pass"
    )
    process = run_command(source, tmp_path / "out.ipynb")
    pid = wait_for(tmp_path / "pid")
    process.kill()
    assert gone(pid)
    assert "out.ipynb" not in left_behind(tmp_path)


def wait_for(path: Path) -> int:
    end = time.monotonic() + 180
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < end, f"{path.name} did not appear"
        time.sleep(0.1)
    return int(path.read_text())


def gone(pid: int) -> bool:
    """Whether the process ends within a quarter of a minute."""
    for _ in range(150):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    return False


def test_values_are_read_as_yaml():
    texts = ("3", "0.5", "5e-4", "[at, dct]", "null", "true", "dct+kd", "{weight: 2}")
    values = [3, 0.5, 5e-4, ["at", "dct"], None, True, "dct+kd", {"weight": 2}]
    assert [parse_value(text) for text in texts] == values


def test_stored_outputs_hold_no_times_and_no_paths(tmp_path):
    source = notebook(tmp_path, "import sys; print(epochs); print('50 %', file=sys.stderr)")
    store_outputs(source)
    assert printed(source) == "3\n", "progress bars are not stored"
    content = nbformat.read(source, as_version=4)
    assert len(content.cells) == 2
    assert "papermill" not in source.read_text()
    assert str(tmp_path) not in source.read_text()
    assert content.metadata["language_info"] == {"name": "python"}
