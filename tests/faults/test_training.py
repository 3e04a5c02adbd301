"""A loss that is not finite; a notebook whose kernel dies, or that takes too long."""

import re
import time
from pathlib import Path

import nbformat
import pytest
import torch
from faults.processes import check_like, copy_of
from training import tiny

from kdlib.errors import KdlibError
from kdlib.files import load_tensors
from kdlib.runs import run_directory
from kdlib.train import fit
from kdlib.trainee import Trainee
from study.notebooks import ExecutionError, execute_notebook


def test_a_loss_that_is_not_finite_after_a_good_epoch(taught, tmp_path, monkeypatch, tally):
    config, root, step = tiny(epochs=3), copy_of(taught, tmp_path / "runs"), Trainee.step

    def spoilt(trainee, *given):
        if trainee.history:  # in the second epoch
            with torch.no_grad():
                next(trainee.student.parameters()).fill_(float("nan"))
        return step(trainee, *given)

    monkeypatch.setattr(Trainee, "step", spoilt)
    with pytest.raises(KdlibError) as caught:
        fit([config], root, progress=False)
    text = str(caught.value)
    assert re.search(r"not finite in epoch 2, step \d+ .*ce nan.*learning rate 0\.\d+", text), text
    directory = run_directory(config, root)
    assert len(load_tensors(directory / "checkpoint.safetensors")[1]["history"]) == 1
    assert not (directory / "record.json").exists()
    tally("loss is NaN", "told")
    monkeypatch.undo()
    fit([config], root, progress=False)
    whole = copy_of(taught, tmp_path / "whole")
    fit([config], whole, progress=False)
    check_like(config, root, whole)
    tally("loss is NaN", "recovered")


def notebook(folder: Path, *cells: str) -> Path:
    content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    content.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python",
                                      "name": "python3"}  # fmt: skip
    nbformat.write(content, folder / "one.ipynb")
    return folder / "one.ipynb"


def test_a_kernel_that_dies(tmp_path, tally):
    source = notebook(tmp_path, "import os, signal", "os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(ExecutionError, match="kernel died"):
        execute_notebook(source, tmp_path / "out.ipynb")
    assert not (tmp_path / "out.ipynb").exists()
    tally("dead kernel", "told")


def test_a_notebook_over_its_time(tmp_path, tally):
    source, start = notebook(tmp_path, "while True: pass"), time.monotonic()
    with pytest.raises(ExecutionError, match="over its time limit of 2 s"):
        execute_notebook(source, tmp_path / "out.ipynb", timeout_s=2)
    assert time.monotonic() - start < 60
    assert not (tmp_path / "out.ipynb").exists()
    tally("notebook over its time limit", "told")
