"""A notebook runs to its end under its own parameters, or fails loudly and leaves no result."""

import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import nbformat
import psutil
import pytest
from processes import ROOT

from kdlib.errors import EXIT_FAILED, EXIT_MISTAKE, KdlibError
from kdlib.files import UnwritableError
from study import NOTEBOOKS
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
    ({"epochs": "many"}, "epochs.*'many'; it should be a valid integer or None"),
    ({"epochs": True}, "epochs"),
    ({"methods": "at"}, "methods"),
    ({"root": float("nan")}, "root"),
])  # fmt: skip
def test_a_wrong_parameter_starts_nothing(tmp_path, parameters, message):
    source = notebook(tmp_path, "open('started', 'w')")
    with pytest.raises(KdlibError, match=message):
        execute_notebook(source, tmp_path / "out.ipynb", parameters)
    assert left_behind(tmp_path) == set()


GOOD = nbformat.writes(nbformat.v4.new_notebook(metadata={"kernelspec": KERNEL}))
CONFLICT = '\n<<<<<<< HEAD\n "cells": [],\n=======\n "cells": [ ],\n>>>>>>> theirs\n'
FILES = {
    "does not say which kernel": (GOOD.replace("kernelspec", "other"), '{"cells": [], "metadata": {'
        '"language_info": {"name": "python"}}, "nbformat": 4, "nbformat_minor": 5}'),
    "is empty": ("", " \n"),
    "holds a merge conflict .line 2": (CONFLICT, "{" + CONFLICT + GOOD[1:]),
    "byte order mark": ("\ufeff" + GOOD, b"\xff\xfe{\0}\0"),
    "is not UTF-8": (GOOD.replace("Python 3", "Pyth\xf6n").encode("latin1"),),
    "is for R; only Python": (GOOD.replace('"python"', '"R"'),),
    "format 3": (GOOD.replace('"nbformat": 4', '"nbformat": 3'),),
    "is JSON, but no notebook": ("[]", "{}", "null", '{"nbformat": "4"}'),
    "is no valid notebook": (GOOD.replace('"cells": []', '"cells": 3'),
        GOOD.replace('"cells": []', '"cells": [{"cell_type": "code"}]'),
        GOOD.replace('"cells": [],', "")),
    "is not JSON": (GOOD[:40], "[" * 100_000, b"\0"), "is a folder": (None,), "is not there": (0,),
    "cell of parameters is not Python": (GOOD.replace('"cells": []', '"cells": [{"cell_type": '
        '"code", "execution_count": null, "id": "a", "metadata": {"tags": ["parameters"]}, '
        '"outputs": [], "source": "epochs ="}]'),),
    "takes no parameters": (GOOD,),
}  # fmt: skip


@pytest.mark.parametrize("says", FILES)
def test_what_is_wrong_with_a_notebook_s_file_is_told(says, tmp_path, capsys):
    for content in FILES[says]:
        path = tmp_path / "mine.ipynb"
        if content is None:
            path.mkdir()
        elif content != 0:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        assert main(["run", str(path), "-p", "epochs", "3"]) == EXIT_MISTAKE
        told = capsys.readouterr().err
        assert re.search(f"mine.ipynb.* {says}|mine.ipynb {says}", told), told
        assert "fault of kdlib" not in told and len(told.splitlines()) == 1


TELLING = "import os\nprint([runs_root, os.getcwd(), epochs])"


@pytest.mark.parametrize(("whole", "words", "says"), [
    (True, "-p method dct -p seed 3", "Unknown option of notebook 05_distill 'method'. Did you"),
    (False, "-p epochs many", "Option 'epochs' of notebook 05_distill is 'many'; it should be"),
    (False, "-p fields 3", "Unknown option of notebook 05_distill 'fields'"),  # which it imports
    (False, "-p epochs 7", "['../runs', '{home}', 7]"),
    (False, "-p runs_root mine", "['{caller}/mine', '{home}', 4]"),
])  # fmt: skip
def test_papermill_alone_is_refused_what_the_notebook_lacks_and_finds_its_folders(
    whole, words, says, tmp_path
):
    """As its users call it, from another folder; a short notebook begins as ours do."""
    content = nbformat.read(NOTEBOOKS / "05_distill.ipynb", as_version=4)
    if not whole:
        parameters, begins = (content.cells[place] for place in (2, 4))
        begins.source = begins.source.splitlines()[0]
        imports = "from dataclasses import fields\nfrom study.parameters import begin"
        first = nbformat.v4.new_code_cell(imports)
        content.cells = [first, parameters, begins, nbformat.v4.new_code_cell(TELLING)]
    nbformat.write(content, tmp_path / "copied.ipynb")
    caller = tmp_path / "caller"
    caller.mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "papermill", "../copied.ipynb", "out.ipynb", *words.split()],
        cwd=caller, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    expected = says.format(home=NOTEBOOKS, caller=caller.resolve())
    told = done.stderr if done.returncode else printed(caller / "out.ipynb")
    assert expected in told, told
    assert bool(done.returncode) == ("notebook 05_distill" in says)
    assert "was started elsewhere" in told or done.returncode
    assert left_behind(caller) == {"out.ipynb"}


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
    with suppress(psutil.NoSuchProcess):
        psutil.Process(int(told.read_text())).wait(15)
    assert not output.exists()
    execute_notebook(notebook(tmp_path), tmp_path / "next.ipynb")  # removes what a kill has left
    assert left_behind(tmp_path) == {"pid", "next.ipynb"}


def test_where_no_output_can_be_written_nothing_is_executed(tmp_path):
    (tmp_path / "file").touch()
    source = notebook(tmp_path, "open('ran', 'w')")
    with pytest.raises(UnwritableError, match=r"/out\.ipynb cannot be written"):
        execute_notebook(source, tmp_path / "file" / "out.ipynb")
    with pytest.raises(KdlibError, match="is a folder"):
        execute_notebook(source, tmp_path)
    assert left_behind(tmp_path) == {"file"}


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
