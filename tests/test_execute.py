"""A notebook runs to its end under its own parameters, or fails loudly and leaves no result."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from kdlib.errors import EXIT_FAILED, EXIT_MISTAKE, KdlibError
from study.cli import main
from study.jobs import VISIBLE, is_mistake
from study.notebooks import ExecutionError, execute_notebook, parse_value, store_outputs

PARAMETERS = "epochs = 3  # epochs\nrate = 0.1\nmethods = ['at']\nroot = None"
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
PARALLEL = 16


def notebook(folder: Path, *cells: str) -> Path:
    """A small notebook: a cell of parameters, then ``cells``."""
    content = nbformat.v4.new_notebook(metadata={"kernelspec": KERNEL})
    first = nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})
    content.cells = [first, *(nbformat.v4.new_code_cell(cell) for cell in cells)]
    nbformat.write(content, folder / "trivial.ipynb")
    return folder / "trivial.ipynb"


def printed(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "".join(out.get("text", "") for cell in cells for out in cell.get("outputs", []))


def left_behind(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"trivial.ipynb"}


def test_parameters_reach_the_notebook_which_runs_in_its_own_folder(tmp_path):
    source = notebook(tmp_path, "import os; print(epochs, rate, methods, root, os.getcwd())")
    given = {"epochs": None, "rate": 1, "methods": ["dct"]}  # a whole number, and None, may be
    output = execute_notebook(source, tmp_path / "elsewhere" / "out.ipynb", given)
    assert printed(output) == f"None 1 ['dct'] None {tmp_path.resolve()}\n"
    assert left_behind(tmp_path) == {"elsewhere"} and left_behind(output.parent) == {"out.ipynb"}


@pytest.mark.parametrize(("parameters", "message"), [
    ({"epoch": 5}, "Did you mean 'epochs'?.*epochs, methods, rate, root"),
    ({"epochs": "many"}, "epochs.*'many'.*like its default, 3"),
    ({"epochs": True}, "epochs"),
    ({"methods": "at"}, "methods"),
    ({"root": float("nan")}, "root"),
])  # fmt: skip
def test_a_wrong_parameter_starts_nothing(tmp_path, parameters, message):
    source = notebook(tmp_path, "open('started', 'w')")
    with pytest.raises(KdlibError, match=message):
        execute_notebook(source, tmp_path / "out.ipynb", parameters)
    assert left_behind(tmp_path) == set()


SLEEP = "import time; time.sleep(1.5)"


@pytest.mark.parametrize(("cells", "says"), [
    (["wanted = 0", "1 / wanted", "print(1)"], r"(?s)cell 2.*1 / wanted.*ZeroDivisionError"),
    (["from kdlib.errors import KdlibError\nraise KdlibError('no data')"], "cell 1: no data$"),
    (["import os; os.kill(os.getpid(), 9)"], "kernel"),
    (["import os; os._exit(0)", "print('after')"], "kernel"),
    (["get_ipython().kernel.do_shutdown(False); import os; os._exit(0)"], "kernel"),
    ([SLEEP, SLEEP, SLEEP, SLEEP], "over its time limit of 4 s"),  # the whole notebook's
])  # fmt: skip
def test_what_fails_is_told_and_the_notebook_kept_as_failed(tmp_path, cells, says):
    source, start = notebook(tmp_path, *cells), time.monotonic()
    with pytest.raises(ExecutionError) as caught:
        execute_notebook(source, tmp_path / "out.ipynb", timeout_s=4 if SLEEP in cells else 300)
    text = str(caught.value).partition("\nThe notebook as far as it came: ")[0]
    assert re.search(says, text), text
    assert ("Traceback" in text) == ("ZeroDivisionError" in text)
    assert time.monotonic() - start < 60 and left_behind(tmp_path) == {"out.failed.ipynb"}


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


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_an_execution_that_is_stopped_or_killed_takes_its_kernel_along(tmp_path, sent):
    cell = "import os\nopen('pid', 'w').write(str(os.getpid()))"
    source, output = notebook(tmp_path, cell, "while True: pass"), tmp_path / "out.ipynb"
    command = [sys.executable, "-m", "kdlib", "run", str(source), "--output", str(output)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    told, end = tmp_path / "pid", time.monotonic() + 180
    while not (told.exists() and told.read_text()):
        assert time.monotonic() < end
        time.sleep(0.1)
    process.send_signal(sent)
    assert process.wait(timeout=60) == (128 + sent if sent == signal.SIGTERM else -sent)
    assert gone(int(told.read_text())) and not output.exists()


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


COUNTED = "import pathlib\ntries = pathlib.Path(root) / 'tries'\n"
COUNTED += "tries.write_text(tries.read_text() + '|' if tries.exists() else '|')\n"
ENDINGS = {
    "well": "", "fails": "raise RuntimeError('the machine died')",
    "mistaken": "from kdlib.errors import KdlibError\nraise KdlibError('no such method')",
}  # fmt: skip


@pytest.fixture
def job(tmp_path):
    """Run a job of a batch that ends as told; gives its status, and the number of its tries."""

    def run(ending: str, attempt: int, gpus: int = 0, root: str = "root") -> tuple[int, int]:
        source, tries = notebook(tmp_path, COUNTED + ENDINGS[ending]), tmp_path / "tries"
        given = ["--parameters", json.dumps({root: str(tmp_path)}), "--gpus", str(gpus)]
        output = ["--output", str(tmp_path / "out" / "job.ipynb"), "--attempt", str(attempt)]
        status = main(["run", str(source), *output, *given])
        return status, len(tries.read_text()) if tries.exists() else 0

    return run


def test_a_failure_is_tried_again_and_leaves_nothing_when_it_ends_well(job, tmp_path):
    assert job("fails", 1) == (EXIT_FAILED, 1)
    assert job("well", 2) == (0, 2)
    assert left_behind(tmp_path / "out") == {"job.ipynb"}


def test_a_mistake_is_made_once_a_batch_and_what_a_full_disk_did_is_none(job, monkeypatch, capsys):
    assert job("mistaken", 1) == job("mistaken", 2) == (EXIT_MISTAKE, 1)
    assert "no such method" in capsys.readouterr().err.split("Not tried again:")[1]
    monkeypatch.setenv(VISIBLE, "0")
    assert job("well", 1, root="rot") == job("well", 1, gpus=2) == (EXIT_MISTAKE, 1)
    told = capsys.readouterr().err
    assert "Did you mean 'root'" in told and "gpus_per_job=1" in told
    assert job("well", 1) == (0, 2)
    assert not is_mistake(type("FullDiskError", (KdlibError,), {})("no room"))


def test_values_are_read_as_yaml():
    texts = ("3", "0.5", "5e-4", "[at, dct]", "null", "true", "dct+kd", "{weight: 2}")
    values = [3, 0.5, 5e-4, ["at", "dct"], None, True, "dct+kd", {"weight": 2}]
    assert [parse_value(text) for text in texts] == values


def test_stored_outputs_hold_no_times_no_paths_and_no_progress_bars(tmp_path):
    source = notebook(tmp_path, "import sys; print(epochs); print('50 %', file=sys.stderr)")
    store_outputs(source)
    content = nbformat.read(source, as_version=4)
    assert printed(source) == "3\n" and len(content.cells) == 2
    assert "papermill" not in source.read_text() and str(tmp_path) not in source.read_text()
    assert content.metadata["language_info"] == {"name": "python"}
